"""Books and their open business date: opened and moved by command, never by a clock.

Invariant: `DayOpened` is written under the commit-order lock, so no batch of the book is
between its dates; after it nothing dated before the open day is appended.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from psycopg import Connection, Cursor

from ledger.accepted import select_waiting_in_tx
from ledger.batch import decide_batch
from ledger.business_types import BusinessTypes, load_business_types
from ledger.clock import booked_at_in_tx, utc_now
from ledger.codec import book_stream, row_of
from ledger.errors import DayRefused, InvalidRequest, NotFound
from ledger.events import BookOpened, DayOpened
from ledger.failover import require_commits
from ledger.head_cache import HeadCache
from ledger.heads import write_heads_in_tx
from ledger.job import Decided, Job, Missing
from ledger.loading import Wanted, load_in_tx
from ledger.log import Log, LogEnd

SELECT_BOOK = """
    SELECT book_id, name, open_business_date, closed_through, version
    FROM ledger.books WHERE book_id = %s
"""
SELECT_BOOKS = """
    SELECT book_id, name, open_business_date, closed_through, version
    FROM ledger.books ORDER BY book_id
"""
INSERT_BOOK = """
    INSERT INTO ledger.books (book_id, name, open_business_date, closed_through, version)
    VALUES (%s, %s, %s, NULL, 1)
"""
UPDATE_BOOK = """
    UPDATE ledger.books SET open_business_date = %s, closed_through = %s, version = %s
    WHERE book_id = %s
"""


Clock = Callable[[], dt.datetime]


class Book(msgspec.Struct, frozen=True):
    """One legal entity's set of accounts, and the day it books into."""

    book_id: str
    name: str
    open_business_date: dt.date
    closed_through: dt.date | None
    version: int


def select_book(conn: Connection[Any], book_id: str) -> Book:
    """Return a book. Raises `NotFound`."""
    row = conn.execute(SELECT_BOOK, (book_id,)).fetchone()
    if row is None:
        raise NotFound(f"no book {book_id!r}")
    return Book(*row)


def select_books(conn: Connection[Any]) -> list[Book]:
    """Return all books by id."""
    return [Book(*row) for row in conn.execute(SELECT_BOOKS).fetchall()]


def open_book(
    conn: Connection[Any],
    book_id: str,
    name: str,
    open_date: dt.date,
    *,
    principal: str,
    clock: Clock = utc_now,
) -> Book:
    """Open a book with its first business date; opening it again returns what is there.

    Raises `InvalidRequest` for a name that cannot be one, `ClockAhead`, and
    psycopg.OperationalError where nothing can be committed now.
    """
    if not 1 <= len(book_id) <= 64 or not book_id.isprintable() or "/" in book_id:
        raise InvalidRequest(f"{book_id!r} cannot name a book")
    require_commits(conn)
    with conn.transaction(), conn.cursor() as cursor:
        end = Log().lock_log_in_tx(cursor, book_id)
        row = conn.execute(SELECT_BOOK, (book_id,)).fetchone()
        if row is not None:
            return Book(*row)
        conn.execute(INSERT_BOOK, (book_id, name, open_date))
        at = booked_at_in_tx(cursor, end, clock())
        opened = BookOpened(book_id, name, open_date.isoformat(), at, principal)
        _append_in_tx(cursor, end, 1, opened)
    return Book(book_id, name, open_date, None, 1)


def open_day(
    conn: Connection[Any],
    book_id: str,
    date: dt.date,
    *,
    principal: str,
    clock: Clock = utc_now,
    types: BusinessTypes | None = None,
) -> Book:
    """Move the open business date forward. The same date again changes nothing.

    What was accepted for the day that closes is applied in it first, in the same commit.

    Raises `NotFound` for an unknown book, `DayRefused` for a date in the past of the book,
    `ClockAhead`, and psycopg.OperationalError where nothing can be committed now.
    """
    require_commits(conn)
    with conn.transaction(), conn.cursor() as cursor:
        end = Log().lock_log_in_tx(cursor, book_id)
        book = select_book(conn, book_id)
        if date == book.open_business_date:
            return book
        if date < book.open_business_date:
            raise DayRefused(f"the open day is {book.open_business_date}; days only move forward")
        at = booked_at_in_tx(cursor, end, clock())
        applied = _applied_in_tx(cursor, book_id, at, types or load_business_types())
        closed = date - dt.timedelta(days=1)
        conn.execute(UPDATE_BOOK, (date, closed, book.version + 1, book_id))
        previous = book.open_business_date.isoformat()
        opened = DayOpened(book_id, date.isoformat(), previous, at, principal)
        _append_in_tx(cursor, end, book.version + 1, opened, applied)
    return Book(book_id, book.name, date, closed, book.version + 1)


def _applied_in_tx(
    cursor: Cursor[Any], book_id: str, booked_at: str, types: BusinessTypes
) -> Decided:
    """Apply every buffer of the book on the day that still is open; write the heads."""
    waiting = select_waiting_in_tx(cursor, book_id)
    job = Job(book_id=book_id, submissions=(), apply=waiting, due_only=False)
    wanted = Wanted.by([job])
    while True:
        loaded = load_in_tx(cursor, book_id, wanted, types, HeadCache())
        try:
            decided = decide_batch([job], loaded, types, booked_at)
        except Missing as missing:
            wanted.extend(missing)
            continue
        write_heads_in_tx(cursor, loaded.accounts, decided.touched, decided.opened)
        return decided


def _append_in_tx(
    cursor: Cursor[Any],
    end: LogEnd,
    version: int,
    event: BookOpened | DayOpened,
    applied: Decided | None = None,
) -> None:
    row = row_of(book_stream(event.book_id), version, event)
    Log().append_in_tx(
        cursor,
        [row] if applied is None else [*applied.rows, row],
        end=end,
        book_id=event.book_id,
        booked_at=event.booked_at,
        totals={} if applied is None else applied.totals,
    )


def book_uuid(book_id: str) -> uuid.UUID:
    """Return the id of a book's stream."""
    return uuid.UUID(bytes=book_stream(book_id))
