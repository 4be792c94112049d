"""Striping, decided in memory: where a leg lies, what is gathered, what an answer says."""

from __future__ import annotations

from typing import Any

import pytest

from ledger import events as ev
from ledger import operation as op
from ledger.account import Accepted, Account, Buffering, Striping
from ledger.buffers import buffer_number
from ledger.errors import RejectionReason
from ledger.job import Decided, Loaded, status_of
from ledger.money import AMOUNT_MAX
from ledger.stripes import STRIPE, is_stripe_number, stripe_number, stripe_numbers, whole_of
from tests.ledger import builders as b

R = RejectionReason


def merchant(*stripes: int, home: int = 0, **facts: Any) -> list[Account]:
    """M-1 with so much on itself and on each stripe."""
    striping = Striping(len(stripes), len(stripes))
    money = {"balance_minor": home, "credit_total_minor": home, "day_credits_minor": home}
    return [
        b.account("M-1", **{**money, "striping": striping, **facts}),
        *(stripe(place, balance) for place, balance in enumerate(stripes, start=1)),
    ]


def stripe(place: int, balance_minor: int) -> Account:
    return b.account(
        stripe_number("M-1", place),
        type=STRIPE,
        balance_minor=balance_minor,
        credit_total_minor=balance_minor,
        day_credits_minor=balance_minor,
        parent="M-1",
    )


def given(*accounts: Account, **more: Any) -> Loaded:
    return b.loaded(*accounts, b.account("C-1", balance_minor=1_000), **more)


def balances(decided: Decided) -> dict[str, int]:
    return {number: account.balance_minor for number, account in decided.touched.items()}


def booked(decided: Decided) -> list[ev.OperationBooked]:
    return [each for each in b.events_of(decided) if isinstance(each, ev.OperationBooked)]


def answer(decided: Decided) -> dict[str, tuple[int, int | None]]:
    """What the last operation's answer says of accounts: balance and available."""
    touched = booked(decided)[-1].accounts
    return {each.account: (each.balance_minor, each.available_minor) for each in touched}


def test_a_credit_lies_on_a_stripe_and_its_answer_says_the_sum() -> None:
    decided = b.decide(given(*merchant(5)), b.post("recharge", b.credit("M-1", 40)))
    record = booked(decided)[0]
    leg = record.legs[0]
    assert (leg.account, leg.intended_account, leg.balance_minor) == ("STRIPE-1-M-1", "M-1", 45)
    assert leg.account_type == STRIPE
    assert answer(decided) == {"M-1": (45, 45)}
    assert status_of(record) == "booked"


def test_the_engine_opens_a_stripe_when_the_first_credit_lies_on_it() -> None:
    home = b.account("M-1", striping=Striping(1, 1), subject="2002.01", normal_side="debit")
    state = given(home, missing=("STRIPE-1-M-1",))
    decided = b.decide(state, b.post("recharge", b.debit("M-1", 40)))
    opened = next(e for e in b.events_of(decided) if isinstance(e, ev.AccountOpened))
    assert (opened.account, opened.parent, opened.type) == ("STRIPE-1-M-1", "M-1", STRIPE)
    assert (opened.subject, opened.normal_side) == ("2002.01", "debit")
    assert decided.opened == {"STRIPE-1-M-1"}
    assert answer(decided) == {"M-1": (40, 40)}


def test_credits_go_to_all_stripes_and_the_same_one_in_any_process() -> None:
    legs = [b.post("recharge", b.credit("M-1", 1), operation_id=f"op-{n}") for n in range(64)]
    decided = b.decide(given(*merchant(0, 0, 0, 0)), *legs)
    found = [record.legs[0].account for record in booked(decided)]
    assert set(found) == {stripe_number("M-1", place) for place in (1, 2, 3, 4)}
    assert found[:4] == ["STRIPE-4-M-1", "STRIPE-1-M-1", "STRIPE-2-M-1", "STRIPE-3-M-1"]


def test_a_debit_that_the_home_has_touches_no_stripe() -> None:
    decided = b.decide(given(*merchant(5, home=40)), b.post("fee", b.debit("M-1", 40)))
    assert balances(decided) == {"M-1": 0}
    assert answer(decided) == {"M-1": (5, 5)}


