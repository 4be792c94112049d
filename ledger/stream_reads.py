"""Reads of streams: an account's events and register, an operation's record, the log's end.

Invariant: facts are given as they are stored, byte for byte; what is read in several
statements is read in one snapshot.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from psycopg import Connection, Cursor

from ledger.codec import account_stream, decode_event, operation_stream
from ledger.cursors import cursor_of
from ledger.errors import LogCorrupt, NotFound
from ledger.events import CommandBooked, CommandRejected, OperationBooked, OperationRejected
from ledger.job import status_of
from ledger.reads import SNAPSHOT, select_account_in_tx

SELECT_STREAM = """
    SELECT originator_version, notification_id, split_part(topic, ':', 2), state
    FROM ledger.stored_events
    WHERE originator_id = %s AND originator_version > %s
    ORDER BY originator_version LIMIT %s
"""
SELECT_REGISTER = """
    SELECT originator_version, notification_id, split_part(topic, ':', 2), state
    FROM ledger.stored_events
    WHERE originator_id = %s AND originator_version > %s AND topic = ANY(%s)
    ORDER BY originator_version LIMIT %s
"""
SELECT_FIRST_STATES = """
    SELECT originator_id, state FROM ledger.stored_events
    WHERE originator_id = ANY(%s) AND originator_version = 1
"""
SELECT_OPERATION = """
    SELECT originator_version, notification_id, topic, state
    FROM ledger.stored_events WHERE originator_id = %s ORDER BY originator_version
"""
SELECT_ACCOUNTING_STATUS = """
    SELECT status, reason FROM ledger.accounting_statuses WHERE stream_id = %s
"""
SELECT_LOG = """
    SELECT log_id::text, incarnation,
           coalesce((SELECT last_id FROM ledger.seals ORDER BY first_id DESC LIMIT 1), 0)
    FROM ledger.log
"""
REGISTER_TOPICS = [
    "ledger.recorded:" + name
    for name in (
        "AccountOpened",
        "AccountClosed",
        "AccountFrozen",
        "AccountUnfrozen",
        "AmountFrozen",
        "AmountUnfrozen",
        "AccountLossReported",
        "AccountFound",
        "PaymentStatusSet",
        "ReserveSet",
        "BufferingSet",
        "StripesSet",
        "CreditLimitSet",
        "LimitSet",
        "CourtInquiryRegistered",
    )
]


class StreamEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of an account: its place in the stream and in the log, and the fact itself."""

    version: int
    position: int
    event: str
    fact: msgspec.Raw
    principal: str | None = None


class EventPage(msgspec.Struct, frozen=True):
    """Events by version; `next_cursor` is null on the last page."""

    items: list[StreamEvent]
    next_cursor: str | None


class Follower(msgspec.Struct, frozen=True):
    """An operation that followed this one: refund, capture, stage, correction."""

    position: int
    fact: msgspec.Raw


class OperationState(msgspec.Struct, frozen=True):
    """The permanent record of an operation id, and what has become of it since."""

    operation_id: str
    status: str
    position: int
    accounting_status: str | None
    accounting_reason: str | None
    record: msgspec.Raw
    followed_by: list[Follower]


class LogState(msgspec.Struct, frozen=True):
    """Which log this is and where it ends."""

    log_id: str
    incarnation: int
    position: int


def select_account_events(
    conn: Connection[Any], book_id: str, number: str, *, after: int, limit: int
) -> EventPage:
    """Return an account's events after a version. Raises `NotFound`."""
    stream = uuid.UUID(bytes=account_stream(book_id, number))
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        select_account_in_tx(cursor, book_id, number)
        cursor.execute(SELECT_STREAM, (stream, after, limit + 1))
        rows = cursor.fetchall()
    return _event_page(rows, limit, {})


def select_register(
    conn: Connection[Any], book_id: str, number: str, *, after: int, limit: int
) -> EventPage:
    """Return who changed the account's standing, when, why and by which order."""
    stream = uuid.UUID(bytes=account_stream(book_id, number))
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        select_account_in_tx(cursor, book_id, number)
        cursor.execute(SELECT_REGISTER, (stream, after, REGISTER_TOPICS, limit + 1))
        rows = cursor.fetchall()
        principals = _principals_in_tx(cursor, book_id, rows)
    return _event_page(rows, limit, principals)


class _Registered(msgspec.Struct):
    """What says who: the event itself, or the operation whose leg it was."""

    principal: str | None = None
    operation_id: str | None = None


_decode_registered = msgspec.json.Decoder(_Registered).decode


def _principals_in_tx(cursor: Cursor[Any], book_id: str, rows: list[Any]) -> dict[int, str]:
    """Return the principal of each version; a leg's is in its operation's record."""
    registered = {row[0]: _decode_registered(row[3]) for row in rows}
    principals = {v: r.principal for v, r in registered.items() if r.principal is not None}
    streams = {
        uuid.UUID(bytes=operation_stream(book_id, r.operation_id)): version
        for version, r in registered.items()
        if r.principal is None and r.operation_id is not None
    }
    cursor.execute(SELECT_FIRST_STATES, (list(streams),))
    for stream, state in cursor.fetchall():
        principals[streams[stream]] = _decode_registered(state).principal or ""
    return principals


def _event_page(rows: list[Any], limit: int, principals: dict[int, str]) -> EventPage:
    items = [
        StreamEvent(version, position, name, msgspec.Raw(state), principals.get(version))
        for version, position, name, state in rows[:limit]
    ]
    return EventPage(items, cursor_of(items[-1].version) if len(rows) > limit else None)


def select_operation(conn: Connection[Any], book_id: str, operation_id: str) -> OperationState:
    """Return the record of an operation or command id. Raises `NotFound`."""
    stream = uuid.UUID(bytes=operation_stream(book_id, operation_id))
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        cursor.execute(SELECT_OPERATION, (stream,))
        rows = cursor.fetchall()
        cursor.execute(SELECT_ACCOUNTING_STATUS, (stream,))
        accounting = cursor.fetchone()
    if not rows:
        raise NotFound(f"no operation {operation_id!r} in book {book_id!r}")
    _, position, topic, state = rows[0]
    record = decode_event(topic, state)
    if not isinstance(
        record, OperationBooked | OperationRejected | CommandBooked | CommandRejected
    ):
        raise LogCorrupt(f"position {position}: no record of an operation")
    if record.operation_id != operation_id:
        raise NotFound(f"no operation {operation_id!r} in book {book_id!r}")
    pending = "pending" if isinstance(record, OperationBooked) else None
    return OperationState(
        operation_id,
        status_of(record),
        position,
        accounting[0] if accounting is not None else pending,
        accounting[1] if accounting is not None else None,
        msgspec.Raw(state),
        [Follower(at, msgspec.Raw(fact)) for _, at, _, fact in rows[1:]],
    )


def select_log(conn: Connection[Any]) -> LogState:
    """Return which log this is and its last position."""
    row = conn.execute(SELECT_LOG).fetchone()
    if row is None:
        raise LogCorrupt("the log has no identity")
    return LogState(*row)
