"""The event log in PostgreSQL: the one place that appends rows, and the one lock for it.

Invariant: notification ids are assigned under the commit-order lock, contiguously; every
commit is one seal in an unbroken chain. Every writer of the log (engine, days, decisions)
takes `lock_log_in_tx` first and holds it to the end of its transaction: what is read after
it are committed facts that nobody else can change, so no other lock is needed and there is
no lock order to get wrong (infra/decisions.md says what was measured).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from psycopg import Connection, Cursor, sql

from ledger.codec import ZERO_SEAL, Row, Seal, copy_bytes, digests_of, seal_of, totals_text
from ledger.errors import LogCorrupt

LOG_CHANNEL = "ledger_log"
LOG_LOCK = 1_145_393_475

LOCK_LOG = "SELECT pg_advisory_xact_lock(%s, hashtext(%s))"
BEGIN_LOCKED = "BEGIN; SELECT pg_advisory_xact_lock({}, hashtext({}))"
SELECT_LAST_SEAL = """
    SELECT last_id, seal, booked_at,
           (SELECT totals FROM {schema}.seals WHERE book_id = %s ORDER BY first_id DESC LIMIT 1)
    FROM {schema}.seals ORDER BY first_id DESC LIMIT 1
"""
COPY_EVENTS = """
    COPY {schema}.{table}
        (originator_id, originator_version, topic, state, notification_id, digest)
    FROM STDIN (FORMAT BINARY)
"""
INSERT_SEAL = """
    WITH sealed AS (
        INSERT INTO {schema}.seals
            (first_id, last_id, book_id, booked_at, totals, previous, seal)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        RETURNING last_id
    )
    SELECT pg_notify(%s, last_id::text) FROM sealed
"""


# For connections: what is read after the log's lock must be seen as it is then, also where the
# database's default is a stricter level, at which the snapshot would be from before the lock.
READ_COMMITTED = r"-c default_transaction_isolation=read\ committed"


class LogEnd(NamedTuple):
    """Where the log ends, as seen under the commit-order lock."""

    last_id: int
    seal: bytes
    booked_at: str
    totals: dict[str, tuple[int, int]]


class Sealed(NamedTuple):
    """Rows ready to be written: their seal, their digests, and the end of the log after them."""

    seal: Seal
    rows: Sequence[Row]
    digests: Sequence[bytes]
    after: LogEnd

    def copy_bytes(self) -> bytes:
        """Pack the rows for COPY."""
        return copy_bytes(self.seal.first_id, self.rows, self.digests)


class Log:
    """SQL of one log, bound to a schema and table name."""

    def __init__(self, schema: str = "ledger", table: str = "stored_events") -> None:
        self.schema = schema
        names = {"schema": sql.Identifier(schema), "table": sql.Identifier(table)}
        self.select_last_seal = sql.SQL(SELECT_LAST_SEAL).format(**names)
        self.copy_events = sql.SQL(COPY_EVENTS).format(**names)
        self.insert_seal = sql.SQL(INSERT_SEAL).format(**names)
        self.begin_locked = sql.SQL(BEGIN_LOCKED).format(sql.Literal(LOG_LOCK), sql.Literal(schema))

    def lock_log_in_tx(self, cursor: Cursor[Any], book_id: str) -> LogEnd:
        """Take the commit-order lock, then read the log's end in a statement of its own."""
        cursor.execute(LOCK_LOG, (LOG_LOCK, self.schema))
        return self.select_end_in_tx(cursor, book_id)

    @contextmanager
    def locked(self, conn: Connection[Any]) -> Iterator[Cursor[Any]]:
        """Run a transaction that holds the commit-order lock; BEGIN and lock are one trip.

        `conn` must be in autocommit. Read the end with `select_end_in_tx`.
        """
        with conn.cursor() as cursor:
            try:
                cursor.execute(self.begin_locked)
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                if not conn.closed:
                    conn.rollback()
                raise

    def select_end_in_tx(self, cursor: Cursor[Any], book_id: str) -> LogEnd:
        """Read where the log ends. Needs the commit-order lock, taken in an earlier statement."""
        cursor.execute(self.select_last_seal, (book_id,), prepare=True)
        row = cursor.fetchone()
        if row is None:
            return LogEnd(0, ZERO_SEAL, "", {})
        last_id, seal, booked_at, totals = row
        return LogEnd(last_id, bytes(seal), booked_at, json.loads(totals) if totals else {})

    def append_in_tx(
        self,
        cursor: Cursor[Any],
        rows: Sequence[Row],
        *,
        end: LogEnd,
        book_id: str,
        booked_at: str,
        totals: Mapping[str, tuple[int, int]],
    ) -> Seal:
        """Seal rows after `end` and write them. Needs the commit-order lock."""
        sealed = seal_rows(rows, end=end, book_id=book_id, booked_at=booked_at, totals=totals)
        self.write_in_tx(cursor, sealed)
        return sealed.seal

    def write_in_tx(self, cursor: Cursor[Any], sealed: Sealed, data: bytes | None = None) -> None:
        """Write sealed rows. Needs the commit-order lock, and the end they were sealed after.

        `data` are the rows as `sealed.copy_bytes` packs them, when that is already done.
        """
        with cursor.copy(self.copy_events) as copy:
            copy.write(sealed.copy_bytes() if data is None else data)
        cursor.execute(self.insert_seal, (*sealed.seal, LOG_CHANNEL), prepare=True)


def seal_rows(
    rows: Sequence[Row],
    *,
    end: LogEnd,
    book_id: str,
    booked_at: str,
    totals: Mapping[str, tuple[int, int]],
) -> Sealed:
    """Give rows their positions after `end`, digests and a seal. Pure.

    `totals` is what the rows add to the book, by currency. Raises `LogCorrupt` when there is
    nothing to append (an empty commit would seal nothing).
    """
    if not rows:
        raise LogCorrupt("a commit without rows cannot be sealed")
    first_id = end.last_id + 1
    digests = digests_of(first_id, rows)
    sums = _sum(end.totals, totals)
    seal = seal_of(
        previous=end.seal,
        first_id=first_id,
        book_id=book_id,
        booked_at=booked_at,
        totals=totals_text(sums),
        digests=digests,
    )
    after = LogEnd(seal.last_id, seal.seal, booked_at, sums)
    return Sealed(seal, rows, digests, after)


def _sum(
    before: Mapping[str, Sequence[int]], added: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, int]]:
    total = {currency: (pair[0], pair[1]) for currency, pair in before.items()}
    for currency, (count, amount_minor) in added.items():
        old = total.get(currency, (0, 0))
        total[currency] = (old[0] + count, old[1] + amount_minor)
    return total
