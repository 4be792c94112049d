"""An address with several hosts: the one to work on is the one that commits.

After a failover the old primary may come back and be written to, because nobody has told it that it
was replaced. Its commits wait for a standby that no longer follows it; but what it had written
before its end, and nobody else has, can be read there, and a repeat would be answered from it.
Invariant: of several hosts, none is believed before a transaction has been committed there. (Where
the old primary needs no standby for its commits nothing tells the two apart: infra/operations.md.)

No timeout of the server ends a wait for a standby that is gone. So who writes beside the engine, in
a request or a command, proves first that somebody commits, also where there is one host only.
"""

from __future__ import annotations

import select
import time
from typing import Any, Self

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import ExecStatus

COMMIT_PATIENCE_S = 5.0
# Writes to the log of the server and to no table: the commit waits for whom every commit waits.
COMMIT = b"SELECT pg_logical_emit_message(true, 'daybook', 'who commits?')"


class CommittingConnection(Connection[Any]):
    """A connection to the first of the address's hosts that commits; with one host, to that."""

    PROVED_FROM_HOSTS = 2

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Self:
        """Connect in autocommit; raises psycopg.OperationalError when no host commits."""
        hosts = hosts_of(conninfo)
        if len(hosts) < cls.PROVED_FROM_HOSTS:
            return super().connect(conninfo, **options)
        errors: list[str] = []
        for host in hosts or [{}]:
            try:
                conn = super().connect(make_conninfo(conninfo, **host), **options)
            except psycopg.OperationalError as error:
                errors.append(str(error).strip())
                continue
            try:
                require_commits(conn)
            except psycopg.OperationalError as error:
                errors.append(str(error))
            else:
                return conn
        raise psycopg.OperationalError("; ".join(errors))


class ProvenConnection(CommittingConnection):
    """The same for what writes in a request or a command: a lone host is proved as well."""

    PROVED_FROM_HOSTS = 1


def require_commits(conn: Connection[Any]) -> None:
    """Commit something on an idle connection; raise psycopg.OperationalError, and close it, if the
    server has not done so in COMMIT_PATIENCE_S."""
    if not _commits(conn):
        place = f"{conn.info.host}, {conn.info.port}"
        conn.close()
        raise psycopg.OperationalError(
            f"{place} does not commit: is its standby gone, or its master?"
        )


def address_of(conn: Connection[Any]) -> str:
    """Give the address of the one host that a connection is on, for somebody else to go there."""
    return make_conninfo(conn.info.dsn, password=conn.info.password or None)


def hosts_of(conninfo: str) -> list[dict[str, str]]:
    """Split an address into its hosts, each with its own parameters."""
    given = conninfo_to_dict(conninfo)
    lists = {
        name: str(given[name]).split(",")
        for name in ("host", "hostaddr", "port")
        if given.get(name) is not None
    }
    count = max((len(values) for values in lists.values()), default=0)
    return [
        {name: values[number if len(values) > 1 else 0] for name, values in lists.items()}
        for number in range(count)
    ]


def _commits(conn: Connection[Any]) -> bool:
    """Commit something; False when the server has not answered in time."""
    deadline = time.monotonic() + COMMIT_PATIENCE_S
    server = conn.pgconn
    server.send_query(COMMIT)
    server.flush()
    committed = False
    while True:
        while server.is_busy():
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([server.socket], [], [], left_s)[0]:
                return False
            server.consume_input()
        result = server.get_result()
        if result is None:
            return committed
        committed = result.status == ExecStatus.TUPLES_OK
