"""Compare every row's booked balance with the one the source states, and say why it differs.

Two figures a row. The *step* is the source against itself: stated balance − the stated one
before − the row's signed amount. The *running difference* is ours against the source:
booked balance − stated balance; it is minus the sum of all steps so far. Invariant: a
difference is called rounding only if every step that made it is off by exactly the
source's rounding; whatever else happened is `unexplained` and named, row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from infra.csv_import.rows import HistoryRow


class BalanceClass(StrEnum):
    """How a row's booked balance stands to the stated one."""

    EXACT = "exact"  # the step is exact and the balances are equal
    ROUNDING_STEP = "rounding_step"  # this very step is off by the source's rounding
    ROUNDING_CARRIED = "rounding_carried"  # exact step; the difference is earlier rounding
    UNEXPLAINED = "unexplained"  # this very step is off by anything else
    UNEXPLAINED_CARRIED = "unexplained_carried"  # exact step after an unexplained one
    LEDGER_DIFFERS = "ledger_differs"  # our own balance did not move by this row alone
    NOT_STATED = "not_stated"  # the file states no balances


EXPLAINED = frozenset(
    {
        BalanceClass.EXACT,
        BalanceClass.ROUNDING_STEP,
        BalanceClass.ROUNDING_CARRIED,
        BalanceClass.NOT_STATED,
    }
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row beside its stated balance. `note` names what may help a person."""

    row: HistoryRow
    booked_minor: int
    step_minor: int
    running_difference_minor: int
    balance_class: BalanceClass
    note: str = ""


@dataclass(slots=True)
class _AccountState:
    booked_minor: int
    stated_minor: int
    unexplained: bool = False


def booked_from_amounts(rows: Iterable[HistoryRow]) -> dict[str, int]:
    """Return each reference's balance if the rows are booked from zero (for a dry run)."""
    running: dict[str, int] = {}
    booked = {}
    for row in rows:
        running[row.account] = running.get(row.account, 0) + row.signed_minor
        booked[row.reference] = running[row.account]
    return booked


def compare(
    rows: Iterable[HistoryRow], booked: Mapping[str, int], rounding_minor: int
) -> list[Comparison]:
    """Compare rows, in posting order, with the balances the ledger answered by reference.

    Rows the ledger has not booked are left out. An account's first row starts from what
    the ledger held before it.
    """
    in_order = [row for row in rows if row.reference in booked]
    last_date = max((row.business_date for row in in_order), default=None)
    states: dict[str, _AccountState] = {}
    comparisons = []
    for row in in_order:
        balance = booked[row.reference]
        before = balance - row.signed_minor
        state = states.setdefault(row.account, _AccountState(before, before))
        compared = _compare_row(row, balance, state, rounding_minor)
        if compared.balance_class is BalanceClass.UNEXPLAINED and row.business_date == last_date:
            compared = _with_note(compared, "on the file's last date: a row may be cut off")
        comparisons.append(compared)
    return comparisons


def _compare_row(
    row: HistoryRow, balance_minor: int, state: _AccountState, rounding_minor: int
) -> Comparison:
    stated = row.stated_minor
    ours_off = balance_minor - state.booked_minor - row.signed_minor
    state.booked_minor = balance_minor
    if stated is None:
        return Comparison(row, balance_minor, 0, 0, _unstated_class(ours_off), _ours(ours_off))
    step = stated - state.stated_minor - row.signed_minor
    state.stated_minor = stated
    difference = balance_minor - stated
    if ours_off:
        state.unexplained = True
        balance_class = BalanceClass.LEDGER_DIFFERS
    elif step and abs(step) == rounding_minor:
        balance_class = BalanceClass.ROUNDING_STEP
    elif step:
        state.unexplained = True
        balance_class = BalanceClass.UNEXPLAINED
    elif difference == 0:
        balance_class = BalanceClass.EXACT
    elif state.unexplained:
        balance_class = BalanceClass.UNEXPLAINED_CARRIED
    else:
        balance_class = BalanceClass.ROUNDING_CARRIED
    return Comparison(row, balance_minor, step, difference, balance_class, _ours(ours_off))


def _unstated_class(ours_off_minor: int) -> BalanceClass:
    return BalanceClass.LEDGER_DIFFERS if ours_off_minor else BalanceClass.NOT_STATED


def _ours(ours_off_minor: int) -> str:
    if not ours_off_minor:
        return ""
    return f"the ledger's balance moved by {ours_off_minor} minor units more than this row"


def _with_note(compared: Comparison, note: str) -> Comparison:
    return Comparison(
        compared.row,
        compared.booked_minor,
        compared.step_minor,
        compared.running_difference_minor,
        compared.balance_class,
        note,
    )
