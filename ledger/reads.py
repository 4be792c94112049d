"""Reads of accounts: state, tree, lists, open holds, freezes in force.

Invariant: nothing here writes; every list has a total order that ends in a unique key. What
is read in several statements is read in one snapshot.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection, Cursor

from ledger.accepted import select_accepted_in_tx
from ledger.account import Accepted, Account, Striping
from ledger.buffers import buffer_number
from ledger.cursors import cursor_of
from ledger.errors import NotFound
from ledger.heads import HEAD_COLUMNS, account_from_row, account_uuid, select_accounts_in_tx
from ledger.stripes import Find, stripe_numbers, stripes_of, whole_of

FILTERS = ("owner", "type", "subject", "currency", "parent", "status", "payment_status")

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
SELECT_PAGE = f"""
    SELECT {HEAD_COLUMNS} FROM ledger.accounts
    WHERE book_id = %s AND number > %s {{conditions}}
    ORDER BY number LIMIT %s
"""  # noqa: S608 - conditions come from FILTERS and WITHOUT_PARTS only
# What lies on a stripe is in the balance of its account, which is in the list as well.
WITHOUT_PARTS = " AND NOT (type = 'stripe' AND number ~ '^STRIPE-[0-9]+-' AND parent IS NOT NULL)"
SELECT_TREE = """
    WITH RECURSIVE tree AS (
        SELECT book_id, number, normal_side AS side, 1::numeric AS sign,
               balance, held, frozen, reserve, credit_limit, credit_from, credit_to,
               false AS waits, false AS striped
        FROM ledger.accounts WHERE book_id = %s AND number = %s
        UNION ALL
        SELECT a.book_id, a.number, tree.side,
               CASE WHEN a.normal_side = tree.side THEN 1::numeric ELSE -1::numeric END,
               a.balance, a.held, a.frozen, a.reserve,
               CASE WHEN a.type = 'stripe' AND a.number ~ '^STRIPE-[0-9]+-' THEN 0
                    ELSE a.credit_limit END,
               a.credit_from, a.credit_to,
               a.type = 'buffer' AND a.number = 'BUFFER-' || tree.number,
               a.type = 'stripe' AND a.number ~ '^STRIPE-[0-9]+-'
        FROM ledger.accounts AS a
        JOIN tree ON a.book_id = tree.book_id AND a.parent = tree.number
    )
    SELECT count(*) FILTER (WHERE NOT striped), sum(sign * balance), sum(held), sum(frozen),
           CASE WHEN bool_and(credit_limit IS NOT NULL) FILTER (WHERE NOT waits)
                THEN sum(sign * balance - held - frozen - reserve + credit_limit
                         * (open_business_date BETWEEN coalesce(credit_from, open_business_date)
                            AND coalesce(credit_to, open_business_date))::int)
                     FILTER (WHERE NOT waits) END
    FROM tree JOIN ledger.books USING (book_id)
"""
SELECT_OPEN_DATES = """
    SELECT book_id, open_business_date::text FROM ledger.books WHERE book_id = ANY(%s)
"""


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


class BufferState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A buffering agreement, and what is accepted but not booked on the account yet.

    `accepted` is what the balance will rise by (on the account's normal side).
    """

    buffer_ms: int
    directions: str
    agreement: str
    valid_from: str | None
    valid_to: str | None
    entries_max: int
    account: str
    accepted_minor: int = field(name="accepted")
    accepted_debits_minor: int = field(name="accepted_debits")
    accepted_credits_minor: int = field(name="accepted_credits")
    entries: int
    accepted_since: str | None


class StripePart(msgspec.Struct, frozen=True):
    """What lies on one account of those that make up an account with stripes."""

    account: str
    balance_minor: int = field(name="balance")


class StripedState(msgspec.Struct, frozen=True):
    """Over how many stripes inflows go, and where the balance lies, on the account itself first."""

    stripes: int
    parts: tuple[StripePart, ...]


class CreditState(msgspec.Struct, frozen=True):
    """The signed agreement behind a credit limit; out of force, the limit counts as 0."""

    agreement: str
    valid_from: str | None
    valid_to: str | None
    in_force: bool


class AccountState(msgspec.Struct, frozen=True, omit_defaults=True):
    """An account as it is now, its stripes in it. `available` is null when it has no floor.

    `available` is that of the book's open date: a credit limit counts only while in force.
    """

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
    buffer: BufferState | None = None
    credit: CreditState | None = None
    striped: StripedState | None = None
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


