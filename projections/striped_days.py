"""The days of an account with stripes: one row per business date, made of those of its parts.

Invariant: a day says what it would say without striping. What leaves a stripe is gathered to its
home and by nothing else (`ledger/stripes.py`), so the inflows of the whole are those of all parts
less what left stripes, its outflows are its home's, and its closing is the sum of the parts'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from msgspec import field
from psycopg import Connection

from ledger.account import Account

# A part's last day before the page: its closing goes on until it moves again.
SELECT_BEFORE = """
    SELECT part.account, day.closing_minor, day.last_version
    FROM unnest(%(parts)s::text[]) AS part (account)
    CROSS JOIN LATERAL (
        SELECT closing_minor, last_version FROM account_balances_daily
        WHERE book_id = %(book)s AND account = part.account AND currency = %(currency)s
          AND business_date < greatest(%(from)s::date, %(after)s::date + 1)
        ORDER BY business_date DESC, last_version DESC LIMIT 1
    ) AS day
"""
# A date on which money was gathered and nothing else moved is none of the whole's.
SELECT_PARTS = """
    WITH days AS MATERIALIZED (
        SELECT account, business_date, sum(debit_minor) AS debits, sum(credit_minor) AS credits,
               (array_agg(closing_minor ORDER BY last_version DESC))[1] AS closing,
               max(last_version) AS last_version
        FROM account_balances_daily
        WHERE book_id = %(book)s AND account = ANY(%(parts)s) AND currency = %(currency)s
          AND (%(from)s::date IS NULL OR business_date >= %(from)s)
          AND (%(after)s::date IS NULL OR business_date > %(after)s)
          AND (%(to)s::date IS NULL OR business_date <= %(to)s)
        GROUP BY account, business_date
    ), page AS (
        SELECT business_date FROM days
        GROUP BY business_date
        HAVING sum(debits + credits) > 2 * sum(CASE
            WHEN account = %(home)s THEN 0
            WHEN %(side)s = 'credit' THEN debits ELSE credits END)
        ORDER BY business_date LIMIT %(limit)s
    )
    SELECT account, business_date, debits, credits, closing, last_version
    FROM days WHERE business_date <= (SELECT max(business_date) FROM page)
    ORDER BY business_date, account
"""


class PartDay(msgspec.Struct, frozen=True):
    """A part's business date as it was booked there, gatherings in it."""

    account: str
    debit_minor: int = field(name="debit")
    credit_minor: int = field(name="credit")
    closing_minor: int = field(name="closing")


class WholeDay(NamedTuple):
    """A business date of all parts together; `last_version` is of the account's own stream."""

    business_date: str
    debit_minor: int
    credit_minor: int
    closing_minor: int
    last_version: int
    parts: tuple[PartDay, ...]


def select_striped_days(
    conn: Connection[Any],
    home: Account,
    stripes: Sequence[Account],
    *,
    after: str | None,
    from_date: str | None,
    to_date: str | None,
    limit: int,
) -> list[WholeDay]:
    """Return the first dates of the whole after one of them, from and to a date, each inclusive."""
    numbers = [home.number, *(stripe.number for stripe in stripes)]
    asked = {
        "book": home.book_id,
        "home": home.number,
        "parts": numbers,
        "currency": home.currency,
        "side": home.normal_side,
        "after": after,
        "from": from_date,
        "to": to_date,
        "limit": limit,
    }
    before = conn.execute(SELECT_BEFORE, asked).fetchall()
    closings = {number: closing_minor for number, closing_minor, _ in before}
    version = next((version for number, _, version in before if number == home.number), 0)
    days: list[WholeDay] = []
    for date, rows in groupby(conn.execute(SELECT_PARTS, asked), key=lambda row: row[1]):
        moved: dict[str, tuple[int, int]] = {}
        for number, _, debits_minor, credits_minor, closing_minor, last_version in rows:
            moved[number] = (int(debits_minor), int(credits_minor))
            closings[number] = closing_minor
            version = last_version if number == home.number else version
        debit_minor, credit_minor = _whole(home, moved)
        if debit_minor or credit_minor:
            parts = tuple(_part_days(numbers, moved, closings))
            total_minor = sum(closings.values())
            day = WholeDay(date.isoformat(), debit_minor, credit_minor, total_minor, version, parts)
            days.append(day)
    return days


def _whole(home: Account, moved: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Return debits and credits of the whole: what left a stripe came in once, not twice."""
    debit_minor, credit_minor = (sum(sums) for sums in zip(*moved.values(), strict=True))
    outward = 0 if home.normal_side == "credit" else 1
    gathered_minor = sum(sums[outward] for number, sums in moved.items() if number != home.number)
    return debit_minor - gathered_minor, credit_minor - gathered_minor


def _part_days(
    numbers: Iterable[str], moved: dict[str, tuple[int, int]], closings: dict[str, int]
) -> Iterable[PartDay]:
    """Say where a day moved money and where it left some, on the account itself first."""
    for number in numbers:
        debit_minor, credit_minor = moved.get(number, (0, 0))
        if debit_minor or credit_minor or closings.get(number):
            yield PartDay(number, debit_minor, credit_minor, closings.get(number, 0))
