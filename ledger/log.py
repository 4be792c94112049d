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
from psycopg.pq import TransactionStatus

from ledger.codec import ZERO_SEAL, Row, Seal, copy_bytes, digests_of, seal_of, totals_text
from ledger.errors import LogCorrupt

LOG_CHANNEL = "ledger_log"
LOG_LOCK = 1_145_393_475

LOCK_LOG = "SELECT pg_advisory_xact_lock(%s, hashtext(%s))"
BEGIN_LOCKED = "BEGIN; SELECT pg_advisory_xact_lock({}, hashtext({}))"
BEGIN_ENTERED = """
    BEGIN;
    SELECT last_id, seal, booked_at, totals, open_date, closed_through,
           touched_books, touched_numbers
    FROM ledger.enter_log({}, {}, {})
"""  # the function takes the lock first
FOREIGN_ROWS_MAX = 2_000  # above it, what they touched is not told one by one
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


class Entry(NamedTuple):
    """What is so while the lock is held: the end of the log, the book's days, and what changed.

    `days` are the open day and the one it is closed through, None for a book that was never opened.
    `touched`: the accounts, by book and number, of every event since the seal that the caller
    knew; None when nobody can say.
    """

    end: LogEnd
    days: tuple[str, str | None] | None
    touched: list[tuple[str, str]] | None


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
        with _locked_by(conn, self.begin_locked) as cursor:
            yield cursor

    @contextmanager
    def entered(
        self, conn: Connection[Any], book_id: str, known: bytes
    ) -> Iterator[tuple[Cursor[Any], Entry]]:
        """As `locked`, and the trip brings what a batch of a book must know (`Entry`).

        `known` is the seal up to which the caller knows the log.
        """
        begin = sql.SQL(BEGIN_ENTERED).format(book_id, known, FOREIGN_ROWS_MAX)
        with _locked_by(conn, begin) as cursor:
            cursor.nextset()
            row = cursor.fetchone()
            assert row is not None, "the function returns one row"
            yield cursor, _entry(*row)

    def select_end_in_tx(self, cursor: Cursor[Any], book_id: str) -> LogEnd:
        """Read where the log ends. Needs the commit-order lock, taken in an earlier statement."""
        cursor.execute(self.select_last_seal, (book_id,), prepare=True)
        row = cursor.fetchone()
        return _end(*(row or (None, None, None, None)))

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


@contextmanager
def _locked_by(conn: Connection[Any], begin: sql.Composed) -> Iterator[Cursor[Any]]:
    """Run a transaction that begins so; its end may have been sent with its last statement."""
    with conn.cursor() as cursor:
        try:
            cursor.execute(begin)
            yield cursor
            if conn.info.transaction_status != TransactionStatus.IDLE:
                cursor.execute("COMMIT")
        except BaseException:
            if not conn.closed:
                conn.rollback()
            raise


def _entry(
    last_id: int | None,
    seal: bytes | None,
    booked_at: str | None,
    totals: str | None,
    open_date: str | None,
    closed_through: str | None,
    books: list[str] | None,
    numbers: list[str] | None,
) -> Entry:
    end = _end(last_id, seal, booked_at, totals)
    days = None if open_date is None else (open_date, closed_through)
    touched = None if books is None or numbers is None else list(zip(books, numbers, strict=True))
    return Entry(end, days, touched)


def _end(
    last_id: int | None, seal: bytes | None, booked_at: str | None, totals: str | None
) -> LogEnd:
    if last_id is None or seal is None or booked_at is None:
        return LogEnd(0, ZERO_SEAL, "", {})
    return LogEnd(last_id, bytes(seal), booked_at, json.loads(totals) if totals else {})


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