def select_account(conn: Connection[Any], book_id: str, number: str) -> AccountState:
    """Return an account with its rolled-up balances. Raises `NotFound`."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        account = select_account_in_tx(cursor, book_id, number)
        state = _states_in_tx(cursor, [account])[0]
        cursor.execute(SELECT_TREE, (book_id, number))
        row = cursor.fetchone()
    assert row is not None
    count, balance, held, frozen, available = row
    if count == 1:
        return state
    whole = None if available is None else int(available)  # sums may pass 64 bits
    rolled_up = RolledUp(count, int(balance), int(held), int(frozen), whole)
    return msgspec.structs.replace(state, rolled_up=rolled_up)


def select_account_in_tx(cursor: Cursor[Any], book_id: str, number: str) -> Account:
    """Return an account with its holds, freezes and limits. Raises `NotFound`."""
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
    """Return accounts by number after `after` that match every filter.

    Stripe accounts are listed to whoever asks for their type or for what is below an account.
    """
    conditions = "".join(f" AND {name} = %s" for name in filters)
    if filters.keys().isdisjoint({"type", "parent"}):
        conditions += WITHOUT_PARTS
    query = SELECT_PAGE.format(conditions=conditions).encode()
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        cursor.execute(query, (book_id, after, *filters.values(), limit + 1))
        rows = cursor.fetchall()
        accounts = [account_from_row(row) for row in rows[:limit]]
        states = _states_in_tx(cursor, accounts)
    return AccountPage(states, cursor_of(states[-1].account) if len(rows) > limit else None)


def _states_in_tx(cursor: Cursor[Any], accounts: list[Account]) -> list[AccountState]:
    """Return accounts as they are read, each with its stripes in it and what waits for it."""
    agreed = [account for account in accounts if account.buffering is not None]
    ids = {a.number: account_uuid(a.book_id, buffer_number(a.number)) for a in agreed}
    waiting = dict(select_accepted_in_tx(cursor, list(ids.values()))) if agreed else {}
    waits = {number: waiting.get(account_id) for number, account_id in ids.items()}
    dates = _open_dates_in_tx(cursor, accounts)
    stripes = _stripes_in_tx(cursor, accounts)
    states: list[AccountState] = []
    for account in accounts:
        whole = account if account.striping is None else whole_of(account, stripes.get)
        buffer = _buffer(account, waits.get(account.number))
        state = _state(whole, buffer, dates.get(account.book_id))
        if account.striping is not None:
            parts = _striped(account, account.striping, stripes.get)
            state = msgspec.structs.replace(state, striped=parts)
        states.append(state)
    return states


def select_parts_in_tx(conn: Connection[Any], book_id: str, number: str) -> list[Account]:
    """Return an account and, behind it, its stripe accounts; nothing if there is no such one."""
    with conn.cursor() as cursor:
        account = select_accounts_in_tx(cursor, book_id, [number])[number]
        return [] if account is None else [account, *select_stripes_in_tx(cursor, account)]


def select_stripes_in_tx(cursor: Cursor[Any], account: Account) -> list[Account]:
    """Return the stripe accounts of an account that are there, in order."""
    found = _stripes_in_tx(cursor, [account])
    return list(stripes_of(account, found.get))


def _stripes_in_tx(cursor: Cursor[Any], accounts: list[Account]) -> dict[str, Account | None]:
    """Return the stripe accounts of the accounts, which are of one book, by number."""
    numbers = [each for a in accounts if a.striping is not None for each in stripe_numbers(a)]
    return select_accounts_in_tx(cursor, accounts[0].book_id, numbers) if numbers else {}


def _striped(account: Account, striping: Striping, find: Find) -> StripedState:
    parts = (account, *stripes_of(account, find))
    return StripedState(
        striping.stripes,
        tuple(StripePart(each.number, each.balance_minor) for each in parts),
    )


def _open_dates_in_tx(cursor: Cursor[Any], accounts: list[Account]) -> dict[str, str]:
    """Return the open dates, by book, that accounts with a credit agreement are read on."""
    books = list({a.book_id for a in accounts if a.credit_terms is not None})
    if not books:
        return {}
    cursor.execute(SELECT_OPEN_DATES, (books,))
    return dict(cursor.fetchall())


def _buffer(account: Account, accepted: Accepted | None) -> BufferState | None:
    agreed = account.buffering
    if agreed is None:
        return None
    waits = accepted or Accepted("", 0, 0, 0)
    net_minor = waits.credits_minor - waits.debits_minor
    return BufferState(
        **msgspec.structs.asdict(agreed),
        account=buffer_number(account.number),
        accepted_minor=net_minor if account.normal_side == "credit" else -net_minor,
        accepted_debits_minor=waits.debits_minor,
        accepted_credits_minor=waits.credits_minor,
        entries=waits.entries,
        accepted_since=waits.since or None,
    )


def _credit(account: Account, open_date: str | None) -> CreditState | None:
    terms = account.credit_terms
    if terms is None or open_date is None:
        return None
    return CreditState(**msgspec.structs.asdict(terms), in_force=terms.in_force(open_date))


def _state(account: Account, buffer: BufferState | None, open_date: str | None) -> AccountState:
    available = account.available_minor if open_date is None else account.available_on(open_date)
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
        available_minor=available,
        previous_balance_minor=account.previous_balance_minor,
        day_debits_minor=account.day_debits_minor,
        day_credits_minor=account.day_credits_minor,
        business_date=account.business_date,
        version=account.version,
        opened_at=account.opened_at,
        opened_by=account.opened_by,
        opened_date=account.opened_date,
        limits=_limits(account),
        buffer=buffer,
        credit=_credit(account, open_date),
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
        account = select_account_in_tx(cursor, book_id, number)
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
        account = select_account_in_tx(cursor, book_id, number)
    return FreezePage(
        [
            FreezeState(
                freeze_id, freeze.amount_minor, freeze.authority, freeze.order_number, freeze.reason
            )
            for freeze_id, freeze in sorted(account.freezes.items())
        ]
    )
