"""GL balances: debit and credit totals per subject, currency and accounting date.

Kept per lane and summed when read, so that lanes do not queue on a few hot rows.
Invariant: they equal the sums of the voucher lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection

from accounting.trial_balance import BalanceRow, TrialBalance, trial_balance
from accounting.voucher import Voucher
from projections.rulesets import select_latest_ruleset
from projections.tables import json_rows

POST = """
    INSERT INTO gl_balances (book_id, subject, currency, accounting_date, lane, off_balance,
                             debit_minor, credit_minor)
    SELECT book_id, subject, currency, accounting_date, lane, off_balance,
           debit_minor, credit_minor
    FROM json_to_recordset(%s::json) AS fresh(book_id text, subject text, currency text,
        accounting_date date, lane integer, off_balance boolean,
        debit_minor numeric, credit_minor numeric)
    ORDER BY book_id, subject, currency, accounting_date, lane
    ON CONFLICT ON CONSTRAINT gl_balances_pkey DO UPDATE
    SET debit_minor = gl_balances.debit_minor + EXCLUDED.debit_minor,
        credit_minor = gl_balances.credit_minor + EXCLUDED.credit_minor
"""
SELECT_SUMS = """
    SELECT subject, currency, sum(debit_minor), sum(credit_minor) FROM gl_balances
    WHERE book_id = %(book)s
      AND (%(from)s::date IS NULL OR accounting_date >= %(from)s)
      AND (%(to)s::date IS NULL OR accounting_date <= %(to)s)
    GROUP BY subject, currency ORDER BY subject, currency
"""
SELECT_DAYS = """
    SELECT subject, currency, accounting_date, bool_or(off_balance),
           sum(debit_minor), sum(credit_minor)
    FROM gl_balances
    WHERE book_id = %(book)s
      AND (%(subject)s::text IS NULL OR subject = %(subject)s)
      AND (%(from)s::date IS NULL OR accounting_date >= %(from)s)
      AND (%(to)s::date IS NULL OR accounting_date <= %(to)s)
    GROUP BY subject, currency, accounting_date ORDER BY subject, currency, accounting_date
"""


# book, subject, currency, accounting date, off the balance sheet → debits and credits
LineSums = dict[tuple[str, str, str, str, bool], list[int]]


class _Row(msgspec.Struct, frozen=True, gc=False):
    book_id: str
    subject: str
    currency: str
    accounting_date: str
    lane: int
    off_balance: bool
    debit_minor: str
    credit_minor: str


class GlDay(msgspec.Struct, frozen=True):
    """A subject's movements of one accounting date."""

    subject: str
    currency: str
    accounting_date: str
    off_balance: bool
    debit_minor: int = field(name="debit")
    credit_minor: int = field(name="credit")


def post_lines_in_tx(conn: Connection[Any], vouchers: Iterable[Voucher], lane: int) -> None:
    """Add the lines of vouchers to the lane's balances."""
    sums: LineSums = {}
    add_lines(sums, vouchers)
    post_line_sums_in_tx(conn, sums, lane)


def add_lines(sums: LineSums, vouchers: Iterable[Voucher]) -> None:
    """Add the lines of vouchers to sums in memory."""
    for voucher in vouchers:
        book_id, date = voucher.book_id, voucher.accounting_date
        for line in voucher.lines:
            key = (book_id, line.subject, line.currency, date, line.off_balance)
            pair = sums.get(key)
            if pair is None:
                pair = sums[key] = [0, 0]
            pair[line.side == "credit"] += line.amount_minor


def post_line_sums_in_tx(conn: Connection[Any], sums: LineSums, lane: int) -> None:
    """Add sums to the lane's balances, in key order."""
    rows = [
        _Row(*key[:4], lane, key[4], str(debit_minor), str(credit_minor))
        for key, (debit_minor, credit_minor) in sums.items()
    ]
    if rows:
        conn.execute(POST, (json_rows(rows),))


def select_balance_rows(
    conn: Connection[Any], book_id: str, *, from_date: str | None = None, to_date: str | None = None
) -> list[BalanceRow]:
    """Sum both sides per subject and currency over accounting dates (inclusive)."""
    values = {"book": book_id, "from": from_date, "to": to_date}
    return [
        BalanceRow(subject, currency, int(debit_minor), int(credit_minor))
        for subject, currency, debit_minor, credit_minor in conn.execute(SELECT_SUMS, values)
    ]


def select_gl_days(
    conn: Connection[Any],
    book_id: str,
    *,
    subject: str | None = None,
    from_date: str | None = None,
    to_date: str | None = None,
) -> list[GlDay]:
    """List movements per subject, currency and accounting date."""
    values = {"book": book_id, "subject": subject, "from": from_date, "to": to_date}
    return [
        GlDay(code, currency, date.isoformat(), off_balance, int(debit_minor), int(credit_minor))
        for code, currency, date, off_balance, debit_minor, credit_minor in conn.execute(
            SELECT_DAYS, values
        )
    ]


def select_trial_balance(
    conn: Connection[Any],
    book_id: str,
    *,
    from_date: str | None = None,
    at_date: str | None = None,
    level: int | None = None,
) -> TrialBalance:
    """Make the trial balance at the end of `at_date` (default: of everything).

    With `from_date` the columns of movement are those of the period, and what was before
    is the opening. The chart is that of the book's latest published ruleset.
    """
    ruleset = select_latest_ruleset(conn, book_id)
    movements = select_balance_rows(conn, book_id, from_date=from_date, to_date=at_date)
    opening = _before(conn, book_id, from_date) if from_date else []
    return trial_balance(ruleset.chart, movements, opening, level=level)


def _before(conn: Connection[Any], book_id: str, from_date: str) -> list[BalanceRow]:
    sums: dict[tuple[str, str], list[int]] = {}
    for day in select_gl_days(conn, book_id, to_date=from_date):
        if day.accounting_date < from_date:
            pair = sums.setdefault((day.subject, day.currency), [0, 0])
            pair[0] += day.debit_minor
            pair[1] += day.credit_minor
    return [BalanceRow(*key, *pair) for key, pair in sums.items()]
