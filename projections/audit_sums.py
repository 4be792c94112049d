"""What adds up in the books, recomputed: outcome totals, GL balances, account days.

Invariant: the sums are made of the operations and vouchers that the log gives, never of the
rows they are compared with. Amounts are kept per lane and summed here over lanes; a row of a
lane that nobody else knows is a difference, because each lane's sums tie by themselves.
Memory: one entry per account and business date with movements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import Connection

from accounting.voucher import Voucher
from ledger.audit_verdict import ROW, compare_row, differ
from ledger.events import MOVEMENT_KINDS, OperationBooked

TOTALS_CHECK = "outcome totals"
GL_CHECK = "GL balances"
DAYS_CHECK = "account balances by day"
LANES_CHECK = "lanes"
SELECT_TOTALS = """
    SELECT book_id, status, currency, lane, count, amount_minor FROM outcome_totals
    ORDER BY book_id, status, currency, lane
"""
SELECT_GL = """
    SELECT book_id, subject, currency, accounting_date::text, lane, off_balance,
           debit_minor, credit_minor
    FROM gl_balances ORDER BY book_id, subject, currency, accounting_date, lane
"""
SELECT_DAYS = """
    SELECT book_id, account, currency, business_date::text, lane,
           debit_minor, credit_minor, closing_minor, last_version
    FROM account_balances_daily ORDER BY book_id, account, currency, business_date, lane
"""
SELECT_LANES = "SELECT lane FROM positions"
TOTALS = ("book_id", "status", "currency", "lane", "count", "amount_minor")
GL = (
    "book_id",
    "subject",
    "currency",
    "accounting_date",
    "lane",
    "off_balance",
    "debit_minor",
    "credit_minor",
)
DAYS = (
    "book_id",
    "account",
    "currency",
    "business_date",
    "lane",
    "debit_minor",
    "credit_minor",
    "closing_minor",
    "last_version",
)
Key = tuple[str, ...]
Row = tuple[Any, ...]


class Sums:
    """Totals of everything that is in the books, by key without the lane."""

    def __init__(self) -> None:
        self.totals: dict[tuple[str, str, str], list[int]] = {}
        self.gl: dict[tuple[str, str, str, str], list[Any]] = {}
        self.days: dict[tuple[str, str, str, str], list[int]] = {}

    def add_outcome(self, book_id: str, status: str, amounts: Mapping[str, int]) -> None:
        """Count an outcome in every currency it moved."""
        for currency, amount_minor in amounts.items():
            total = self.totals.setdefault((book_id, status, currency), [0, 0])
            total[0] += 1
            total[1] += amount_minor

    def add_voucher(self, voucher: Voucher) -> None:
        """Add a voucher's lines to their subjects."""
        for line in voucher.lines:
            key = (voucher.book_id, line.subject, line.currency, voucher.accounting_date)
            total = self.gl.get(key)
            if total is None:
                total = self.gl[key] = [line.off_balance, 0, 0]
            total[2 if line.side == "credit" else 1] += line.amount_minor

    def add_operation(self, operation: OperationBooked) -> None:
        """Add an operation's movements to its accounts' days."""
        book_id, date, days = operation.book_id, operation.business_date, self.days
        for leg in operation.legs:
            kind = leg.kind
            if kind in MOVEMENT_KINDS:
                key = (book_id, leg.account, leg.currency, date)
                day = days.get(key)
                if day is None:
                    day = days[key] = [0, 0, 0, 0]
                day[kind == "credit"] += leg.amount_minor
                day[2], day[3] = leg.balance_minor, leg.version  # versions only grow

    def compare(self, conn: Connection[Any]) -> None:
        """Compare all three tables. Raises `DifferenceFound`."""
        totals = conn.execute(SELECT_TOTALS).fetchall()
        gl = conn.execute(SELECT_GL).fetchall()
        days = conn.execute(SELECT_DAYS).fetchall()
        # A lane of an earlier bus may be left with a repair's zero sums and its vouchers only.
        lanes = {row[0] for row in conn.execute(SELECT_LANES)} | {row[4] for row in gl}
        _compare(TOTALS_CHECK, "projections.outcome_totals", TOTALS, self.totals, totals)
        _compare(GL_CHECK, "projections.gl_balances", GL, self.gl, gl)
        _compare(DAYS_CHECK, "projections.account_balances_daily", DAYS, self.days, days)
        _compare_lanes(totals, days, lanes)
        _compare_gl_lanes(gl, {row[3] for row in totals})


