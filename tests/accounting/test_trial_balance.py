"""Operations in, trial balance out: sheets an accountant can check by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.chart import Chart, ChartSettings, Subject
from accounting.rules import Parked, voucher_for
from accounting.ruleset_files import shipped_ruleset
from accounting.trial_balance import BalanceRow, TrialBalance, trial_balance, trial_balance_text
from tests.accounting.operation_text import balance_rows, operations

EXAMPLES = Path(__file__).parent / "examples"
SHIPPED = shipped_ruleset()


def rows(day: str) -> list[BalanceRow]:
    """Post a day; a declared non-posting operation leaves no rows."""
    outcomes = [voucher_for(booked, SHIPPED) for booked in operations(day)]
    assert not [outcome for outcome in outcomes if isinstance(outcome, Parked)]
    return balance_rows(
        voucher for outcome in outcomes if isinstance(outcome, tuple) for voucher in outcome
    )


def sections(name: str) -> dict[str, str]:
    """Split an example file at its `== heading` lines."""
    found: dict[str, str] = {}
    for part in (EXAMPLES / name).read_text(encoding="utf-8").split("== ")[1:]:
        heading, _, body = part.partition("\n")
        found[heading] = body.rstrip("\n") + "\n"
    return found


@pytest.mark.parametrize("level", [None, 1])
def test_a_day_of_a_payment_company(level: int | None) -> None:
    example = sections("payment_day.txt")

    balance = trial_balance(SHIPPED.chart, rows(example["operations"]), level=level)

    expected = example[f"trial balance, {f'level {level}' if level else 'all levels'}"]
    assert trial_balance_text(balance, movements_only=True) == expected
    assert balance.ties


def test_opening_plus_movement_is_closing() -> None:
    example = sections("two_days.txt")

    balance = trial_balance(
        SHIPPED.chart, rows(example["second day"]), rows(example["first day"]), level=1
    )

    assert trial_balance_text(balance) == example["trial balance of the second day, level 1"]


COMMON = Chart(
    [
        Subject("1", "Cash", "asset"),
        Subject("3", "Between books", "common"),
        Subject("3.1", "With book A", "common", "3"),
        Subject("3.2", "With book B", "common", "3"),
        Subject("2", "Deposits", "liability"),
        Subject("2.1", "Customers", "liability", "2"),
        Subject("2.2", "Staff", "liability", "2"),
    ],
    ChartSettings(),
)


def text_of(balance: TrialBalance) -> str:
    return trial_balance_text(balance, movements_only=True)


def test_common_subjects_are_shown_net_and_others_on_both_sides() -> None:
    some = [
        BalanceRow("3.1", "EUR", 700, 0),
        BalanceRow("3.2", "EUR", 0, 300),
        BalanceRow("2.1", "EUR", 0, 900),
        BalanceRow("2.2", "EUR", 100, 0),
        BalanceRow("1", "EUR", 400, 0),
    ]

    example = sections("common_shown_net.txt")

    assert text_of(trial_balance(COMMON, some)) == example["all levels"]
    assert text_of(trial_balance(COMMON, some, level=1)) == example["level 1"]


def test_a_subject_that_left_the_chart_is_still_in_the_sheet() -> None:
    some = [BalanceRow("1", "EUR", 100, 0), BalanceRow("old", "EUR", 0, 100)]

    balance = trial_balance(COMMON, some, level=1)

    assert [(line.subject, line.name) for line in balance.lines] == [
        ("1", "Cash"),
        ("old", "(not in the chart)"),
    ]
    assert balance.ties


def test_books_that_do_not_balance_say_so() -> None:
    balance = trial_balance(COMMON, [BalanceRow("1", "EUR", 100, 0)])

    assert not balance.ties
    assert "DOES NOT TIE" in trial_balance_text(balance)


def test_empty_books_give_an_empty_sheet() -> None:
    balance = trial_balance(COMMON, [])

    assert (balance.lines, balance.totals, balance.ties) == ((), (), True)
    assert trial_balance_text(balance) == ""


ROWS = st.lists(
    st.builds(
        BalanceRow,
        st.sampled_from(["1", "2.1", "2.2", "3.1", "3.2"]),
        st.just("EUR"),
        st.integers(0, 9),
        st.integers(0, 9),
    )
)


@given(ROWS, ROWS)
def test_balanced_rows_tie_at_every_level(
    moved: list[BalanceRow], before: list[BalanceRow]
) -> None:
    def balanced(some: list[BalanceRow]) -> list[BalanceRow]:
        mirrored = [BalanceRow("1", "EUR", row.credit_minor, row.debit_minor) for row in some]
        return some + mirrored

    for level in (1, 2, None):
        balance = trial_balance(COMMON, balanced(moved), balanced(before), level=level)
        assert balance.ties
        for line in balance.lines:
            columns = line.columns
            opening = columns.opening_debit_minor - columns.opening_credit_minor
            movement = columns.debit_minor - columns.credit_minor
            closing = columns.closing_debit_minor - columns.closing_credit_minor
            assert opening + movement == closing
