"""Heads and their details in PostgreSQL: read and written under the log's lock.

Invariant: every row here equals the fold of its account's stream; only the engine writes it,
in the transaction that appends the events, under the commit-order lock. Which heads in memory
are as good as these rows is said in `ledger/head_cache.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from sys import intern
from typing import Any

import msgspec
from psycopg import Cursor

from ledger.accepted import select_accepted_in_tx, write_accepted_in_tx
from ledger.account import Account, Buffering, CreditTerms, Freeze, Hold, Limit, Striping
from ledger.arrays import PackedArray, date_array, int8_array, uuid_array
from ledger.buffers import is_buffer
from ledger.codec import account_stream

HEAD_COLUMNS = """
    book_id, number, owner, type, subject, currency, normal_side, parent, credit_limit,
    status, lost, payment_status, partial_types, partial_amount, reserve,
    balance, held, frozen, version, business_date::text, previous_balance,
    day_debits, day_credits, debit_total, credit_total, whole_freezes,
    opened_at, opened_by, opened_date::text, buffer_ms, buffer_directions, buffer_agreement,
    buffer_from::text, buffer_to::text, buffer_entries_max,
    credit_agreement, credit_from::text, credit_to::text,
    stripes, stripes_opened, holds_open, freezes_open, limits_set, account_id
"""
SELECT_HEADS = (
    "SELECT" + HEAD_COLUMNS + "FROM ledger.accounts WHERE account_id = ANY(%s) ORDER BY account_id"
)
SELECT_HOLDS = """
    SELECT account_id, hold_id, amount, operation_id, payout, expires_at
    FROM ledger.holds WHERE account_id = ANY(%s) ORDER BY account_id, hold_id
"""
SELECT_FREEZES = """
    SELECT account_id, freeze_id, amount, authority, order_number, reason
    FROM ledger.freezes WHERE account_id = ANY(%s) ORDER BY account_id, freeze_id
"""
SELECT_LIMITS = """
    SELECT account_id, business_type, per_operation, per_day_amount, per_day_count,
           used_date::text, used_amount, used_count, used_operation, used_operation_amount
    FROM ledger.limits WHERE account_id = ANY(%s) ORDER BY account_id, business_type
"""
UPDATE_MONEY = """
    UPDATE ledger.accounts AS a
    SET balance = u.balance, held = u.held, frozen = u.frozen, version = u.version,
        business_date = u.business_date, previous_balance = u.previous_balance,
        day_debits = u.day_debits, day_credits = u.day_credits,
        debit_total = u.debit_total, credit_total = u.credit_total
    FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        AS u (account_id, business_date, balance, held, frozen, version, previous_balance,
              day_debits, day_credits, debit_total, credit_total)
    WHERE a.account_id = u.account_id
"""
UPDATE_MONEY_AND_COUNTS = """
    UPDATE ledger.accounts AS a
    SET balance = u.balance, held = u.held, frozen = u.frozen, version = u.version,
        business_date = u.business_date, previous_balance = u.previous_balance,
        day_debits = u.day_debits, day_credits = u.day_credits,
        debit_total = u.debit_total, credit_total = u.credit_total,
        holds_open = u.holds_open, freezes_open = u.freezes_open, limits_set = u.limits_set
    FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        AS u (account_id, business_date, balance, held, frozen, version, previous_balance,
              day_debits, day_credits, debit_total, credit_total,
              holds_open, freezes_open, limits_set)
    WHERE a.account_id = u.account_id
"""
UPDATE_STANDING = """
    UPDATE ledger.accounts
    SET credit_limit = %s, status = %s, lost = %s, payment_status = %s, partial_types = %s,
        partial_amount = %s, reserve = %s, whole_freezes = %s, buffer_ms = %s,
        buffer_directions = %s, buffer_agreement = %s, buffer_from = %s, buffer_to = %s,
        buffer_entries_max = %s, credit_agreement = %s, credit_from = %s, credit_to = %s,
        stripes = %s, stripes_opened = %s
    WHERE account_id = %s
"""
INSERT_HEAD = """
    INSERT INTO ledger.accounts (
        account_id, book_id, number, owner, type, subject, currency, normal_side, parent,
        credit_limit, status, lost, payment_status, partial_types, partial_amount, reserve,
        balance, held, frozen, version, business_date, previous_balance, day_debits,
        day_credits, debit_total, credit_total, whole_freezes, holds_open, freezes_open,
        limits_set, opened_at, opened_by, opened_date, buffer_ms, buffer_directions,
        buffer_agreement, buffer_from, buffer_to, buffer_entries_max,
        credit_agreement, credit_from, credit_to, stripes, stripes_opened)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
            %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
            %s, %s, %s, %s, %s)
