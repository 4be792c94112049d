"""The trial balance: opening, movement and closing of every subject, with totals that tie.

Invariant: per currency and at every level of the chart, total debits = total credits in
each pair of columns whenever the vouchers behind the rows balance; no row is left out,
not even one whose subject is no longer in the chart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec
from msgspec import field

from accounting.chart import OFF_BALANCE, Chart
from ledger.money import format_minor

COMMON = "common"
NOT_IN_CHART = "(not in the chart)"
HEADINGS = (
    "opening debit",
    "opening credit",
    "debit",
    "credit",
    "closing debit",
    "closing credit",
)


class BalanceRow(msgspec.Struct, frozen=True, gc=False):
    """What the general ledger keeps: debit and credit totals of a subject in a currency."""

    subject: str
    currency: str
    debit_minor: int
    credit_minor: int


class Columns(msgspec.Struct, frozen=True, gc=False):
    """The six figures of a line, each ≥ 0 but for red vouchers in the movements."""

    opening_debit_minor: int = field(default=0, name="opening_debit")
    opening_credit_minor: int = field(default=0, name="opening_credit")
    debit_minor: int = field(default=0, name="debit")
    credit_minor: int = field(default=0, name="credit")
    closing_debit_minor: int = field(default=0, name="closing_debit")
    closing_credit_minor: int = field(default=0, name="closing_credit")

    def __add__(self, other: Columns) -> Columns:
        """Add column by column."""
        return Columns(*(a + b for a, b in zip(figures(self), figures(other), strict=True)))

    def netted(self) -> Columns:
        """Show the balances on one side each (轧差); movements stay as they are."""
        opening_minor = self.opening_debit_minor - self.opening_credit_minor
        closing_minor = self.closing_debit_minor - self.closing_credit_minor
        return Columns(
            max(opening_minor, 0),
            max(-opening_minor, 0),
            self.debit_minor,
            self.credit_minor,
            max(closing_minor, 0),
            max(-closing_minor, 0),
        )

    def ties(self) -> bool:
        """Tell whether each pair of columns has equal sides."""
        return (
            self.opening_debit_minor == self.opening_credit_minor
            and self.debit_minor == self.credit_minor
            and self.closing_debit_minor == self.closing_credit_minor
        )


class TrialBalanceLine(msgspec.Struct, frozen=True, gc=False):
    """One subject in one currency. `is_total`: lines below it are shown and make it up."""

    subject: str
    name: str
    subject_class: str
    level: int
    currency: str
    is_total: bool
    columns: Columns


class CurrencyTotal(msgspec.Struct, frozen=True, gc=False):
    """The sum of the lowest lines shown, off-balance ones left out."""

    currency: str
    columns: Columns
    ties: bool


class TrialBalance(msgspec.Struct, frozen=True, gc=False):
    """Lines by currency and chart order, and one total per currency."""

    lines: tuple[TrialBalanceLine, ...]
    totals: tuple[CurrencyTotal, ...]

    @property
    def ties(self) -> bool:
        """Tell whether every currency ties."""
        return all(total.ties for total in self.totals)


def figures(columns: Columns) -> tuple[int, ...]:
    """Give the six figures in the order of the headings."""
    return (
        columns.opening_debit_minor,
        columns.opening_credit_minor,
        columns.debit_minor,
        columns.credit_minor,
        columns.closing_debit_minor,
        columns.closing_credit_minor,
    )


def trial_balance(
    chart: Chart,
    movements: Iterable[BalanceRow],
    opening: Iterable[BalanceRow] = (),
    *,
    level: int | None = None,
) -> TrialBalance:
    """Make the trial balance of a period down to `level` (default: the whole chart).

    `movements` are the debit and credit totals of the period, `opening` those of all time
    before it; rows of one subject (several lanes) are added up. A leaf's balance stands on
    the side where it falls. A parent shows its children's debit and credit balances side
    by side, except subjects of class common, which are netted at every level.
    """
    by_key = _leaf_columns(movements, opening)
    order = {subject.code: no for no, subject in enumerate(chart.in_order())}
    rolled: dict[tuple[str, str], Columns] = {}
    level_max = level if level is not None else len(chart.settings.levels)
    for (currency, code), columns in by_key.items():
        for at in chart.path(code) if code in order else (code,):
            if code not in order or chart.level(at) <= level_max:
                key = currency, at
                rolled[key] = rolled.get(key, Columns()) + columns
    keys = sorted(rolled, key=lambda key: (key[0], order.get(key[1], len(order)), key[1]))
    lines = tuple(_line(chart, currency, at, rolled, level_max) for currency, at in keys)
    return TrialBalance(lines, _totals(lines))


def _leaf_columns(
    movements: Iterable[BalanceRow], opening: Iterable[BalanceRow]
) -> dict[tuple[str, str], Columns]:
    """Add up the rows of each (currency, subject) into its six figures."""
    found: dict[tuple[str, str], list[int]] = {}
    for at, rows in ((0, opening), (2, movements)):
        for row in rows:
            figure = found.setdefault((row.currency, row.subject), [0, 0, 0, 0])
            figure[at] += row.debit_minor
            figure[at + 1] += row.credit_minor
    return {
        key: Columns(before_dr, before_cr, dr, cr, before_dr + dr, before_cr + cr).netted()
        for key, (before_dr, before_cr, dr, cr) in found.items()
    }


def _line(
    chart: Chart,
    currency: str,
    code: str,
    rolled: dict[tuple[str, str], Columns],
    level_max: int,
) -> TrialBalanceLine:
    columns = rolled[currency, code]
    subject = chart.subjects.get(code)
    if subject is None:
        return TrialBalanceLine(
            code, NOT_IN_CHART, "", 1, currency, is_total=False, columns=columns
        )
    level = chart.level(code)
    if subject.subject_class == COMMON:
        columns = columns.netted()
    is_total = code not in chart.leaves and level < level_max
    return TrialBalanceLine(
        code, subject.name, subject.subject_class, level, currency, is_total, columns
    )


def _totals(lines: Sequence[TrialBalanceLine]) -> tuple[CurrencyTotal, ...]:
    totals: list[CurrencyTotal] = []
    for currency, of_currency in groupby(lines, key=lambda line: line.currency):
        total = Columns()
        for line in of_currency:
            if not line.is_total and line.subject_class != OFF_BALANCE:
                total += line.columns
        totals.append(CurrencyTotal(currency, total, total.ties()))
    return tuple(totals)


def trial_balance_text(balance: TrialBalance, *, movements_only: bool = False) -> str:
    """Write the sheet as a text table; off-balance subjects stand below the totals.

    `movements_only` leaves the opening columns out, for books shown from their beginning.
    """
    shown = slice(2 if movements_only else 0, 6)
    blocks = [
        _currency_text(balance, total, shown)
        for total in sorted(balance.totals, key=lambda total: total.currency)
    ]
    return "\n".join(blocks)


def _currency_text(balance: TrialBalance, total: CurrencyTotal, shown: slice) -> str:
    currency = total.currency
    lines = [line for line in balance.lines if line.currency == currency]
    table = [("subject", f"name ({currency})", *HEADINGS[shown])]
    table += [_row(line, shown) for line in lines if line.subject_class != OFF_BALANCE]
    verdict = "ties" if total.ties else "DOES NOT TIE"
    table.append(("total", verdict, *_money(figures(total.columns)[shown], currency, "0")))
    table += [_row(line, shown) for line in lines if line.subject_class == OFF_BALANCE]
    widths = [max(len(row[no]) for row in table) for no in range(len(table[0]))]
    written = []
    for row in table:
        words = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        words += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        written.append("  ".join(words).rstrip())
    return "\n".join(written) + "\n"


def _row(line: TrialBalanceLine, shown: slice) -> tuple[str, ...]:
    name = "  " * (line.level - 1) + line.name
    return line.subject, name, *_money(figures(line.columns)[shown], line.currency, "")


def _money(figures_minor: Iterable[int], currency: str, zero: str) -> list[str]:
    """Write major units; an empty cell is easier on the eye than a zero."""
    return [format_minor(minor, currency) if minor or zero else "" for minor in figures_minor]