def test_for_what_the_home_is_short_of_stripes_are_emptied_in_order_before() -> None:
    state = given(*merchant(5, 30, 9, home=10))
    decided = b.decide(state, b.post("fee", b.debit("M-1", 32), operation_id="f"))
    gathered, paid = booked(decided)
    assert gathered.operation_id == "daybook:gather:M-1:1"
    assert [(leg.kind, leg.account, leg.amount_minor) for leg in gathered.legs] == [
        ("debit", "STRIPE-1-M-1", 5),
        ("debit", "STRIPE-2-M-1", 30),
        ("credit", "M-1", 35),
    ]
    assert paid.operation_id == "f"
    assert balances(decided) == {"STRIPE-1-M-1": 0, "STRIPE-2-M-1": 0, "M-1": 13}
    assert answer(decided) == {"M-1": (22, 22)}
    touched = paid.accounts[0]
    # what was gathered is no turnover of the day
    assert (touched.day_debits_minor, touched.day_credits_minor) == (32, 54)


def test_what_was_gathered_over_what_was_short_pays_the_next_debits() -> None:
    """Regression: only what was missing came home, so every debit paid for a gathering."""
    fees = [b.post("fee", b.debit("M-1", 5), operation_id=f"f-{no}") for no in range(8)]
    decided = b.decide(given(*merchant(20, 20)), *fees)
    gathered = [each for each in booked(decided) if each.business_type == "stripe_gather"]
    assert [each.legs[0].account for each in gathered] == ["STRIPE-1-M-1", "STRIPE-2-M-1"]


def test_a_hold_counts_what_lies_on_stripes_and_gathers_nothing_until_it_is_captured() -> None:
    hold = b.post("hold", b.hold("M-1", 30), operation_id="h")
    capture = b.post("payment_capture", b.capture("M-1", 30), b.credit("C-1", 30))
    decided = b.decide(given(*merchant(30, home=5)), hold, capture)
    assert b.reasons(decided) == [None, None]
    assert [each.operation_id for each in booked(decided)[:2]] == ["h", "daybook:gather:M-1:2"]
    assert balances(decided) == {"STRIPE-1-M-1": 0, "M-1": 5, "C-1": 1_030}


def test_more_than_all_together_is_refused_and_gathers_nothing() -> None:
    decided = b.decide(given(*merchant(5, 5, home=5)), b.post("fee", b.debit("M-1", 16)))
    refused = b.events_of(decided)
    assert [type(each) for each in refused] == [ev.OperationRejected]
    assert (refused[0].reason, refused[0].detail) == ("insufficient_funds", "available 15")


def test_a_credit_limit_is_used_after_every_stripe_is_empty() -> None:
    state = given(*merchant(5, home=5, credit_limit_minor=50))
    decided = b.decide(state, b.post("fee", b.debit("M-1", 40)))
    assert balances(decided) == {"STRIPE-1-M-1": 0, "M-1": -30}


def test_a_home_below_zero_takes_its_inflows_itself() -> None:
    state = given(*merchant(0, home=-30, credit_limit_minor=50))
    decided = b.decide(state, b.post("recharge", b.credit("M-1", 40)))
    assert balances(decided) == {"M-1": 10}


def test_an_inflow_that_the_same_operation_may_draw_on_lies_on_the_home() -> None:
    state = given(*merchant(0))
    decided = b.decide(state, b.post("recharge", b.credit("M-1", 40), b.debit("M-1", 30)))
    assert balances(decided) == {"M-1": 10}


def test_frozen_is_frozen_on_every_stripe_and_a_must_book_inflow_lies_in_suspense() -> None:
    accounts = merchant(50, whole_freezes=1)
    assert b.reason_of(given(*accounts), b.post("fee", b.debit("M-1", 1))) is R.ACCOUNT_FROZEN
    decided = b.decide(given(*accounts), b.post("recharge", b.credit("M-1", 40)))
    assert balances(decided) == {"SUSPENSE-CNY": 40}
    assert booked(decided)[0].issues[0].intended_account == "M-1"


def test_a_reserve_and_a_frozen_amount_are_kept_from_all_together() -> None:
    state = given(*merchant(50, reserve_minor=10, frozen_minor=15))
    assert b.reason_of(state, b.post("fee", b.debit("M-1", 26))) is R.INSUFFICIENT_FUNDS
    assert b.reason_of(state, b.post("fee", b.debit("M-1", 25))) is None


def test_turnovers_are_bounded_as_one_account_s_are() -> None:
    accounts = merchant(AMOUNT_MAX - 5)
    credit = b.post("transfer", b.debit("C-1", 6), b.credit("M-1", 6))
    assert b.reason_of(given(*accounts), credit) is R.AMOUNT_OVERFLOW


def test_a_refund_knows_the_part_by_its_account_and_not_by_the_stripe() -> None:
    sale = b.post("recharge", b.credit("M-1", 40), operation_id="sale")
    back = {"original_operation_id": "sale"}
    refund = b.post("refund", b.debit("M-1", 40), **back)
    again = b.post("refund", b.debit("M-1", 1), **back)
    decided = b.decide(given(*merchant(0)), sale, refund, again)
    assert b.reasons(decided) == [None, None, R.REFUND_EXCEEDS_PART]


