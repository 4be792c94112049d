"""From operation to voucher: every reason to park, in order, and what always holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.rules import NonPosting, Parked, ParkedReason, Ruleset, voucher_for
from accounting.ruleset_files import shipped_ruleset
from accounting.voucher import currency_differences
from ledger.events import MOVEMENT_KINDS, BookedLeg, NamedAmount, OperationBooked
from ledger.money import AMOUNT_MAX
from tests.accounting.operation_text import operation, outcome_text, posted, valid, words

BOOKS = """
version = "test"
[chart]
suspense_subject = "2241"
currencies = ["CNY", "JPY"]
[[subject]]
code = "1131"
name = "Clearing"
class = "asset"
[[subject]]
code = "2001"
name = "Deposits"
class = "liability"
[[subject]]
code = "2001.01"
name = "Customers"
class = "liability"
parent = "2001"
controlled = true
[[subject]]
code = "2002"
name = "Merchants"
class = "liability"
controlled = true
[[subject]]
code = "2241"
name = "Suspense"
class = "liability"
controlled = true
[[subject]]
code = "5001"
name = "Income"
class = "income"

[[rule]]
id = "recharge"
business_type = "recharge"
effective_from = 2026-01-01
amounts = { fee = "required", bonus = "optional" }
must_post = true
lines = [
  { take = "credit", subject = "2001", as = "deposited" },
  { debit = "1131", amount = "deposited - fee" },
  { debit = "5001", amount = "fee" },
]
[[rule]]
id = "transfer"
business_type = "transfer"
effective_from = 2026-01-01
must_post = true
lines = [{ take = "debit" }, { take = "credit" }]
[[rule]]
id = "note"
business_type = "note"
effective_from = 2026-01-01
non_posting = true
"""
SHIPPED = shipped_ruleset()


@pytest.fixture
def books(tmp_path: Path) -> Ruleset:
    return valid(tmp_path, BOOKS)


@pytest.fixture
def twice(books: Ruleset) -> Ruleset:
    """A published ruleset whose rule takes a leg twice, as no check would let through today."""
    document = books.to_document()
    transfer = next(rule for rule in document["rules"] if rule["id"] == "transfer")
    transfer["vouchers"].append(transfer["vouchers"][0])
    return Ruleset.from_document(document)


def parked(outcome: object) -> Parked:
    assert isinstance(outcome, Parked), outcome
    return outcome


GOOD = """
credit C-1 2001.01 100.00 CNY
fee                  0.60 CNY
"""
PARKED = {
    ParkedReason.NO_RULE: ("lottery", GOOD),
    ParkedReason.UNKNOWN_CURRENCY: ("recharge", "credit C-1 nowhere 100.00 USD\ntypo 1.00 CNY"),
    ParkedReason.UNMAPPED_SUBJECT: ("recharge", "credit C-1 nowhere 100.00 CNY\ntypo 1.00 CNY"),
    ParkedReason.SUBJECT_NOT_POSTABLE: ("recharge", "credit C-1 2001 100.00 CNY\ntypo 1.00 CNY"),
    ParkedReason.MISSING_NAMED_AMOUNT: ("recharge", "credit M-1 2002 1.00 CNY\ntypo 1.00 CNY"),
    ParkedReason.UNKNOWN_NAMED_AMOUNT: (
        "recharge",
        "credit M-1 2002 1.00 CNY\nfee 2.00 CNY\ntypo 1.00 CNY",
    ),
    ParkedReason.LEG_NOT_COVERED: ("recharge", "credit M-1 2002 1.00 CNY\nfee 2.00 CNY"),
    ParkedReason.NON_POSTING_MOVES_MONEY: ("note", "credit C-1 2001.01 100.00 CNY"),
    ParkedReason.AMOUNT_OUT_OF_RANGE: ("recharge", "credit C-1 2001.01 1.00 CNY\nfee 2.00 CNY"),
    ParkedReason.NOTHING_TO_POST: ("transfer", "hold C-1 2001.01 1.00 CNY"),
    ParkedReason.UNBALANCED: ("transfer", "credit C-1 2001.01 1.00 CNY"),
    ParkedReason.CLOSED_PERIOD: ("recharge", GOOD),
}


@pytest.mark.parametrize("reason", PARKED)
def test_an_operation_is_parked_with_the_first_reason_that_applies(
    reason: ParkedReason, books: Ruleset
) -> None:
    business_type, text = PARKED[reason]
    outcome = voucher_for(operation(business_type, text), books, closed_through="2026-01-31")

    assert parked(outcome).reason == reason


def test_a_leg_that_two_takes_want_is_parked(twice: Ruleset) -> None:
    moved = operation(
        "transfer",
        """
        debit  C-1 2001.01 1.00 CNY
        credit C-2 2001.01 1.00 CNY
        """,
    )

    outcome = parked(voucher_for(moved, twice))

    assert outcome.reason == ParkedReason.LEG_COVERED_TWICE
    assert outcome.detail == "leg 1: debit C-1 on subject 2001.01"


def test_every_parked_reason_has_its_case_in_order() -> None:
    tested = [*PARKED, ParkedReason.LEG_COVERED_TWICE]

    assert list(PARKED) == [reason for reason in ParkedReason if reason in PARKED]
    assert sorted(tested) == sorted(ParkedReason)


def test_a_line_above_the_largest_amount_is_parked_and_not_sent_to_the_database() -> None:
    half = AMOUNT_MAX // 2 + 1
    booked = operation("recharge", f"credit C-1 2001.01 {half} JPY\ncredit C-2 2001.01 {half} JPY")

    assert parked(voucher_for(booked, SHIPPED)).reason == ParkedReason.AMOUNT_OUT_OF_RANGE


def test_an_operation_that_moves_nothing_is_non_posting_unless_its_rule_must_post() -> None:
    only_held = operation("payment", "hold C-1 2001.01 10.00 CNY")

    assert isinstance(voucher_for(only_held, SHIPPED), NonPosting)


def test_a_non_posting_operation_may_move_money_within_one_subject(books: Ruleset) -> None:
    moved = operation(
        "note",
        """
        debit  C-1 2001.01 5.00 CNY
        credit C-2 2001.01 5.00 CNY
        """,
    )

    assert voucher_for(moved, books) == NonPosting("note", books.hash)


def test_the_rule_is_chosen_by_business_date(tmp_path: Path) -> None:
    text = BOOKS.replace('id = "transfer"\n', 'id = "transfer.old"\neffective_to = 2026-06-30\n')
    books = valid(
        tmp_path,
        text
        + """