"""
DELETE_HOLDS = """
    DELETE FROM ledger.holds USING unnest(%s::uuid[], %s::text[]) AS gone (account_id, id)
    WHERE holds.account_id = gone.account_id AND holds.hold_id = gone.id
"""
# An id may be let go and taken anew in one batch: then everything is as the new one says.
UPSERT_HOLD = """
    INSERT INTO ledger.holds (account_id, hold_id, amount, operation_id, payout, expires_at)
    VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT ON CONSTRAINT holds_pkey DO UPDATE SET
        amount = excluded.amount, operation_id = excluded.operation_id,
        payout = excluded.payout, expires_at = excluded.expires_at
"""
DELETE_FREEZES = """
    DELETE FROM ledger.freezes USING unnest(%s::uuid[], %s::text[]) AS gone (account_id, id)
    WHERE freezes.account_id = gone.account_id AND freezes.freeze_id = gone.id
"""
UPSERT_FREEZE = """
    INSERT INTO ledger.freezes
        (account_id, freeze_id, amount, authority, order_number, reason)
    VALUES (%s, %s, %s, %s, %s, %s)
    ON CONFLICT ON CONSTRAINT freezes_pkey DO UPDATE SET
        amount = excluded.amount, authority = excluded.authority,
        order_number = excluded.order_number, reason = excluded.reason
"""
DELETE_LIMITS = """
    DELETE FROM ledger.limits USING unnest(%s::uuid[], %s::text[]) AS gone (account_id, id)
    WHERE limits.account_id = gone.account_id AND limits.business_type = gone.id
"""
UPSERT_LIMIT = """
    INSERT INTO ledger.limits
        (account_id, business_type, per_operation, per_day_amount, per_day_count,
         used_date, used_amount, used_count, used_operation, used_operation_amount)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT ON CONSTRAINT limits_pkey DO UPDATE SET
        per_operation = excluded.per_operation, per_day_amount = excluded.per_day_amount,
        per_day_count = excluded.per_day_count, used_date = excluded.used_date,
        used_amount = excluded.used_amount, used_count = excluded.used_count,
        used_operation = excluded.used_operation,
        used_operation_amount = excluded.used_operation_amount
"""
SELECT_EXPIRED = """
    SELECT DISTINCT a.book_id, a.number
    FROM ledger.holds AS h JOIN ledger.accounts AS a USING (account_id)
    WHERE h.expires_at <= %s ORDER BY a.book_id, a.number LIMIT %s
"""
_FACTS = 29  # columns of HEAD_COLUMNS that are fields of Account, in its order
# Those that many accounts have alike. One object for all of them: a posting reads and counts
# references of every field, and thousands of copies of one word do not stay in the cache.
_WORDS = (0, 3, 4, 5, 6, 9, 11, 19, 27, 28)
_AGREED = 6  # those of its buffering agreement, which follow
_TERMS = 3  # those of the agreement behind its credit limit
_STRIPED = 2  # those of its striping
_DETAILS = _FACTS + _AGREED + _TERMS + _STRIPED


@lru_cache(maxsize=200_000)
def account_uuid(book_id: str, number: str) -> uuid.UUID:
    """Return the id of an account's stream and head row."""
    return uuid.UUID(bytes=account_stream(book_id, number))


def select_accounts_in_tx(
    cursor: Cursor[Any], book_id: str, numbers: Iterable[str]
) -> dict[str, Account | None]:
    """Read accounts with their details by number, None for those that do not exist."""
    accounts: dict[str, Account | None] = dict.fromkeys(numbers)
    found = select_heads_in_tx(cursor, [account_stream(book_id, number) for number in accounts])
    accounts.update((account.number, account) for account in found)
    return accounts


def select_heads_in_tx(cursor: Cursor[Any], account_ids: Sequence[bytes]) -> list[Account]:
    """Read accounts of any book with their details, in the order of their ids."""
    cursor.execute(SELECT_HEADS, (uuid_array(account_ids),), prepare=True, binary=True)
    heads: list[Account] = []
    detailed: dict[uuid.UUID, Account] = {}
    for row in cursor.fetchall():
        account = account_from_row(row)
        heads.append(account)
        if row[_DETAILS] or row[_DETAILS + 1] or row[_DETAILS + 2] or is_buffer(account):
            detailed[row[_DETAILS + 3]] = account
    if detailed:
        _select_details_in_tx(cursor, detailed)
    return heads