def test_an_undone_batch_leaves_nothing_gathered() -> None:
    paid, refused = b.post("fee", b.debit("M-1", 5)), b.post("fee", b.debit("M-1", 500))
    decided = b.decide(given(*merchant(50)), paid, refused, atomic=True)
    assert decided.touched == {}
    assert {type(each) for each in b.events_of(decided)} == {ev.OperationRejected}


def test_a_dry_run_gathers_nothing() -> None:
    decided = b.decide(given(*merchant(50)), b.post("fee", b.debit("M-1", 5)), dry_run=True)
    assert (decided.rows, decided.touched, b.reasons(decided)) == ([], {}, [None])


def test_fewer_stripes_gather_what_lies_on_the_others_in_the_same_commit() -> None:
    change = b.command("M-1", op.SetStripes(stripes=1), operation_id="fewer")
    decided = b.decide(given(*merchant(5, 30, 9, home=10)), change)
    assert balances(decided) == {"STRIPE-2-M-1": 0, "STRIPE-3-M-1": 0, "M-1": 49}
    assert decided.touched["M-1"].striping == Striping(1, 3)
    record = next(e for e in b.events_of(decided) if isinstance(e, ev.CommandBooked))
    assert (record.version, record.touched.balance_minor) == (3, 54)
    last = b.events_of(decided)[-1]
    assert (type(last), last.stripes, last.version) == (ev.StripesSet, 1, 3)


def test_stripes_left_behind_still_count_for_the_turnover_of_the_day() -> None:
    change = b.command("M-1", op.SetStripes(stripes=0))
    state = given(*merchant(30, 9))
    decided = b.decide(state, change, b.post("recharge", b.credit("M-1", 1)))
    assert balances(decided) == {"STRIPE-1-M-1": 0, "STRIPE-2-M-1": 0, "M-1": 40}
    touched = booked(decided)[-1].accounts[0]
    assert (touched.day_credits_minor, touched.day_debits_minor) == (40, 0)


def test_an_account_is_closed_when_all_together_are_empty() -> None:
    close = b.command("M-1", op.CloseAccount())
    assert b.reason_of(given(*merchant(0, 1)), close) is R.BALANCE_REMAINS
    children = {"M-1": ("STORE",)}
    assert b.reason_of(given(*merchant(0, 0), children=children), close) is R.CHILDREN_REMAIN
    decided = b.decide(given(*merchant(0, 0)), close)
    assert b.reasons(decided) == [None]


def test_a_stripe_opened_in_the_same_batch_is_no_child_that_remains() -> None:
    money = (b.post("recharge", b.credit("M-1", 4)), b.post("fee", b.debit("M-1", 4)))
    home = merchant(home=0, striping=Striping(1, 1))[0]
    state = given(home, missing=("STRIPE-1-M-1",))
    decided = b.decide(state, *money, b.command("M-1", op.CloseAccount()))
    assert b.reasons(decided) == [None, None, R.UNVOUCHERED_REMAINS]


def test_callers_post_to_no_stripe_and_change_none() -> None:
    state = given(*merchant(50))
    for leg in (b.debit("STRIPE-1-M-1", 5), b.credit("STRIPE-1-M-1", 5)):
        assert b.reason_of(state, b.post("transfer", leg)) is R.ENGINE_ACCOUNT
    change = b.command("STRIPE-1-M-1", op.ReportLoss())
    assert b.reason_of(state, change) is R.ENGINE_ACCOUNT
    below = b.open_account("S-1", parent="STRIPE-1-M-1")
    assert b.reason_of(given(*merchant(50), missing=("S-1",)), below) is R.ENGINE_ACCOUNT


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("STRIPE-1-M-1", R.ACCOUNT_EXISTS),
        ("STRIPE-64-M-1", R.ACCOUNT_EXISTS),
        ("STRIPE-65-M-1", None),
        ("STRIPE-EUR", None),
        ("STRIPE-2026-1", None),
    ],
)
def test_the_engine_alone_opens_stripes(number: str, reason: RejectionReason | None) -> None:
    """Stripe is a payment company, too: its channel accounts keep their names."""
    state = given(missing=(number,))
    assert b.reason_of(state, b.open_account(number, type="stripe")) is reason


def test_an_account_of_a_caller_with_a_stripe_s_number_is_not_used() -> None:
    old = b.account("STRIPE-1-M-1", balance_minor=7)
    home = merchant(home=3, striping=Striping(1, 1))[0]
    decided = b.decide(given(home, old), b.post("recharge", b.credit("M-1", 40)))
    assert balances(decided) == {"M-1": 43}