[[rule]]
id = "transfer.new"
business_type = "transfer"
effective_from = 2026-07-01
lines = [{ take = "debit" }, { take = "credit" }]
""",
    )
    legs = "debit C-1 2001.01 1.00 CNY\ncredit C-2 2001.01 1.00 CNY"

    chosen = {}
    for date in ("2025-12-31", "2026-01-01", "2026-06-30", "2026-07-01"):
        outcome = voucher_for(operation("transfer", legs, business_date=date), books)
        chosen[date] = outcome[0].rule_id if isinstance(outcome, tuple) else outcome_text(outcome)

    assert chosen == {
        "2025-12-31": ["parked no_rule"],
        "2026-01-01": "transfer.old",
        "2026-06-30": "transfer.old",
        "2026-07-01": "transfer.new",
    }


def test_a_voucher_carries_what_identifies_it_and_its_rule(books: Ruleset) -> None:
    (voucher,) = posted(operation("recharge", GOOD, operation_id="X-7"), books)

    assert voucher.voucher_id == "B/X-7/1"
    assert voucher.accounting_date == "2026-01-31"
    assert (voucher.rule_id, voucher.ruleset_hash) == ("recharge", books.hash)


def test_a_repair_after_the_cut_is_dated_the_open_day(books: Ruleset) -> None:
    outcome = voucher_for(
        operation("recharge", GOOD),
        books,
        accounting_date="2026-02-02",
        closed_through="2026-01-31",
    )

    assert isinstance(outcome, tuple)
    assert outcome[0].accounting_date == "2026-02-02"


def test_a_rule_may_make_several_vouchers_and_share_sums_between_them(tmp_path: Path) -> None:
    books = valid(
        tmp_path,
        BOOKS
        + """
