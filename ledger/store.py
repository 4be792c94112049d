"""The event store as the `eventsourcing` library knows it, with our way of inserting.

`DaybookRecorder` is the library's PostgresApplicationRecorder with one change: rows enter by
binary COPY under the commit-order lock, with digests and a seal, and are never retried (a
retry after a lost COMMIT reply would book twice). Invariant: this and `ledger/engine.py`
append through `ledger/log.py`; nothing else writes the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import (
    PostgresApplicationRecorder,
    PostgresDatastore,
    PostgresFactory,
)
from eventsourcing.utils import Environment
from psycopg.rows import dict_row, tuple_row
from psycopg.sql import SQL, Identifier

from ledger.clock import booked_at_in_tx, utc_now
from ledger.codec import Row
from ledger.deadlines import DEADLINES
from ledger.failover import ProvenConnection
from ledger.log import READ_COMMITTED, Log

ADDRESS = "POSTGRES_ADDRESS"
LOCK_TIMEOUT = "POSTGRES_LOCK_TIMEOUT_OF_LOG"  # as PostgreSQL writes it: 10s
NO_BOOK = ""  # seals of decisions that belong to no single book


class DaybookRecorder(PostgresApplicationRecorder):
    """The library's recorder on the ledger's log. Source of the contract: eventsourcing 9.5."""

    def __init__(
        self, datastore: PostgresDatastore, *, events_table_name: str = "stored_events"
    ) -> None:
        super().__init__(datastore, events_table_name=events_table_name)
        self.log = Log(datastore.schema, events_table_name)
        self.clock = utc_now
        names = {
            "schema": Identifier(datastore.schema),
            "table": Identifier(events_table_name),
            "id_type": Identifier(datastore.originator_id_type),
        }
        self.sql_create_statements[self.create_table_statement_index] = SQL(
            "CREATE TABLE IF NOT EXISTS {schema}.{table} ("
            "originator_id {id_type} NOT NULL, originator_version bigint NOT NULL, "
            "topic text, state bytea, notification_id bigserial, digest bytea NOT NULL, "
            "PRIMARY KEY (originator_id, originator_version))"
        ).format(**names)
        self.sql_create_statements.append(
            SQL(
                "CREATE TABLE IF NOT EXISTS {schema}.seals ("
                "first_id bigint PRIMARY KEY, last_id bigint NOT NULL, book_id text NOT NULL, "
                "booked_at text NOT NULL, totals text NOT NULL, "
                "previous bytea NOT NULL UNIQUE, seal bytea NOT NULL)"
            ).format(**names)
        )

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        *,
        guard_in_tx: Callable[[Any], None] = lambda _cursor: None,
        **_kwargs: Any,
    ) -> Sequence[int] | None:
        """Append in one transaction; return the positions. Never retried.

        `guard_in_tx` looks at the log under its lock and raises what speaks against it.
        """
        if not stored_events:
            return None
        rows = [_row_of(event) for event in stored_events]
        with (
            self.datastore.get_connection() as conn,
            conn.transaction(),
            conn.cursor(row_factory=tuple_row) as cursor,
        ):
            end = self.log.lock_log_in_tx(cursor, NO_BOOK)
            guard_in_tx(cursor)
            seal = self.log.append_in_tx(
                cursor,
                rows,
                end=end,
                book_id=NO_BOOK,
                booked_at=booked_at_in_tx(cursor, end, self.clock()),
                totals={},
            )
            with conn.cursor() as notifier:
                self._notify_channel(notifier)
        return list(range(seal.first_id, seal.last_id + 1))


def _row_of(event: StoredEvent) -> Row:
    originator_id = event.originator_id
    if isinstance(originator_id, str):
        originator_id = UUID(originator_id)
    return Row(originator_id.bytes, event.originator_version, event.topic.encode(), event.state)


class Factory(PostgresFactory):
    """Makes `PERSISTENCE_MODULE=ledger.store:Factory` mean this recorder.

    With ADDRESS the pool connects by all that the address says. Of its own the library takes host,
    user and password only: no TLS, not which of two hosts is meant, and no deadline for a lock.
    """

    application_recorder_class = DaybookRecorder

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        address = env.get(ADDRESS)
        if address is None:
            return
        pool = self.datastore.pool  # it has not connected yet
        pool.connection_class = ProvenConnection
        pool.conninfo = address
        pool.kwargs = {
            "autocommit": True,
            "row_factory": dict_row,
            "application_name": "daybook-decisions",
            "options": f"-c lock_timeout={env.get(LOCK_TIMEOUT)} {READ_COMMITTED}",
            **DEADLINES,
        }
