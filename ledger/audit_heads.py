"""Compare the heads with the fold of the log: accounts, holds, freezes, limits, accepted, books.

Invariant: every column of every head table is compared with what the account's events make;
a row too many is a difference as much as one too few.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import msgspec
from psycopg import Connection

from ledger.account import Account, Buffering, CreditTerms, Striping
from ledger.audit_fold import Fold
from ledger.audit_verdict import compare_table

CHECK = "heads"
ACCOUNTS = (
    "account_id",
    "book_id",
    "number",
    "owner",
    "type",
    "subject",
    "currency",
    "normal_side",
    "parent",
    "credit_limit",
    "status",
    "lost",
    "payment_status",
    "partial_types",
    "partial_amount",
    "reserve",
    "balance",
    "held",
    "frozen",
    "version",
    "business_date",
    "previous_balance",
    "day_debits",
    "day_credits",
    "debit_total",
    "credit_total",
    "whole_freezes",
    "opened_at",
    "opened_by",
    "opened_date",
    "buffer_ms",
    "buffer_directions",
    "buffer_agreement",
    "buffer_from",
    "buffer_to",
    "buffer_entries_max",
    "credit_agreement",
    "credit_from",
    "credit_to",
    "stripes",
    "stripes_opened",
    "holds_open",
    "freezes_open",
    "limits_set",
)
HOLDS = ("account_id", "hold_id", "amount", "operation_id", "payout", "expires_at")
FREEZES = ("account_id", "freeze_id", "amount", "authority", "order_number", "reason")
LIMITS = (
    "account_id",
    "business_type",
    "per_operation",
    "per_day_amount",
    "per_day_count",
    "used_date",
    "used_amount",
    "used_count",
    "used_operation",
    "used_operation_amount",
)
ACCEPTED = ("account_id", "accepted_since", "entries", "debits", "credits")
BOOKS = ("book_id", "name", "open_business_date", "closed_through", "version")
SELECT_ACCOUNTS = """
    SELECT uuid_send(account_id), book_id, number, owner, type, subject, currency, normal_side,
           parent, credit_limit, status, lost, payment_status, partial_types, partial_amount,
           reserve, balance, held, frozen, version, business_date::text, previous_balance,
           day_debits, day_credits, debit_total, credit_total, whole_freezes, opened_at,
           opened_by, opened_date::text, buffer_ms, buffer_directions, buffer_agreement,
           buffer_from::text, buffer_to::text, buffer_entries_max, credit_agreement,
           credit_from::text, credit_to::text, stripes, stripes_opened, holds_open, freezes_open,
           limits_set
    FROM ledger.accounts ORDER BY account_id
"""
SELECT_HOLDS = """
    SELECT uuid_send(account_id), hold_id, amount, operation_id, payout, expires_at
    FROM ledger.holds ORDER BY account_id, hold_id
"""
SELECT_FREEZES = """
    SELECT uuid_send(account_id), freeze_id, amount, authority, order_number, reason
    FROM ledger.freezes ORDER BY account_id, freeze_id
"""
SELECT_LIMITS = """
    SELECT uuid_send(account_id), business_type, per_operation, per_day_amount, per_day_count,
           used_date::text, used_amount, used_count, used_operation, used_operation_amount
    FROM ledger.limits ORDER BY account_id, business_type
"""
SELECT_ACCEPTED = """
    SELECT uuid_send(account_id), accepted_since, entries, debits, credits
    FROM ledger.accepted ORDER BY account_id
"""
SELECT_BOOKS = """
    SELECT book_id, name, open_business_date::text, closed_through::text, version
    FROM ledger.books ORDER BY book_id
"""
ROWS_PER_READ = 5_000
_PARTIAL_TYPES = ACCOUNTS.index("partial_types")
_FACTS = 29  # fields of Account before its agreement and details; the columns' order but one
_facts = attrgetter(*Account.__struct_fields__[:_FACTS])
_AGREED = len(Buffering.__struct_fields__)
_TERMS = len(CreditTerms.__struct_fields__)
_STRIPED = len(Striping.__struct_fields__)

Rows = dict[tuple[Any, ...], tuple[Any, ...]]


def compare_heads(conn: Connection[Any], fold: Fold) -> None:
    """Compare all head tables. Raises `DifferenceFound` at the first difference."""
    compare_table(
        CHECK, "ledger.books", BOOKS, 1, expected=_books(fold), found=_read(conn, SELECT_BOOKS)
    )
    accounts = {(stream,): _account_row(stream, a) for stream, a in fold.accounts.items()}
    found = map(_array_as_tuple, _read(conn, SELECT_ACCOUNTS))
    compare_table(CHECK, "ledger.accounts", ACCOUNTS, 1, expected=accounts, found=found)
    compare_table(
        CHECK,
        "ledger.accepted",
        ACCEPTED,
        1,
        expected=_accepted(fold),
        found=_read(conn, SELECT_ACCEPTED),
    )
    for table, columns, select, field in (
        ("ledger.holds", HOLDS, SELECT_HOLDS, "holds"),
        ("ledger.freezes", FREEZES, SELECT_FREEZES, "freezes"),
        ("ledger.limits", LIMITS, SELECT_LIMITS, "limits"),
    ):
        details = _details(fold, field)
        compare_table(CHECK, table, columns, 2, expected=details, found=_read(conn, select))


def _read(conn: Connection[Any], select: str) -> Iterator[tuple[Any, ...]]:
    """Read a table through a server-side cursor: it may be larger than the memory."""
    with conn.cursor(name="audit") as cursor:
        cursor.itersize = ROWS_PER_READ
        cursor.execute(select, binary=True)
        yield from cursor


def _array_as_tuple(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row[:_PARTIAL_TYPES], tuple(row[_PARTIAL_TYPES]), *row[_PARTIAL_TYPES + 1 :])


def _account_row(stream: bytes, account: Account) -> tuple[Any, ...]:
    facts = _facts(account)
    details = (len(account.holds), len(account.freezes), len(account.limits))
    agreed, signed, striping = account.buffering, account.credit_terms, account.striping
    terms = (None,) * _TERMS if signed is None else msgspec.structs.astuple(signed)
    buffering = (None,) * _AGREED if agreed is None else msgspec.structs.astuple(agreed)
    stripes = (None,) * _STRIPED if striping is None else msgspec.structs.astuple(striping)
    return (stream, *facts, *buffering, *terms, *stripes, *details)


def _accepted(fold: Fold) -> Rows:
    return {
        (stream,): (stream, *msgspec.structs.astuple(account.accepted))
        for stream, account in fold.accounts.items()
        if account.accepted is not None
    }


def _details(fold: Fold, field: str) -> Rows:
    return {
        (stream, name): (
            stream,
            name,
            *(getattr(detail, column) for column in detail.__struct_fields__),
        )
        for stream, account in fold.accounts.items()
        for name, detail in getattr(account, field).items()
    }


def _books(fold: Fold) -> Rows:
    return {
        (book.book_id,): (
            book.book_id,
            book.name,
            book.open_business_date.isoformat(),
            None if book.closed_through is None else book.closed_through.isoformat(),
            book.version,
        )
        for book in fold.books.values()
    }