def test_an_earlier_day_than_a_stripe_s_is_before_the_account() -> None:
    home, one = merchant(5, business_date="2026-01-29")
    history = b.post("history_credit", b.credit("M-1", 5), business_date="2026-01-30")
    assert b.reason_of(given(home, one), history) is R.DATE_BEFORE_ACCOUNT


def test_a_hold_expires_on_the_day_of_the_whole_account() -> None:
    opened = b.decide(
        given(*merchant(50, business_date="2026-01-29")),
        b.post("hold", b.hold("M-1", 30, expires_at="2026-01-31T08:30:00Z")),
    ).touched["M-1"]
    one = merchant(50)[1]
    one.business_date = "2026-02-01"
    opener = next(iter(opened.holds.values())).operation_id
    state = given(opened, one, originals={opener: None})
    decided = b.decide(state, at=b.LATER)
    expired = b.events_of(decided)[-1]
    assert (type(expired), expired.business_date) == (ev.HoldExpired, "2026-02-01")
    assert answer(decided) == {"M-1": (50, 50)}


def test_with_buffering_what_waits_counts_with_the_stripes_and_is_applied_to_the_home() -> None:
    agreed = Buffering(60_000, "in", "A", None, None, 9)
    limit = op.SetLimit(business_type="fee", per_operation_minor=100)
    accounts = merchant(5, home=3, buffering=agreed)
    buffer = b.account("BUFFER-M-1", type="buffer", parent="M-1", balance_minor=40)
    buffer.accepted = Accepted(b.AT, 1, 0, 40)
    state = given(*accounts, buffer)
    decided = b.decide(
        state,
        b.post("recharge", b.credit("M-1", 2)),
        b.command("M-1", limit),
        b.post("fee", b.debit("M-1", 48)),
    )
    assert b.reasons(decided) == [None, None, None]
    assert balances(decided) == {"BUFFER-M-1": 0, "M-1": 2, "STRIPE-1-M-1": 0}
    ids = [each.operation_id.rpartition(":")[0] for each in booked(decided)]
    assert ids[1:3] == ["daybook:apply:M-1", "daybook:gather:M-1"]


def test_what_waits_is_bounded_with_the_stripes_and_what_they_leave_no_room_for_is_suspended() -> (
    None
):
    agreed = Buffering(60_000, "in", "A", None, None, 9)
    accounts = merchant(AMOUNT_MAX - 5, buffering=agreed)
    more = b.post("transfer", b.debit("C-1", 6), b.credit("M-1", 6))
    state = given(*accounts, missing=("BUFFER-M-1",))
    assert b.reason_of(state, more) is R.AMOUNT_OVERFLOW
    buffer = b.account("BUFFER-M-1", type="buffer", parent="M-1", balance_minor=40)
    buffer.accepted = Accepted(b.AT, 1, 0, 40)
    decided = b.decide(given(*accounts, buffer), apply=("M-1",), due_only=False)
    assert balances(decided) == {"BUFFER-M-1": 0, "SUSPENSE-CNY": 40}


def test_a_buffered_debit_is_applied_after_its_home_has_gathered_the_money() -> None:
    agreed = Buffering(60_000, "both", "A", None, None, 9)
    accounts = merchant(50, home=3, buffering=agreed, credit_limit_minor=None)
    buffer = b.account("BUFFER-M-1", type="buffer", parent="M-1", balance_minor=-20)
    buffer.accepted = Accepted(b.AT, 1, 20, 0)
    decided = b.decide(given(*accounts, buffer), apply=("M-1",), due_only=False)
    assert balances(decided) == {"STRIPE-1-M-1": 0, "M-1": 33, "BUFFER-M-1": 0}


def test_numbers_of_stripes() -> None:
    home = merchant(1, 2, 3)[0]
    assert stripe_numbers(home, above=1) == ("STRIPE-2-M-1", "STRIPE-3-M-1")
    assert is_stripe_number("STRIPE-2-M-1", "M-1")
    assert not is_stripe_number("STRIPE-2-M-1", "1")
    assert not is_stripe_number(buffer_number("M-1"), "M-1")
    assert stripe_numbers(b.account("M-1")) == ()


def test_the_previous_day_of_all_together_is_that_of_each() -> None:
    home = merchant(home=10, business_date="2026-01-30")[0]
    home.striping = Striping(2, 2)
    old, new = stripe(1, 5), stripe(2, 7)
    old.business_date = "2026-01-29"
    new.previous_balance_minor = 3
    found = {each.number: each for each in (old, new)}
    whole = whole_of(home, found.get)
    assert (whole.balance_minor, whole.previous_balance_minor) == (22, 18)
    assert (whole.business_date, whole.day_credits_minor) == (b.DAY, 4)