def account_from_row(row: tuple[Any, ...]) -> Account:
    """Make an account from a row of HEAD_COLUMNS, without holds, freezes and limits."""
    facts = [*row[:_FACTS], account_stream(row[0], row[1])]
    for place in _WORDS:
        if facts[place] is not None:
            facts[place] = intern(facts[place])
    account = Account(*facts)
    account.partial_types = tuple(row[12])
    if row[_FACTS] is not None:
        account.buffering = Buffering(*row[_FACTS : _FACTS + _AGREED])
    if row[_FACTS + _AGREED] is not None:
        account.credit_terms = CreditTerms(*row[_FACTS + _AGREED : _DETAILS - _STRIPED])
    if row[_DETAILS - _STRIPED] is not None:
        account.striping = Striping(*row[_DETAILS - _STRIPED : _DETAILS])
    return account


def _select_details_in_tx(cursor: Cursor[Any], accounts: dict[uuid.UUID, Account]) -> None:
    ids = list(accounts)
    for account in accounts.values():
        account.holds, account.freezes, account.limits = {}, {}, {}
    cursor.execute(SELECT_HOLDS, (ids,))
    for account_id, hold_id, *fields in cursor.fetchall():
        accounts[account_id].holds[hold_id] = Hold(*fields)
    cursor.execute(SELECT_FREEZES, (ids,))
    for account_id, freeze_id, *fields in cursor.fetchall():
        accounts[account_id].freezes[freeze_id] = Freeze(*fields)
    cursor.execute(SELECT_LIMITS, (ids,))
    for account_id, business_type, *fields in cursor.fetchall():
        accounts[account_id].limits[business_type] = Limit(*fields)
    for account_id, accepted in select_accepted_in_tx(cursor, ids):
        accounts[account_id].accepted = accepted


def write_heads_in_tx(
    cursor: Cursor[Any],
    before: Mapping[str, Account | None],
    after: Mapping[str, Account],
    opened: set[str],
) -> None:
    """Write the touched accounts, whatever changed: new ones inserted, the others updated."""
    if opened:
        cursor.executemany(INSERT_HEAD, [_head_row(after[number]) for number in opened])
    changed = [account for number, account in after.items() if number not in opened]
    if changed:
        values = (*money_arrays(changed), *_counts_arrays(changed))
        cursor.execute(UPDATE_MONEY_AND_COUNTS, values, prepare=True)
    detailed: list[tuple[Account | None, Account]] = []
    for number, account in after.items():
        old = before.get(number)
        if old is None:
            detailed.append((None, account))
            continue
        if not _same_standing(old, account):
            cursor.execute(
                UPDATE_STANDING, (*_standing(account), account_uuid(account.book_id, number))
            )
        if not _same_details(old, account):
            detailed.append((old, account))
    _write_details_in_tx(cursor, detailed)
    write_accepted_in_tx(cursor, before, after)


def write_money_in_tx(cursor: Cursor[Any], money: tuple[PackedArray, ...]) -> None:
    """Write the heads of a batch in which only money moved (`is_plain`), as `money_arrays`."""
    cursor.execute(UPDATE_MONEY, money, prepare=True)


def is_plain(
    before: Mapping[str, Account | None], after: Mapping[str, Account], *, or_holds: bool = False
) -> bool:
    """Tell whether only money moved: no account opened, no command, hold, freeze or limit.

    With `or_holds` holds may have changed, too.
    """
    for number, account in after.items():
        old = before.get(number)
        if old is None or not _same_standing(old, account):
            return False
        if not _same_details(old, account, but_holds=or_holds):
            return False
    return True


def money_arrays(accounts: Sequence[Account]) -> tuple[PackedArray, ...]:
    """Return what moving money changes, a column at a time; `ledger.append_batch` takes them."""
    return (
        uuid_array([a.stream_id for a in accounts]),
        date_array([a.business_date for a in accounts]),
        int8_array([a.balance_minor for a in accounts]),
        int8_array([a.held_minor for a in accounts]),
        int8_array([a.frozen_minor for a in accounts]),
        int8_array([a.version for a in accounts]),
        int8_array([a.previous_balance_minor for a in accounts]),
        int8_array([a.day_debits_minor for a in accounts]),
        int8_array([a.day_credits_minor for a in accounts]),
        int8_array([a.debit_total_minor for a in accounts]),
        int8_array([a.credit_total_minor for a in accounts]),
    )


