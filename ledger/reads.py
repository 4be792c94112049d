"""Reads of the ledger: accounts with their tree, streams, registers, operations, the log's end.

Invariant: nothing here writes; every list has a total order that ends in a unique key, and a
cursor names the last row given, so that pages neither repeat nor skip under new rows. What
is read in several statements is read in one snapshot.
"""

from __future__ import annotations

import base64
import uuid
from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection, Cursor

from ledger.account import Account
from ledger.codec import account_stream, decode_event, operation_stream
from ledger.errors import InvalidRequest, LogCorrupt, NotFound
from ledger.events import CommandBooked, CommandRejected, OperationBooked, OperationRejected
from ledger.heads import HEAD_COLUMNS, account_from_row, select_accounts_in_tx

PAGE_SIZE = 100
PAGE_SIZE_MAX = 1_000
FILTERS = ("owner", "type", "subject", "currency", "parent", "status", "payment_status")

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
SELECT_PAGE = f"""
    SELECT {HEAD_COLUMNS} FROM ledger.accounts
    WHERE book_id = %s AND number > %s {{conditions}}
    ORDER BY number LIMIT %s
"""  # noqa: S608 - conditions come from FILTERS only
SELECT_TREE = """
    WITH RECURSIVE tree AS (
        SELECT book_id, number, normal_side, balance, held, frozen, reserve, credit_limit
        FROM ledger.accounts WHERE book_id = %s AND number = %s
        UNION ALL
        SELECT a.book_id, a.number, a.normal_side, a.balance, a.held, a.frozen, a.reserve,
               a.credit_limit
        FROM ledger.accounts AS a
        JOIN tree ON a.book_id = tree.book_id AND a.parent = tree.number
    )
    SELECT count(*),
           coalesce(sum(CASE WHEN normal_side = %s THEN balance ELSE -balance END), 0)::bigint,
           coalesce(sum(held), 0)::bigint, coalesce(sum(frozen), 0)::bigint,
           CASE WHEN bool_or(credit_limit IS NULL) THEN NULL
                ELSE coalesce(sum(CASE WHEN normal_side = %s THEN balance ELSE -balance END
                                  - held - frozen - reserve + credit_limit), 0)::bigint END
    FROM tree
"""
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
        "CreditLimitSet",
        "LimitSet",
        "CourtInquiryRegistered",
    )
]


class RolledUp(msgspec.Struct, frozen=True):
    """Sums over an account and everything below it, on the account's normal side."""

    accounts: int
    balance_minor: int = field(name="balance")
    held_minor: int = field(name="held")
    frozen_minor: int = field(name="frozen")
    available_minor: int | None = field(name="available")


class AccountLimit(msgspec.Struct, frozen=True):
    """The limits of one business type on an account."""

    business_type: str
    per_operation_minor: int | None = field(name="per_operation")
    per_day_amount_minor: int | None = field(name="per_day_amount")
    per_day_count: int | None
    used_date: str | None
    used_amount_minor: int = field(name="used_amount")
    used_count: int


class AccountState(msgspec.Struct, frozen=True, omit_defaults=True):
    """An account as it is now. `available` is null when it has no floor."""

    book_id: str
    account: str
    owner: str
    type: str
    subject: str
    currency: str
    normal_side: str
    parent: str | None
    status: str
    lost: bool
    frozen_whole: bool
    payment_status: str
    partial_types: tuple[str, ...]
    partial_amount_minor: int | None = field(name="partial_amount")
    balance_minor: int = field(name="balance")
    held_minor: int = field(name="held")
    frozen_minor: int = field(name="frozen")
    reserve_minor: int = field(name="reserve")
    credit_limit_minor: int | None = field(name="credit_limit")
    available_minor: int | None = field(name="available")
    previous_balance_minor: int = field(name="previous_balance")
    day_debits_minor: int = field(name="day_debits")
    day_credits_minor: int = field(name="day_credits")
    business_date: str | None
    version: int
    opened_at: str
    opened_by: str
    opened_date: str
    limits: tuple[AccountLimit, ...] = ()
    rolled_up: RolledUp | None = None


class AccountPage(msgspec.Struct, frozen=True):
    """Accounts by number; `next_cursor` is null on the last page."""

    items: list[AccountState]
    next_cursor: str | None


class HoldState(msgspec.Struct, frozen=True):
    """An open hold. A payout's hold has no expiry: it ends with its payout's outcome."""

    hold_id: str
    amount_minor: int = field(name="amount")
    currency: str
    operation_id: str
    payout: bool
    expires_at: str | None


class HoldPage(msgspec.Struct, frozen=True):
    """The open holds of an account, by hold id."""

    items: list[HoldState]


class FreezeState(msgspec.Struct, frozen=True):
    """A freeze in force; `amount` null freezes the whole account."""

    freeze_id: str
    amount_minor: int | None = field(name="amount")
    authority: str
    order_number: str = field(name="order")
    reason: str


class FreezePage(msgspec.Struct, frozen=True):
    """The freezes in force on an account, by freeze id."""

    items: list[FreezeState]


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


# --- accounts -----------------------------------------------------------------------------


