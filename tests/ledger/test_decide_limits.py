"""Limits per business type: per operation, per day in amount and in count; holds count too."""

from __future__ import annotations

from ledger import operation as op
from ledger.account import Account
from ledger.errors import RejectionReason
from ledger.job import Loaded
from ledger.operation import Leg, Submission
from tests.ledger import builders as b

R = RejectionReason


def limited(business_type: str = "transfer", **limits: int) -> Account:
    """An account of 1,000 on which these limits were set by command."""
    decided = b.decide(
        b.loaded(b.account("C-1", balance_minor=1_000)),
        b.command("C-1", op.SetLimit(business_type=business_type, **limits)),
    )
    return decided.touched["C-1"]


def transfer(*legs: Leg) -> Submission:
    return b.post("transfer", *legs)


def outcome(state: Loaded, *submissions: Submission) -> list[RejectionReason | None]:
    return b.reasons(b.decide(state, *submissions))


def test_one_operation_may_not_exceed_its_limit_also_in_several_legs() -> None:
    state = b.loaded(limited(per_operation_minor=100))
    assert outcome(
        state,
        transfer(b.debit("C-1", 100)),
        transfer(b.debit("C-1", 101)),
        transfer(b.debit("C-1", 60), b.debit("C-1", 40)),
        transfer(b.debit("C-1", 60), b.debit("C-1", 41)),
    ) == [None, R.LIMIT_PER_OPERATION, None, R.LIMIT_PER_OPERATION]


def test_the_day_counts_operations_not_legs() -> None:
    state = b.loaded(limited(per_day_count=2))
    assert outcome(
        state,
        transfer(b.debit("C-1", 1), b.debit("C-1", 1)),
        transfer(b.debit("C-1", 1)),
        transfer(b.debit("C-1", 1)),
    ) == [None, None, R.LIMIT_PER_DAY_COUNT]


def test_the_day_adds_up_amounts_of_debits_and_holds() -> None:
    state = b.loaded(limited(per_day_amount_minor=100))
    assert outcome(
        state,
        transfer(b.debit("C-1", 60)),
        transfer(b.hold("C-1", 30)),
        transfer(b.debit("C-1", 11)),
        transfer(b.debit("C-1", 10)),
    ) == [None, None, R.LIMIT_PER_DAY_AMOUNT, None]


def test_a_rejected_operation_uses_nothing_of_the_limits() -> None:
    state = b.loaded(limited(per_day_amount_minor=100, per_day_count=1))
    assert outcome(
        state, transfer(b.debit("C-1", 50), b.debit("C-1", 5_000)), transfer(b.debit("C-1", 100))
    ) == [R.LIMIT_PER_DAY_AMOUNT, None]


def test_the_next_day_starts_from_nothing() -> None:
    account = limited(per_day_amount_minor=100, per_day_count=1)
    used = b.decide(b.loaded(account), transfer(b.debit("C-1", 100))).touched["C-1"]
    assert outcome(b.loaded(used), transfer(b.debit("C-1", 1))) == [R.LIMIT_PER_DAY_COUNT]
    tomorrow = b.loaded(used, open_date="2026-02-01")
    assert outcome(tomorrow, transfer(b.debit("C-1", 100))) == [None]


def test_limits_bind_money_out_of_their_own_business_type_only() -> None:
    state = b.loaded(limited(per_operation_minor=0))
    assert outcome(
        state,
        transfer(b.credit("C-1", 500)),
        b.post("payment", b.debit("C-1", 500)),
        transfer(b.debit("C-1", 1)),
    ) == [None, None, R.LIMIT_PER_OPERATION]


def test_what_has_happened_outside_is_not_limited() -> None:
    state = b.loaded(limited("recharge", per_operation_minor=0))
    assert outcome(state, b.post("recharge", b.debit("C-1", 5))) == [None]


def test_a_limit_set_again_keeps_what_the_day_has_used_and_lifted_is_gone() -> None:
    account = limited(per_day_amount_minor=100)
    used = b.decide(b.loaded(account), transfer(b.debit("C-1", 60))).touched["C-1"]
    changed = b.decide(
        b.loaded(used),
        b.command("C-1", op.SetLimit(business_type="transfer", per_day_amount_minor=80)),
    ).touched["C-1"]
    assert outcome(b.loaded(changed), transfer(b.debit("C-1", 21))) == [R.LIMIT_PER_DAY_AMOUNT]
    lifted = b.decide(
        b.loaded(changed), b.command("C-1", op.SetLimit(business_type="transfer"))
    ).touched["C-1"]
    assert lifted.limits == {}