def _compare(
    check: str,
    table: str,
    columns: tuple[str, ...],
    expected: Mapping[Any, list[Any]],
    rows: Iterable[Row],
) -> None:
    """Compare rows, summed over lanes, with `expected`; a sum of nothing may be left out."""
    keys = columns.index("lane")
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(row[:keys], []).append(row)
    for key in sorted({*expected, *found}):
        parts = found.get(key, [])
        want = expected.get(key)
        have = _summed(columns, parts)
        if have == want or (_is_nothing(want) and _is_nothing(have)):
            continue
        lane = (parts[0][keys],) if len(parts) == 1 else ()
        names = columns[: keys + len(lane)] + columns[keys + 1 :]
        compare_row(
            check,
            table,
            names,
            keys + len(lane),
            None if want is None else (*key, *lane, *want),
            None if have is None else (*key, *lane, *have),
        )


def _summed(columns: tuple[str, ...], parts: list[Row]) -> list[Any] | None:
    """Add up a key's rows of all lanes; flags and closings come from the last one."""
    if not parts:
        return None
    keys = columns.index("lane")
    summed: list[Any] = list(parts[0][keys + 1 :])
    names = columns[keys + 1 :]
    for row in parts[1:]:
        for at, (name, value) in enumerate(zip(names, row[keys + 1 :], strict=True)):
            if name in ("count", "amount_minor", "debit_minor", "credit_minor"):
                summed[at] += value
    if "last_version" in names:
        last = max(parts, key=lambda row: row[-1])
        summed[-2:] = last[-2:]
    return [value if isinstance(value, bool) else int(value) for value in summed]


def _is_nothing(values: list[Any] | None) -> bool:
    return values is None or not any(values)


def _compare_lanes(totals: list[Row], days: list[Row], lanes: set[int]) -> None:
    """Prove that a lane's outcomes moved what its account days moved."""
    moved: dict[tuple[str, str, int], int] = {}
    for book_id, _, currency, _, lane, debit, credit, _, _ in days:
        moved[book_id, currency, lane] = moved.get((book_id, currency, lane), 0) + debit + credit
    known = lanes | {lane for _, _, lane in moved}
    ended: dict[tuple[str, str, int], list[Any]] = {}
    for book_id, status, currency, lane, _, amount in totals:
        entry = ended.setdefault((book_id, currency, lane), [0, []])
        entry[0] += amount
        entry[1].append({"book_id": book_id, "status": status, "currency": currency, "lane": lane})
    for key in sorted({*moved, *ended}, key=lambda key: -key[2]):
        sum_minor, rows = ended.get(key, (0, []))
        if sum_minor != moved.get(key, 0) or key[2] not in known:
            _stray(rows, key, moved.get(key, 0), sum_minor, days)


def _compare_gl_lanes(gl: list[Row], known: set[int]) -> None:
    """Prove that what a lane posted balances per date: vouchers enter whole."""
    sides: dict[tuple[int, str, str, str], list[Any]] = {}
    for book_id, subject, currency, date, lane, off_balance, debit, credit in gl:
        entry = sides.setdefault((lane, book_id, currency, date), [0, {}])
        entry[0] += 0 if off_balance else debit - credit
        row = {"book_id": book_id, "subject": subject, "currency": currency}
        entry[1] = {**row, "accounting_date": date, "lane": lane}
    for key in sorted(sides, reverse=True):
        difference, row = sides[key]
        if difference or key[0] not in known:
            differ(LANES_CHECK, "projections.gl_balances", row, "lane", 0, int(difference))


def _stray(
    rows: list[dict[str, Any]],
    key: tuple[str, str, int],
    expected: int,
    found: int,
    days: list[Row],
) -> None:
    """Name the row of a lane that does not tie: of the totals, or else of the account days."""
    totals = "projections.outcome_totals"
    if rows:
        differ(LANES_CHECK, totals, rows[0], "lane", int(expected), int(found))
    for book_id, account, currency, date, lane, *_ in days:
        if (book_id, currency, lane) == key:
            row = {"book_id": book_id, "account": account, "currency": currency}
            named = {**row, "business_date": date, "lane": lane}
            table = "projections.account_balances_daily"
            differ(LANES_CHECK, table, named, "lane", int(expected), int(found))
    differ(LANES_CHECK, totals, {"lane": key[2]}, ROW, int(expected), int(found))
