"""Reads of streams: an account's events and register, an operation's record, the log's end.

Invariant: facts are given as they are stored, byte for byte; what is read in several
statements is read in one snapshot; an account with stripes is one account, its events those of
all parts in the log's order.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection, Cursor

from ledger.codec import account_stream, decode_event, operation_stream
from ledger.cursors import cursor_of
from ledger.errors import InvalidRequest, LogCorrupt, NotFound
from ledger.events import (
    CommandBooked,
    CommandRejected,
    OperationBooked,
    OperationRejected,
    TouchedAccount,
)
from ledger.job import status_of
from ledger.reads import SNAPSHOT, select_account_in_tx, select_stripes_in_tx
from ledger.stripes import stripe_numbers

SELECT_STREAM = """
    SELECT originator_version, notification_id, split_part(topic, ':', 2), state
    FROM ledger.stored_events
    WHERE originator_id = %s AND originator_version > %s
    ORDER BY originator_version LIMIT %s
"""
# The next events of each part, of which the first ones of all are the page.
SELECT_STREAMS = """
    SELECT e.originator_version, e.notification_id, split_part(e.topic, ':', 2), e.state, part.no
    FROM unnest(%s::integer[], %s::uuid[], %s::bigint[]) AS part (no, stream, after)
    CROSS JOIN LATERAL (
        SELECT originator_version, notification_id, topic, state FROM ledger.stored_events
        WHERE originator_id = part.stream AND originator_version > part.after
        ORDER BY originator_version LIMIT %s
    ) AS e
    ORDER BY e.notification_id LIMIT %s
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
    """One event of an account: its place in the stream and in the log, and the fact itself.

    With stripes, `account` is the part whose stream it is in, and `balance` that of all parts
    after the operation or command that it is of; the opening of a part has none.
    """

    version: int
    position: int
    event: str
    fact: msgspec.Raw
    principal: str | None = None
    account: str | None = None
    balance_minor: int | None = field(default=None, name="balance")


class EventPage(msgspec.Struct, frozen=True):
    """Events by version, with stripes by position; `next_cursor` is null on the last page."""

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
    conn: Connection[Any], book_id: str, number: str, *, after: Sequence[int], limit: int
) -> EventPage:
    """Return an account's events after a version of its stream, or of the stream of each part.

    Parts are counted as stripes are, the account itself first; one that `after` does not name is
    read from its beginning, as it was opened later. Raises `NotFound`, `invalid_cursor`.
    """
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        account = select_account_in_tx(cursor, book_id, number)
        numbers = [number, *stripe_numbers(account)]
        if len(after) > len(numbers):
            raise InvalidRequest("a cursor of another list", code="invalid_cursor", field="cursor")
        versions = [*after, *[0] * (len(numbers) - len(after))]
        if len(numbers) > 1:
            there = {number, *(each.number for each in select_stripes_in_tx(cursor, account))}
            parts = [no for no, each in enumerate(numbers) if each in there]
            streams = [uuid.UUID(bytes=account_stream(book_id, numbers[no])) for no in parts]
            places = [versions[no] for no in parts]
            cursor.execute(SELECT_STREAMS, (parts, streams, places, limit + 1, limit + 1))
            rows = cursor.fetchall()
            balances = _balances_in_tx(cursor, book_id, number, rows[:limit])
        else:
            stream = uuid.UUID(bytes=account_stream(book_id, number))
            cursor.execute(SELECT_STREAM, (stream, versions[0], limit + 1))
            return _event_page(cursor.fetchall(), limit, {})
    items: list[StreamEvent] = []
    for (version, position, name, state, no), balance_minor in zip(rows, balances, strict=False):
        versions[no] = version
        fact = msgspec.Raw(state)
        items.append(StreamEvent(version, position, name, fact, None, numbers[no], balance_minor))
    return EventPage(items, cursor_of(versions) if len(rows) > limit else None)


class _Said(msgspec.Struct):
    """What a record says of the accounts that it touched."""

    operation_id: str
    accounts: tuple[TouchedAccount, ...] = ()
    touched: TouchedAccount | None = None


class _OfOperation(msgspec.Struct):
    """The operation or command that an event is of."""

    operation_id: str = ""
    command_id: str = ""


_decode_said = msgspec.json.Decoder(_Said).decode
_decode_of_operation = msgspec.json.Decoder(_OfOperation).decode


def _balances_in_tx(
    cursor: Cursor[Any], book_id: str, number: str, rows: Iterable[Any]
) -> list[int | None]:
    """Return what the record behind each row says of the account: its balance, all parts in it."""
    found = [_decode_of_operation(row[3]) for row in rows]
    ids = [each.operation_id or each.command_id for each in found]
    streams = {uuid.UUID(bytes=operation_stream(book_id, each)) for each in ids}
    cursor.execute(SELECT_FIRST_STATES, (list(streams),))
    balances: dict[str, int] = {}
    for _, state in cursor.fetchall():
        said = _decode_said(state)
        for touched in (*said.accounts, said.touched):
            if touched is not None and touched.account == number:
                balances[said.operation_id] = touched.balance_minor
    return [balances.get(each) for each in ids]


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
