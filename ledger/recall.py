"""What the log already says of operation ids and originals: the reads of a batch.

Invariant: a record is found by its stream id and confirmed by the full operation id in its
state. Reads follow the commit-order lock whenever a plain look-up could say "absent" while
another backend still commits.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import Cursor

from ledger.arrays import uuid_array
from ledger.buffers import BUFFER, BUFFER_PREFIX
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
SELECT_OPERATION_IDS = """
    SELECT DISTINCT convert_from(state, 'UTF8')::jsonb ->> 'operation_id'
    FROM ledger.stored_events WHERE originator_id = %s
"""
SELECT_CHILDREN = """
    SELECT parent, array_agg(number ORDER BY number) FROM ledger.accounts
    WHERE book_id = %s AND parent = ANY(%s) AND status = 'open'
      AND NOT (type = %s AND starts_with(number, %s))
    GROUP BY parent
"""
COUNT_ENDED = """
    SELECT count(*) FROM ledger.accounting_statuses
    WHERE stream_id = ANY(%s) AND status IN ('vouchered', 'non_posting')
"""


def select_children_in_tx(
    cursor: Cursor[Any], book_id: str, numbers: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the open accounts directly below each of these, without their buffer accounts."""
    cursor.execute(SELECT_CHILDREN, (book_id, list(numbers), BUFFER, BUFFER_PREFIX))
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


def has_records_in_tx(cursor: Cursor[Any], streams: Sequence[bytes]) -> bool:
    """Tell whether any of these streams has begun. Needs the commit-order lock."""
    cursor.execute(SELECT_ANY_RECORD, (uuid_array(streams),), prepare=True)
    return cursor.fetchone() is not None


def select_originals_in_tx(
    cursor: Cursor[Any], book_id: str, operation_ids: Iterable[str], types: BusinessTypes
) -> dict[str, Original | None]:
    """Return originals by id, None for ids that no operation has."""
    wanted: dict[str, Original | None] = dict.fromkeys(operation_ids)
    streams = [uuid.UUID(bytes=operation_stream(book_id, i)) for i in wanted]
    cursor.execute(SELECT_ORIGINALS, (streams,))
    for first_topic, first_state, last_topic, last_state, version in cursor.fetchall():
        first = decode_event(first_topic, first_state)
        last = decode_event(last_topic, last_state)
        followed = last if isinstance(last, OperationFollowed) else None
        original = known_original(first, followed, version, types)
        if original is not None:
            wanted[original.operation_id] = original
    return wanted


def has_unvouchered_in_tx(cursor: Cursor[Any], book_id: str, number: str) -> bool:
    """Tell whether accounting has not yet ended an operation that touched the account."""
    cursor.execute(SELECT_OPERATION_IDS, (uuid.UUID(bytes=account_stream(book_id, number)),))
    ids = [operation_id for (operation_id,) in cursor.fetchall() if operation_id is not None]
    streams = [uuid.UUID(bytes=operation_stream(book_id, operation_id)) for operation_id in ids]
    cursor.execute(COUNT_ENDED, (streams,))
    row = cursor.fetchone()
    return row is None or row[0] < len(streams)
