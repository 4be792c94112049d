"""What waits on buffer accounts, in PostgreSQL: read and written with the heads.

Invariant: a row is there exactly while something waits, and equals the fold of the buffer
account's stream; so the table has at most as many rows as there are hot accounts.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from psycopg import Connection, Cursor

from ledger.account import Accepted, Account
from ledger.backlog import BufferedAmount, Buffers
from ledger.buffers import BUFFER
from ledger.codec import account_stream

SELECT_ACCEPTED = """
    SELECT account_id, accepted_since, entries, debits, credits
    FROM ledger.accepted WHERE account_id = ANY(%s) ORDER BY account_id
"""
DELETE_ACCEPTED = "DELETE FROM ledger.accepted WHERE account_id = %s"
UPSERT_ACCEPTED = """
    INSERT INTO ledger.accepted (account_id, accepted_since, entries, debits, credits)
    VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT ON CONSTRAINT accepted_pkey DO UPDATE SET
        accepted_since = excluded.accepted_since, entries = excluded.entries,
        debits = excluded.debits, credits = excluded.credits
"""
SELECT_WAITING = """
    SELECT a.book_id, a.number,
           to_char(w.accepted_since::timestamptz AT TIME ZONE 'UTC'
                   + a.buffer_ms / 2 * interval '1 millisecond',
                   'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS due_at
    FROM ledger.accepted AS w
    JOIN ledger.accounts AS b USING (account_id)
    JOIN ledger.accounts AS a ON a.book_id = b.book_id AND a.number = b.parent
    ORDER BY due_at, a.book_id, a.number LIMIT %s
"""
SELECT_WAITING_IN_BOOK = """
    SELECT b.parent FROM ledger.accepted AS w JOIN ledger.accounts AS b USING (account_id)
    WHERE b.book_id = %s ORDER BY b.parent
"""
SELECT_DEPTH = """
    SELECT b.currency, count(*), sum(w.entries)::bigint, sum(w.debits)::bigint,
           sum(w.credits)::bigint, min(w.accepted_since),
           count(*) FILTER (WHERE w.accepted_since::timestamptz
                                  + a.buffer_ms * interval '1 millisecond' < %(now)s)
    FROM ledger.accepted AS w
    JOIN ledger.accounts AS b USING (account_id)
    JOIN ledger.accounts AS a ON a.book_id = b.book_id AND a.number = b.parent
    WHERE %(book)s::text IS NULL OR b.book_id = %(book)s
    GROUP BY b.currency ORDER BY b.currency
"""


def select_buffers(conn: Connection[Any], now: dt.datetime, book_id: str | None) -> Buffers:
    """Return depth and age of the buffers of a book, or of all."""
    rows = conn.execute(SELECT_DEPTH, {"now": now, "book": book_id}).fetchall()
    if not rows:
        return Buffers()
    oldest = dt.datetime.fromisoformat(min(row[5] for row in rows))
    return Buffers(
        accounts=sum(row[1] for row in rows),
        entries=sum(row[2] for row in rows),
        late=sum(row[6] for row in rows),
        oldest_s=round(max((now - oldest).total_seconds(), 0.0), 3),
        amounts=tuple(BufferedAmount(row[0], row[3], row[4]) for row in rows),
    )


def select_accepted_in_tx(
    cursor: Cursor[Any], account_ids: list[uuid.UUID]
) -> Iterator[tuple[uuid.UUID, Accepted]]:
    """Return what waits on buffer accounts, by their ids."""
    cursor.execute(SELECT_ACCEPTED, (account_ids,))
    for account_id, *fields in cursor.fetchall():
        yield account_id, Accepted(*fields)


def write_accepted_in_tx(
    cursor: Cursor[Any], before: Mapping[str, Account | None], after: Mapping[str, Account]
) -> None:
    """Write what waits on the buffer accounts; a row is there only while something waits."""
    for number, account in after.items():
        if account.type != BUFFER:
            continue
        old = before.get(number)
        was = None if old is None else old.accepted
        if was is account.accepted:
            continue
        account_id = uuid.UUID(bytes=account_stream(account.book_id, number))
        if account.accepted is None:
            cursor.execute(DELETE_ACCEPTED, (account_id,))
        else:
            cursor.execute(
                UPSERT_ACCEPTED, (account_id, *msgspec.structs.astuple(account.accepted))
            )


def select_due_in_tx(
    cursor: Cursor[Any], now: str, limit: int
) -> tuple[dict[str, tuple[str, ...]], str | None]:
    """Return, by book, accounts whose buffers are due, and when the next one is."""
    cursor.execute(SELECT_WAITING, (limit,))
    found: dict[str, tuple[str, ...]] = {}
    for book_id, number, due_at in cursor.fetchall():
        if due_at > now:
            return found, due_at
        found[book_id] = (*found.get(book_id, ()), number)
    return found, None


def select_waiting_in_tx(cursor: Cursor[Any], book_id: str) -> tuple[str, ...]:
    """Return the accounts of a book for which something waits to be applied."""
    cursor.execute(SELECT_WAITING_IN_BOOK, (book_id,))
    return tuple(number for (number,) in cursor.fetchall())