[[rule]]
id = "two"
business_type = "two"
effective_from = 2026-01-01
amounts = { fee = "optional" }
vouchers = [
  [{ take = "credit", as = "deposited" }, { debit = "1131", amount = "deposited" }],
  [{ debit = "1131", amount = "fee" }, { credit = "5001", amount = "fee" }],
]
""",
    )

    with_fee = posted(operation("two", GOOD), books)
    without = posted(operation("two", "credit C-1 2001.01 100.00 CNY"), books)

    assert [voucher.voucher_id for voucher in with_fee] == ["B/O-1/1", "B/O-1/2"]
    assert outcome_text(with_fee) == words(
        """
        Cr 2001.01 C-1 100.00 CNY
        Dr 1131        100.00 CNY
        --
        Dr 1131          0.60 CNY
        Cr 5001          0.60 CNY
        """
    )
    assert len(without) == 1


def test_each_currency_of_an_operation_balances_for_itself() -> None:
    booked = operation(
        "recharge",
        """
        credit C-1 2001.01 100.00 CNY
        credit C-2 2001.01    500 JPY
        fee                    10 JPY
        """,
    )

    assert outcome_text(voucher_for(booked, SHIPPED)) == words(
        """
        Dr 1131.01     100.00 CNY
        Dr 1131.01        500 JPY
        Cr 2001.01 C-1 100.00 CNY
        Cr 2001.01 C-2    500 JPY
        Dr 6001.01         10 JPY
        Cr 2202.01         10 JPY
        """
    )


def test_equal_sums_in_different_currencies_do_not_balance() -> None:
    moved = operation("transfer", "debit C-1 2001.01 100 JPY\ncredit C-2 2001.01 1.00 CNY")

    assert parked(voucher_for(moved, SHIPPED)).reason == ParkedReason.UNBALANCED


def test_a_leg_on_the_suspense_subject_that_was_not_redirected_is_not_covered() -> None:
    direct = operation("recharge", "credit SUSPENSE 2241.01 100.00 CNY")

    assert parked(voucher_for(direct, SHIPPED)).reason == ParkedReason.LEG_NOT_COVERED


def test_what_is_remembered_of_an_operation_is_not_its_amounts_nor_its_accounts(
    books: Ruleset,
) -> None:
    """Equal operations are planned once: the next one's lines are made of its own values."""
    remembered = [
        outcome_text(voucher_for(operation("recharge", text), books))
        for text in (
            "credit C-1 2001.01 100.00 CNY\nfee 0.60 CNY",
            "credit C-2 2001.01 7.00 CNY\nfee 0.00 CNY",
            "credit C-1 2001.01 100.00 CNY\nfee 100.01 CNY",
            "credit C-1 2001.01 100 JPY\nfee 1 JPY",
            "credit C-1 2001.01 100 JPY\nfee 0.60 CNY",
        )
    ]

    assert remembered == [
        ["Cr 2001.01 C-1 100.00 CNY", "Dr 1131 99.40 CNY", "Dr 5001 0.60 CNY"],
        ["Cr 2001.01 C-2 7.00 CNY", "Dr 1131 7.00 CNY"],
        ["parked amount_out_of_range"],
        ["Cr 2001.01 C-1 100 JPY", "Dr 1131 99 JPY", "Dr 5001 1 JPY"],
        ["parked amount_out_of_range"],
    ]


# --- what always holds --------------------------------------------------------------------

SUBJECTS = sorted(SHIPPED.chart.leaves)
LEGS = st.builds(
    BookedLeg,
    no=st.just(1),
    kind=st.sampled_from(["credit", "debit", "capture", "hold", "release"]),
    account=st.sampled_from(["A", "B", "C"]),
    account_type=st.just("any"),
    subject=st.sampled_from(["2001.01", "2002.01", *SUBJECTS]),
    currency=st.sampled_from(["CNY", "JPY"]),
    amount_minor=st.integers(1, 3),
    version=st.just(1),
    balance_minor=st.just(0),
    held_minor=st.just(0),
    intended_account=st.sampled_from([None, None, "Z"]),
)
AMOUNTS = st.dictionaries(
    st.sampled_from(["fee", "channel_fee", "settled", "bank", "guarantee"]),
    st.builds(NamedAmount, st.integers(0, 3), st.sampled_from(["CNY", "JPY"])),
    max_size=2,
)
OPERATIONS = st.builds(
    OperationBooked,
    book_id=st.just("B"),
    operation_id=st.just("O-1"),
    business_type=st.sampled_from(SHIPPED.business_types()),
    business_date=st.just("2026-01-31"),
    value_date=st.just("2026-01-31"),
    booked_at=st.just("2026-01-31T08:00:00.000000Z"),
    principal=st.just("gateway"),
    fingerprint=st.just("00"),
    legs=st.lists(LEGS, max_size=4).map(tuple),
    accounts=st.just(()),
    amounts=AMOUNTS,
)


