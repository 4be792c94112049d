"""Account balances by day: each ledger account's movements and closing per business date.

Kept per lane (an account's operations may travel in several partitions) and summed when
read; the closing is the one after the highest version. Invariant: closing of the last day =
the account's balance in the ledger, once the books have caught up; an account with stripes is
read as one account (`striped_days.py`), a part by its own number as what lies there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection

from ledger.events import MOVEMENT_KINDS, OperationBooked
from ledger.reads import select_parts_in_tx
from projections.pages import Page, checked_limit, page_of, read_cursor
from projections.striped_days import PartDay, select_striped_days
from projections.tables import integer_array, text_array

POST = """
    INSERT INTO account_balances_daily AS old (book_id, account, currency, business_date, lane,
        debit_minor, credit_minor, closing_minor, last_version)
    SELECT book_id, account, currency, business_date, %s,
           debit_minor, credit_minor, closing_minor, last_version
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::date[], %s::numeric[], %s::numeric[],
                %s::bigint[], %s::bigint[])
      AS fresh(book_id, account, currency, business_date, debit_minor, credit_minor,
               closing_minor, last_version)
    ORDER BY book_id, account, currency, business_date
    ON CONFLICT ON CONSTRAINT account_balances_daily_pkey DO UPDATE
    SET debit_minor = old.debit_minor + EXCLUDED.debit_minor,
        credit_minor = old.credit_minor + EXCLUDED.credit_minor,
        closing_minor = CASE WHEN EXCLUDED.last_version > old.last_version
                             THEN EXCLUDED.closing_minor ELSE old.closing_minor END,
        last_version = greatest(old.last_version, EXCLUDED.last_version)
"""
SELECT_DAYS = """
    SELECT currency, business_date, sum(debit_minor), sum(credit_minor),
           (array_agg(closing_minor ORDER BY last_version DESC))[1], max(last_version)
    FROM account_balances_daily
    WHERE book_id = %(book)s AND account = %(account)s
      AND (%(from)s::date IS NULL OR business_date >= %(from)s)
      AND (%(to)s::date IS NULL OR business_date <= %(to)s)
      AND (%(after_date)s::date IS NULL
           OR (business_date, currency) > (%(after_date)s::date, %(after_currency)s::text))
    GROUP BY currency, business_date ORDER BY business_date, currency LIMIT %(limit)s
"""


# book, account, currency, business date → debits, credits, closing, its version
LegSums = dict[tuple[str, str, str, str], list[int]]
WrittenDays = tuple[str, ...]  # an array for each of these columns


class AccountDay(msgspec.Struct, frozen=True, omit_defaults=True):
    """An account's business date: movements, closing balance in its normal side.

    `parts` is there for an account with stripes: where the day was booked, gatherings in it.
    """

    currency: str
    business_date: str
    debit_minor: int = field(name="debit")
    credit_minor: int = field(name="credit")
    closing_minor: int = field(name="closing")
    last_version: int
    parts: tuple[PartDay, ...] = ()


def add_legs(days: LegSums, operations: Iterable[OperationBooked]) -> None:
    """Add the movement legs of operations to days in memory."""
    for operation in operations:
        book_id, date = operation.book_id, operation.business_date
        for leg in operation.legs:
            if leg.kind not in MOVEMENT_KINDS:
                continue
            key = (book_id, leg.account, leg.currency, date)
            day = days.get(key)
            if day is None:
                day = days[key] = [0, 0, 0, -1]
            day[leg.kind == "credit"] += leg.amount_minor
            if leg.version > day[3]:
                day[2], day[3] = leg.balance_minor, leg.version


def write_leg_sums(days: LegSums) -> WrittenDays:
    """Write days, one at least, as `post_leg_sums_in_tx` sends them."""
    books, accounts, currencies, dates = zip(*days, strict=True)
    return (
        *map(text_array, (books, accounts, currencies, dates)),
        *map(integer_array, zip(*days.values(), strict=True)),
    )


def post_leg_sums_in_tx(conn: Connection[Any], written: WrittenDays, lane: int) -> None:
    """Add written days to the lane's, in key order."""
    conn.execute(POST, (lane, *written))


def select_account_days(
    conn: Connection[Any],
    book_id: str,
    account: str,
    *,
    from_date: str | None = None,
    to_date: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[AccountDay]:
    """List an account's business dates with movements; `conn` is in a snapshot."""
    after = read_cursor(cursor, str, str) or (None, None)
    parts = select_parts_in_tx(conn, book_id, account)
    if len(parts) > 1:
        home, *stripes = parts
        wholes = select_striped_days(
            conn,
            home,
            stripes,
            after=after[0],
            from_date=from_date,
            to_date=to_date,
            limit=checked_limit(limit) + 1,
        )
        striped = [AccountDay(home.currency, *day) for day in wholes]
        return page_of(striped, limit, _key)
    rows = conn.execute(
        SELECT_DAYS,
        {
            "book": book_id,
            "account": account,
            "from": from_date,
            "to": to_date,
            "after_date": after[0],
            "after_currency": after[1],
            "limit": checked_limit(limit) + 1,
        },
    )
    days = [
        AccountDay(
            currency, date.isoformat(), int(debit_minor), int(credit_minor), closing, version
        )
        for currency, date, debit_minor, credit_minor, closing, version in rows
    ]
    return page_of(days, limit, _key)


def _key(day: AccountDay) -> tuple[str, str]:
    return day.business_date, day.currency
