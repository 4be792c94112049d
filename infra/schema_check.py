"""What a process asks of the schema: at its start, and whenever somebody asks whether it is ready.

Invariant: no process starts on a schema that is older or newer than its own. One that runs while
the schema moves on goes on (a migration never breaks the program before it) and says so.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import psycopg
import structlog
from psycopg import Connection

from infra.schema import MIGRATIONS, SchemaRefused, read_migrations, schema_standing
from infra.settings import Settings
from ledger.deadlines import DEADLINES
from ledger.failover import CommittingConnection
from ledger.schema_state import SchemaState

log = structlog.get_logger("infra.schema")


class SchemaCheck:
    """Knows the program's migrations, and whether the database once had exactly these."""

    def __init__(self) -> None:
        self._migrations = read_migrations(MIGRATIONS)
        self._was_current = False

    def state(self, conn: Connection[Any]) -> SchemaState:
        """Say how the schema stands; newer is usable for a process that began before it was."""
        found = schema_standing(conn, self._migrations)
        if found.standing == "current":
            self._was_current = True
            return SchemaState(usable=True, words="ok")
        usable = found.standing == "newer" and self._was_current
        return SchemaState(usable=usable, words=found.words)


def refuse_schema(url: str) -> None:
    """Raise `SchemaRefused` for a schema that is not this program's; without a database, nothing.

    An API process starts without its database: its readiness looks at the schema again.
    """
    with (
        contextlib.suppress(psycopg.OperationalError),
        CommittingConnection.connect(url, autocommit=True, **DEADLINES) as conn,
    ):
        state = SchemaCheck().state(conn)
        if not state.usable:
            raise SchemaRefused(state.words)


def require_schema(settings: Settings, url: str, stop: threading.Event) -> None:
    """Wait for the database, then raise `SchemaRefused` unless its schema is this program's."""
    pause_s = 0.1
    while not stop.is_set():
        try:
            with CommittingConnection.connect(url, autocommit=True, **DEADLINES) as conn:
                state = SchemaCheck().state(conn)
        except psycopg.OperationalError as error:
            log.error("database_unavailable", error=str(error).strip(), retry_s=pause_s)
            stop.wait(pause_s)
            pause_s = min(pause_s * 2, settings.retry_pause_s_max)
        else:
            if not state.usable:
                raise SchemaRefused(state.words)
            return
