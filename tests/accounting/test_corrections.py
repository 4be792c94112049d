"""A correction takes a voucher back to zero, by the sign or by the side as the dates ask."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.corrections import controlled_movement, correcting_vouchers, correction_kind
from accounting.ruleset_files import shipped_ruleset
from accounting.voucher import Voucher, VoucherLine, currency_differences
from tests.accounting.operation_text import lines_text, operation, posted, words

SHIPPED = shipped_ruleset()
RECHARGE = operation(
    "recharge",
    """
    credit C-1 2001.01 100.00 CNY
    fee                  0.60 CNY
    """,
)
DATES = st.sampled_from(["2026-01-31", "2026-02-01", "2027-01-01"])
LINES = st.lists(
    st.builds(
        VoucherLine,
        line_no=st.just(1),
        side=st.sampled_from(["debit", "credit"]),
        subject=st.sampled_from(["1131.01", "2001.01", "9001.01"]),
        currency=st.sampled_from(["CNY", "JPY"]),
        amount_minor=st.integers(1, 2**63 - 1),
        account=st.sampled_from([None, "C-1"]),
        off_balance=st.booleans(),
    )
).map(tuple)


def net(vouchers: list[Voucher]) -> dict[tuple[str, str, str | None], int]:
    total: Counter[tuple[str, str, str | None]] = Counter()
    for voucher in vouchers:
        for line in voucher.lines:
            signed = line.amount_minor if line.side == "debit" else -line.amount_minor
            total[line.subject, line.currency, line.account] += signed
    return {key: minor for key, minor in total.items() if minor}


@pytest.mark.parametrize(
    ("open_date", "kind"),
    [("2026-01-31", "void"), ("2026-12-31", "red"), ("2027-01-01", "opposite")],
)
def test_the_dates_decide_how_a_voucher_is_taken_back(open_date: str, kind: str) -> None:
    assert correction_kind("2026-01-31", open_date) == kind


def test_in_the_same_year_the_red_voucher_is_negative_on_the_same_side() -> None:
    (voucher,) = posted(RECHARGE, SHIPPED)

    (red,) = correcting_vouchers(voucher, decision_id="D-1", open_date="2026-02-01")

    assert lines_text(red.lines) == words(
        """
        Dr 1131.01     -100.00 CNY
        Cr 2001.01 C-1 -100.00 CNY
        Dr 6001.01       -0.60 CNY
        Cr 2202.01       -0.60 CNY
        """
    )
    assert (red.voucher_id, red.corrects) == ("B/D-1/1", "B/O-1/1")
    assert (red.accounting_date, red.rule_id) == ("2026-02-01", "correction.red")


def test_for_an_earlier_year_the_voucher_is_booked_on_the_opposite_side() -> None:
    (voucher,) = posted(RECHARGE, SHIPPED)

    (opposite,) = correcting_vouchers(voucher, decision_id="D-1", open_date="2027-01-01")

    assert lines_text(opposite.lines) == words(
        """
        Cr 1131.01     100.00 CNY
        Dr 2001.01 C-1 100.00 CNY
        Cr 6001.01       0.60 CNY
        Dr 2202.01       0.60 CNY
        """
    )


def test_a_wrong_contra_subject_is_rebooked_in_blue_and_no_controlled_subject_moves() -> None:
    (voucher,) = posted(RECHARGE, SHIPPED)
    correct = [VoucherLine(1, "debit", "1002.01.01", "CNY", 10000), *voucher.lines[1:]]

    red, blue = correcting_vouchers(
        voucher, decision_id="D-1", open_date="2026-02-01", correct_lines=correct
    )

    assert (blue.voucher_id, blue.rule_id) == ("B/D-1/2", "correction.blue")
    assert net([voucher, red, blue]) == net([blue])
    assert currency_differences(red.lines) == currency_differences(blue.lines) == {}
    assert controlled_movement([red, blue], SHIPPED.chart) == {}
    assert controlled_movement([red], SHIPPED.chart) == {("2001.01", "CNY"): 10000}


@given(LINES, DATES)
def test_a_voucher_and_its_correction_sum_to_zero(
    lines: tuple[VoucherLine, ...], open_date: str
) -> None:
    voucher = Voucher("B", "O", 1, "2026-01-31", "any", "r", "h", lines)

    vouchers = correcting_vouchers(voucher, decision_id="D", open_date=open_date)

    assert net([voucher, *vouchers]) == {}
    assert [line.off_balance for line in vouchers[0].lines] == [x.off_balance for x in lines]
