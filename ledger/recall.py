"""What the log already says of operation ids and originals: the reads of a batch.

Invariant: a record is found by its stream id and confirmed by the full operation id in its
state. Reads follow the commit-order lock whenever a plain look-up could say "absent" while
another backend still commits.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import Connection, Cursor

from ledger.arrays import UuidArray, uuid_array
from ledger.buffers import BUFFER, BUFFER_PREFIX, buffer_number
from ledger.business_types import BusinessTypes
from ledger.codec import account_stream, decode_event, operation_stream
from ledger.errors import LogCorrupt
from ledger.events import (
    CommandBooked,
    CommandRejected,
    OperationBooked,
    OperationFollowed,
    OperationRejected,
)
from ledger.job import Recorded
from ledger.original import Original, known_original
from ledger.stripes import STRIPE, STRIPE_PREFIX, stripe_number

SELECT_RECORDS = """
    SELECT topic, state, notification_id FROM ledger.stored_events
    WHERE originator_id = ANY(%s) AND originator_version = 1
"""
SELECT_ANY_RECORD = """
    SELECT 1 FROM ledger.stored_events
    WHERE originator_id = ANY(%s) AND originator_version = 1 LIMIT 1
"""
SELECT_ORIGINALS = """
    SELECT first.topic, first.state, last.topic, last.state, last.originator_version
    FROM unnest(%s::uuid[]) AS wanted (id)
    JOIN ledger.stored_events AS first
      ON first.originator_id = wanted.id AND first.originator_version = 1
    CROSS JOIN LATERAL (
        SELECT topic, state, originator_version FROM ledger.stored_events
        WHERE originator_id = wanted.id ORDER BY originator_version DESC LIMIT 1
    ) AS last
"""
EVENTS_AT_ONCE = 2_000
SELECT_OPERATION_IDS = """
    SELECT originator_version, convert_from(state, 'UTF8')::jsonb ->> 'operation_id'
    FROM ledger.stored_events WHERE originator_id = %s AND originator_version > %s
    ORDER BY originator_version LIMIT %s
"""
SELECT_LAST_OPERATION_IDS = """
    SELECT originator_version, convert_from(state, 'UTF8')::jsonb ->> 'operation_id'
    FROM ledger.stored_events WHERE originator_id = %s
    ORDER BY originator_version DESC LIMIT %s
"""
SELECT_EMPTY = """
    SELECT coalesce(stripes_opened, 0) FROM ledger.accounts
    WHERE book_id = %s AND number = %s AND status = 'open' AND balance = 0 AND held = 0
"""
SELECT_CHILDREN = """
    SELECT parent, array_agg(number ORDER BY number) FROM ledger.accounts
    WHERE book_id = %s AND parent = ANY(%s) AND status = 'open'
      AND NOT (type = %s AND starts_with(number, %s))
      AND NOT (type = %s AND starts_with(number, %s)
               AND right(number, length(parent) + 1) = '-' || parent)
    GROUP BY parent
"""
COUNT_ENDED = """
    SELECT count(*) FROM ledger.accounting_statuses
    WHERE stream_id = ANY(%s) AND status IN ('vouchered', 'non_posting')
"""


def select_children_in_tx(
    cursor: Cursor[Any], book_id: str, numbers: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the open accounts directly below each of these, without the engine's own."""
    values = (book_id, list(numbers), BUFFER, BUFFER_PREFIX, STRIPE, STRIPE_PREFIX)
    cursor.execute(SELECT_CHILDREN, values)
    return {parent: tuple(children) for parent, children in cursor.fetchall()}


