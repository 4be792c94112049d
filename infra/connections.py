"""Connections to PostgreSQL with a deadline on everything: connect, lock, statement, silence.

Invariant: no call to the database waits for ever, whoever makes it.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection, Error
from psycopg_pool import ConnectionPool

from infra.settings import Settings
from ledger.deadlines import DEADLINES
from ledger.failover import CommittingConnection
from ledger.log import READ_COMMITTED

POOL_WAIT_S = 2.0  # also how long the pool tries before it waits to be asked again


def connection_options(settings: Settings, application_name: str) -> dict[str, Any]:
    """Return what `psycopg.connect` takes beside the address."""
    statement_ms = int(settings.statement_timeout_s * 1_000)
    lock_ms = int(settings.lock_timeout_s * 1_000)
    return {
        "autocommit": True,
        **DEADLINES,
        "application_name": application_name,
        "options": (
            f"-c statement_timeout={statement_ms} -c lock_timeout={lock_ms} "
            f"-c idle_in_transaction_session_timeout={statement_ms} -c timezone=UTC "
            f"{READ_COMMITTED}"
        ),
    }


def connect(url: str, settings: Settings, application_name: str) -> Connection[Any]:
    """Open a connection in autocommit: transactions are always written out."""
    return CommittingConnection.connect(url, **connection_options(settings, application_name))


def connection_pool(
    url: str, settings: Settings, application_name: str
) -> ConnectionPool[Connection[Any]]:
    """Return a pool, not yet open; a connection that died is found out before it is used.

    What cut one connection has most likely cut the others: all are made anew at once. Else a caller
    meets one dead connection after the other, the pool pauses longer after each, and the caller's
    time is over while the database would have answered.
    """

    def check(conn: Connection[Any]) -> None:
        try:
            pool.check_connection(conn)
        except Error:
            pool.drain()
            raise

    pool: ConnectionPool[Connection[Any]] = ConnectionPool(
        url,
        connection_class=CommittingConnection,
        kwargs=connection_options(settings, application_name),
        min_size=1,
        max_size=settings.pool_size_max,
        timeout=POOL_WAIT_S,
        reconnect_timeout=POOL_WAIT_S,
        check=check,
        open=False,
        name=application_name,
    )
    return pool
