"""Every row's booked balance beside the stated one: classes, and what is named one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.csv_import.history import order_history
from infra.csv_import.stated_balance import Comparison, booked_from_amounts, compare
from tests.csv_import.builders import a_row


def classes(compared: list[Comparison]) -> list[tuple[str, int, int]]:
    return [(c.balance_class.value, c.step_minor, c.running_difference_minor) for c in compared]


def test_rounding_is_told_from_what_it_carries_and_may_cancel_out() -> None:
    rows = [
        a_row("1", 1000, 1000),
        a_row("2", 500, 1510),
        a_row("3", 500, 2010),
        a_row("4", -10, 1990),
        a_row("5", 10, 2000),
    ]

    compared = compare(rows, booked_from_amounts(rows), 10)

    assert classes(compared) == [
        ("exact", 0, 0),
        ("rounding_step", 10, -10),
        ("rounding_carried", 0, -10),
        ("rounding_step", -10, 0),
        ("exact", 0, 0),
    ]


def test_any_other_step_is_unexplained_and_taints_what_follows() -> None:
    rows = [
        a_row("1", 1000, 1000),
        a_row("2", 500, 1777),
        a_row("3", 500, 2277, day=2),
        a_row("4", 500, 2787, day=2),
        a_row("5", 500, 3010, day=2),
    ]

    compared = compare(rows, booked_from_amounts(rows), 10)

    assert classes(compared) == [
        ("exact", 0, 0),
        ("unexplained", 277, -277),
        ("unexplained_carried", 0, -277),
        ("rounding_step", 10, -287),
        ("unexplained", -277, -10),
    ]
    assert [c.note for c in compared if c.balance_class == "unexplained"] == [
        "",
        "on the file's last date: a row may be cut off",
    ]


def test_a_first_row_that_does_not_start_from_zero_is_unexplained() -> None:
    rows = [a_row("1", 1000, 5000), a_row("2", 1, 5001)]

    compared = compare(rows, booked_from_amounts(rows), 10)

    assert classes(compared) == [("unexplained", 4000, -4000), ("unexplained_carried", 0, -4000)]


def test_a_first_row_starts_from_what_the_ledger_held_before() -> None:
    rows = [a_row("1", 1000, 5000)]

    assert classes(compare(rows, {"1": 5000}, 10)) == [("exact", 0, 0)]


def test_a_ledger_balance_that_another_movement_changed_is_named() -> None:
    rows = [a_row("1", 1000, 1000), a_row("2", 1, 1001)]

    (_, second) = compare(rows, {"1": 1000, "2": 1501}, 10)

    assert classes([second]) == [("ledger_differs", 0, 500)]
    assert "500 minor units" in second.note


def test_rows_the_ledger_has_not_booked_are_not_compared() -> None:
    rows = [a_row("1", 1000, 1000), a_row("2", 1, 1001)]

    assert len(compare(rows, {"1": 1000}, 10)) == 1


def test_accounts_are_compared_apart() -> None:
    rows = [a_row("1", 5, 5), a_row("2", 9, 9, account="B"), a_row("3", 1, 6)]

    compared = compare(rows, booked_from_amounts(rows), 10)

    assert {c.balance_class.value for c in compared} == {"exact"}


def test_a_file_that_states_no_balances_is_said_to() -> None:
    rows = [a_row("1", 5, None), a_row("2", 5, None)]

    compared = compare(order_history(rows, 10).rows, booked_from_amounts(rows), 10)

    assert {c.balance_class.value for c in compared} == {"not_stated"}


def test_a_first_day_is_ordered_even_when_it_does_not_start_from_zero() -> None:
    rows = [a_row("1", 200, 5200), a_row("2", -100, 5000), a_row("3", 7, 5207, day=2)]

    history = order_history(rows, 10)

    assert [row.reference for row in history.rows] == ["2", "1", "3"]
    assert (history.days, history.days_reordered, history.days_broken) == (2, 1, 0)


@given(
    st.lists(
        st.tuples(st.integers(-500, 500).filter(bool), st.sampled_from([0, 0, 10, -10, 33])),
        max_size=30,
    )
)
def test_the_running_difference_is_minus_the_sum_of_all_steps(
    steps: list[tuple[int, int]],
) -> None:
    stated, rows = 0, []
    for number, (signed, added) in enumerate(steps, start=1):
        stated += signed + added
        rows.append(a_row(str(number), signed, stated))

    total = 0
    for compared in compare(rows, booked_from_amounts(rows), 10):
        total += compared.step_minor
        assert compared.running_difference_minor == -total