def select_account(conn: Connection[Any], book_id: str, number: str) -> AccountState:
    """Return an account with its rolled-up balances. Raises `NotFound`."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        account = _account_in_tx(cursor, book_id, number)
        cursor.execute(SELECT_TREE, (book_id, number, account.normal_side, account.normal_side))
        row = cursor.fetchone()
        assert row is not None
    return _state(account, RolledUp(*row) if row[0] > 1 else None)


def _account_in_tx(cursor: Cursor[Any], book_id: str, number: str) -> Account:
    account = select_accounts_in_tx(cursor, book_id, [number])[number]
    if account is None:
        raise NotFound(f"no account {number!r} in book {book_id!r}")
    return account


def select_account_page(
    conn: Connection[Any],
    book_id: str,
    filters: dict[str, str],
    *,
    after: str,
    limit: int,
) -> AccountPage:
    """Return accounts by number after `after` that match every filter."""
    conditions = "".join(f" AND {name} = %s" for name in filters)
    rows = conn.execute(
        SELECT_PAGE.format(conditions=conditions).encode(),
        (book_id, after, *filters.values(), limit + 1),
    ).fetchall()
    accounts = [account_from_row(row) for row in rows[:limit]]
    following = cursor_of(accounts[-1].number) if len(rows) > limit else None
    return AccountPage([_state(account, None) for account in accounts], following)


def _state(account: Account, rolled_up: RolledUp | None) -> AccountState:
    return AccountState(
        book_id=account.book_id,
        account=account.number,
        owner=account.owner,
        type=account.type,
        subject=account.subject,
        currency=account.currency,
        normal_side=account.normal_side,
        parent=account.parent,
        status=account.status,
        lost=account.lost,
        frozen_whole=account.whole_freezes > 0,
        payment_status=account.payment_status,
        partial_types=account.partial_types,
        partial_amount_minor=account.partial_amount_minor,
        balance_minor=account.balance_minor,
        held_minor=account.held_minor,
        frozen_minor=account.frozen_minor,
        reserve_minor=account.reserve_minor,
        credit_limit_minor=account.credit_limit_minor,
        available_minor=account.available_minor,
        previous_balance_minor=account.previous_balance_minor,
        day_debits_minor=account.day_debits_minor,
        day_credits_minor=account.day_credits_minor,
        business_date=account.business_date,
        version=account.version,
        opened_at=account.opened_at,
        opened_by=account.opened_by,
        opened_date=account.opened_date,
        limits=_limits(account),
        rolled_up=rolled_up,
    )


def _limits(account: Account) -> tuple[AccountLimit, ...]:
    return tuple(
        AccountLimit(
            business_type,
            limit.per_operation_minor,
            limit.per_day_amount_minor,
            limit.per_day_count,
            limit.used_date,
            limit.used_amount_minor,
            limit.used_count,
        )
        for business_type, limit in sorted(account.limits.items())
    )


def select_holds(conn: Connection[Any], book_id: str, number: str) -> HoldPage:
    """Return the open holds of an account by hold id. Raises `NotFound`."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        account = _account_in_tx(cursor, book_id, number)
    return HoldPage(
        [
            HoldState(
                hold_id,
                hold.amount_minor,
                account.currency,
                hold.operation_id,
                hold.payout,
                hold.expires_at,
            )
            for hold_id, hold in sorted(account.holds.items())
        ]
    )


def select_freezes(conn: Connection[Any], book_id: str, number: str) -> FreezePage:
    """Return the freezes in force on an account by freeze id. Raises `NotFound`."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        account = _account_in_tx(cursor, book_id, number)
    return FreezePage(
        [
            FreezeState(
                freeze_id, freeze.amount_minor, freeze.authority, freeze.order_number, freeze.reason
            )
            for freeze_id, freeze in sorted(account.freezes.items())
        ]
    )


# --- streams ------------------------------------------------------------------------------


def select_account_events(
    conn: Connection[Any], book_id: str, number: str, *, after: int, limit: int
) -> EventPage:
    """Return an account's events after a version. Raises `NotFound`."""
    stream = uuid.UUID(bytes=account_stream(book_id, number))
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        _account_in_tx(cursor, book_id, number)
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
        _account_in_tx(cursor, book_id, number)
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


# --- operations, log ----------------------------------------------------------------------


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
        "booked" if isinstance(record, OperationBooked | CommandBooked) else "rejected",
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


# --- cursors ------------------------------------------------------------------------------


def cursor_of(key: str | int) -> str:
    """Return the opaque cursor that continues after a key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def text_after(cursor: str | None) -> str:
    """Return the text key a cursor names, the empty text for none. Raises `invalid_cursor`."""
    return "" if cursor is None else _decoded_cursor(cursor, str)


def number_after(cursor: str | None) -> int:
    """Return the number a cursor names, 0 for none. Raises `invalid_cursor`."""
    number = 0 if cursor is None else _decoded_cursor(cursor, int)
    if not 0 <= number < 2**63:
        raise InvalidRequest("the cursor names no row", code="invalid_cursor", field="cursor")
    return number


def _decoded_cursor(cursor: str, kind: Any) -> Any:
    try:
        raw = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
        key = msgspec.json.decode(raw, type=kind)
    except (ValueError, UnicodeError, msgspec.DecodeError):
        raise InvalidRequest(
            "use the next_cursor of an earlier page", code="invalid_cursor", field="cursor"
        ) from None
    if isinstance(key, str) and "\x00" in key:
        raise InvalidRequest("a cursor has no NUL", code="invalid_cursor", field="cursor")
    return key