def select_records_in_tx(
    cursor: Cursor[Any], book_id: str, operation_ids: Iterable[str]
) -> dict[str, Recorded]:
    """Return the permanent record of each id that has one."""
    streams = [operation_stream(book_id, operation_id) for operation_id in operation_ids]
    if not streams:
        return {}
    cursor.execute(SELECT_RECORDS, (uuid_array(streams),), prepare=True, binary=True)
    records: dict[str, Recorded] = {}
    for topic, state, position in cursor.fetchall():
        event = decode_event(topic, state)
        if not isinstance(
            event, OperationBooked | OperationRejected | CommandBooked | CommandRejected
        ):
            raise LogCorrupt(f"position {position}: no record of an operation")
        records[event.operation_id] = Recorded(event, position=position)
    return records


def has_records_in_tx(cursor: Cursor[Any], streams: UuidArray) -> bool:
    """Tell whether any of these streams has begun. Needs the commit-order lock."""
    cursor.execute(SELECT_ANY_RECORD, (streams,), prepare=True)
    return cursor.fetchone() is not None


def select_originals_in_tx(
    cursor: Cursor[Any], book_id: str, operation_ids: Iterable[str], types: BusinessTypes
) -> dict[str, Original | None]:
    """Return originals by id, None for ids that no operation has."""
    wanted: dict[str, Original | None] = dict.fromkeys(operation_ids)
    streams = uuid_array([operation_stream(book_id, i) for i in wanted])
    cursor.execute(SELECT_ORIGINALS, (streams,), prepare=True, binary=True)
    for first_topic, first_state, last_topic, last_state, version in cursor.fetchall():
        first = decode_event(first_topic, first_state)
        last = decode_event(last_topic, last_state)
        followed = last if isinstance(last, OperationFollowed) else None
        original = known_original(first, followed, version, types)
        if original is not None:
            wanted[original.operation_id] = original
    return wanted


def has_unvouchered_in_tx(
    cursor: Cursor[Any], book_id: str, number: str, ended_through: int = 0
) -> bool:
    """Tell whether accounting has not yet ended an operation that touched the account.

    Up to version `ended_through` it is known that it has. What came last is looked at first: it
    is the likeliest, and everybody waits for the log's lock meanwhile.
    """
    cursor.execute(SELECT_LAST_OPERATION_IDS, (_stream_id(book_id, number), EVENTS_AT_ONCE))
    if not _have_ended(cursor, book_id, [found for _, found in cursor.fetchall()]):
        return True
    return not _ended_through(cursor, book_id, number, ended_through)[1]


def select_ended_through(conn: Connection[Any], book_id: str, number: str) -> dict[str, int]:
    """Return the versions, of the account and what is its own, up to which operations have ended.

    It takes seconds for a million events, so it is asked without the lock; an operation that has
    ended stays so. Nothing when the account cannot be closed for another reason.
    """
    with conn.cursor() as cursor:
        empty = cursor.execute(SELECT_EMPTY, (book_id, number)).fetchone()
        if empty is None:
            return {}
        stripes = [stripe_number(number, each) for each in range(1, empty[0] + 1)]
        return {
            each: _ended_through(cursor, book_id, each, 0)[0]
            for each in (number, buffer_number(number), *stripes)
        }


def _ended_through(
    cursor: Cursor[Any], book_id: str, number: str, version: int
) -> tuple[int, bool]:
    """Go up from a version while all has ended; return how far, and whether that is the end."""
    while True:
        found = (_stream_id(book_id, number), version, EVENTS_AT_ONCE)
        rows = cursor.execute(SELECT_OPERATION_IDS, found).fetchall()
        if not rows:
            return version, True
        if not _have_ended(cursor, book_id, [operation_id for _, operation_id in rows]):
            return version, False
        version = rows[-1][0]


def _have_ended(cursor: Cursor[Any], book_id: str, operation_ids: Iterable[str | None]) -> bool:
    ids = {each for each in operation_ids if each is not None}
    streams = [uuid.UUID(bytes=operation_stream(book_id, each)) for each in ids]
    row = cursor.execute(COUNT_ENDED, (streams,)).fetchone()
    return row is not None and row[0] == len(streams)


def _stream_id(book_id: str, number: str) -> uuid.UUID:
    return uuid.UUID(bytes=account_stream(book_id, number))