@settings(max_examples=500)
@given(OPERATIONS)
def test_whatever_is_vouchered_balances_and_its_leg_lines_are_the_legs(
    booked: OperationBooked,
) -> None:
    outcome = voucher_for(booked, SHIPPED)
    again = voucher_for(booked, Ruleset.from_document(SHIPPED.to_document()))

    assert outcome == again
    if isinstance(outcome, tuple):
        lines = [line for voucher in outcome for line in voucher.lines]
        legs = Counter(
            (leg.account, leg.subject, leg.currency, leg.kind == "credit", leg.amount_minor)
            for leg in booked.legs
            if leg.kind in MOVEMENT_KINDS
        )
        leg_lines = Counter(
            (line.account, line.subject, line.currency, line.side == "credit", line.amount_minor)
            for line in lines
            if line.account is not None
        )
        assert leg_lines == legs
        assert all(line.amount_minor > 0 for line in lines)
        for voucher in outcome:
            assert currency_differences(voucher.lines) == {}
            assert [line.line_no for line in voucher.lines] == [
                no for no, _ in enumerate(voucher.lines, 1)
            ]


@settings(max_examples=500)
@given(OPERATIONS)
def test_a_controlled_subject_moves_exactly_as_its_accounts(booked: OperationBooked) -> None:
    outcome = voucher_for(booked, SHIPPED)

    by_lines: Counter[tuple[str, str]] = Counter()
    by_legs: Counter[tuple[str, str]] = Counter()
    if isinstance(outcome, Parked):
        return
    for voucher in outcome if isinstance(outcome, tuple) else ():
        for line in voucher.lines:
            if line.subject in SHIPPED.chart.controlled:
                signed = line.amount_minor if line.side == "credit" else -line.amount_minor
                by_lines[line.subject, line.currency] += signed
    for leg in booked.legs:
        if leg.kind in MOVEMENT_KINDS and leg.subject in SHIPPED.chart.controlled:
            signed = leg.amount_minor if leg.kind == "credit" else -leg.amount_minor
            by_legs[leg.subject, leg.currency] += signed
    keys = set(by_lines) | set(by_legs)
    assert all(by_lines[key] == by_legs[key] for key in keys)


def test_what_the_engine_applied_from_a_buffer_moves_nothing_and_needs_no_rule(
    books: Ruleset,
) -> None:
    applied = operation(
        "buffer_apply",
        """
        debit BUFFER-C-1 2001.01 100.00 CNY
        credit C-1 2001.01 100.00 CNY
        """,
    )
    outcome = voucher_for(applied, books)
    assert outcome == NonPosting("engine.apply", books.hash)


def test_what_the_engine_gathered_from_stripes_moves_nothing_and_needs_no_rule(
    books: Ruleset,
) -> None:
    gathered = operation(
        "stripe_gather",
        """
        debit STRIPE-1-C-1 2001.01 60.00 CNY
        debit STRIPE-2-C-1 2001.01 40.00 CNY
        credit C-1 2001.01 100.00 CNY
        """,
    )
    assert voucher_for(gathered, books) == NonPosting("engine.gather", books.hash)


def test_what_the_engine_applied_to_suspense_is_a_line_on_either_subject() -> None:
    applied = operation(
        "buffer_apply",
        """
        debit BUFFER-C-1 2001.01 100.00 CNY
        credit S-1 2241.01 100.00 CNY for C-1
        """,
    )
    assert outcome_text(voucher_for(applied, shipped_ruleset())) == words(
        """
        Dr 2001.01 BUFFER-C-1  100.00 CNY
        Cr 2241.01 S-1         100.00 CNY
        """
    )


def test_an_application_on_a_subject_nobody_mapped_is_parked(books: Ruleset) -> None:
    applied = operation(
        "buffer_apply",
        """
        debit BUFFER-C-1 9999.99 100.00 CNY
        credit S-1 2241.01 100.00 CNY for C-1
        """,
    )
    parked = voucher_for(applied, books)
    assert isinstance(parked, Parked)
    assert parked.reason is ParkedReason.UNMAPPED_SUBJECT