def _counts_arrays(accounts: Sequence[Account]) -> tuple[PackedArray, ...]:
    return (
        int8_array([len(a.holds) for a in accounts]),
        int8_array([len(a.freezes) for a in accounts]),
        int8_array([len(a.limits) for a in accounts]),
    )


def _same_standing(old: Account, new: Account) -> bool:
    """Tell whether no command changed the account: `evolve` copies what it leaves alone."""
    return (
        old.status is new.status
        and old.payment_status is new.payment_status
        and old.partial_types is new.partial_types
        and old.partial_amount_minor is new.partial_amount_minor
        and old.credit_limit_minor is new.credit_limit_minor
        and old.reserve_minor is new.reserve_minor
        and old.lost is new.lost
        and old.whole_freezes is new.whole_freezes
        and old.buffering is new.buffering
        and old.credit_terms is new.credit_terms
        and old.striping is new.striping
    )


def _same_details(old: Account, new: Account, *, but_holds: bool = False) -> bool:
    """Tell whether holds, freezes, limits and what waits are as before: `evolve` makes a new
    object whenever one changes.
    """
    return (
        (but_holds or old.holds is new.holds)
        and old.freezes is new.freezes
        and old.limits is new.limits
        and old.accepted is new.accepted
    )


def _standing(account: Account) -> tuple[Any, ...]:
    return (
        account.credit_limit_minor,
        account.status,
        account.lost,
        account.payment_status,
        list(account.partial_types),
        account.partial_amount_minor,
        account.reserve_minor,
        account.whole_freezes,
        *_agreed(account),
    )


def _agreed(account: Account) -> tuple[Any, ...]:
    agreed, terms, striping = account.buffering, account.credit_terms, account.striping
    return (
        *((None,) * _AGREED if agreed is None else msgspec.structs.astuple(agreed)),
        *((None,) * _TERMS if terms is None else msgspec.structs.astuple(terms)),
        *((None,) * _STRIPED if striping is None else msgspec.structs.astuple(striping)),
    )


def _head_row(account: Account) -> tuple[Any, ...]:
    return (
        account_uuid(account.book_id, account.number),
        account.book_id,
        account.number,
        account.owner,
        account.type,
        account.subject,
        account.currency,
        account.normal_side,
        account.parent,
        *_standing(account)[:7],
        account.balance_minor,
        account.held_minor,
        account.frozen_minor,
        account.version,
        account.business_date,
        account.previous_balance_minor,
        account.day_debits_minor,
        account.day_credits_minor,
        account.debit_total_minor,
        account.credit_total_minor,
        account.whole_freezes,
        len(account.holds),
        len(account.freezes),
        len(account.limits),
        account.opened_at,
        account.opened_by,
        account.opened_date,
        *_agreed(account),
    )


def _write_details_in_tx(
    cursor: Cursor[Any], changes: Sequence[tuple[Account | None, Account]]
) -> None:
    for field, delete, upsert in (
        ("holds", DELETE_HOLDS, UPSERT_HOLD),
        ("freezes", DELETE_FREEZES, UPSERT_FREEZE),
        ("limits", DELETE_LIMITS, UPSERT_LIMIT),
    ):
        gone: list[tuple[uuid.UUID, str]] = []
        written: list[tuple[Any, ...]] = []
        for old, account in changes:
            was = getattr(old, field) if old is not None else {}
            now = getattr(account, field)
            account_id = account_uuid(account.book_id, account.number)
            gone.extend((account_id, name) for name in was if name not in now)
            written.extend(
                (account_id, name, *_astuple(value))
                for name, value in now.items()
                if was.get(name) != value
            )
        if gone:
            ids, names = zip(*gone, strict=True)
            cursor.execute(delete, (list(ids), list(names)))
        if written:
            cursor.executemany(upsert, written)


def _astuple(value: Hold | Freeze | Limit) -> tuple[Any, ...]:
    return tuple(getattr(value, name) for name in value.__struct_fields__)


def select_expired_in_tx(
    cursor: Cursor[Any], booked_at: str, limit: int
) -> dict[str, tuple[str, ...]]:
    """Return, by book, accounts that carry a hold whose expiry has come."""
    cursor.execute(SELECT_EXPIRED, (booked_at, limit))
    found: dict[str, tuple[str, ...]] = {}
    for book_id, number in cursor.fetchall():
        found[book_id] = (*found.get(book_id, ()), number)
    return found
