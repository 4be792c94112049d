"""One case per rejection reason, in the order in which the reasons are declared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ledger import operation as op
from ledger.account import Accepted, Buffering, Freeze, Hold, Limit
from ledger.errors import RejectionReason
from ledger.job import Loaded
from ledger.money import AMOUNT_MAX
from ledger.original import Original, Part
from tests.ledger import builders as b

R = RejectionReason
Case = tuple[Loaded, op.Submission]
OPENED = b.account("C-1", balance_minor=1_000)
HOLDING = b.account("C-1", balance_minor=1_000, held_minor=50, holds={"h": Hold(50, "opener")})
PAYOUT = b.account(
    "C-1", balance_minor=1_000, held_minor=50, holds={"h": Hold(50, "out", payout=True)}
)
FREEZING = b.account(
    "C-1", balance_minor=1_000, frozen_minor=50, freezes={"f": Freeze(50, "court", "1", "")}
)
PAID = Original("paid", {"C-1": Part("CNY", 97, "credit")}, (), {}, None, 1)
HELD = Original("out", {}, (("C-1", "h"),), {}, "held", 1)
CORRECTION = b.post("correction", b.credit("C-1", 1))


def limited(**limits: int | None) -> Loaded:
    """An account whose transfers are limited, with one transfer of 60 used today."""
    none = {"per_operation_minor": None, "per_day_amount_minor": None, "per_day_count": None}
    limit = Limit(**{**none, **limits}, used_date=b.DAY, used_amount_minor=60, used_count=1)
    return b.loaded(b.account("C-1", balance_minor=1_000, limits={"transfer": limit}))


def transfer_of(amount_minor: int) -> op.Submission:
    return b.post("transfer", b.debit("C-1", amount_minor))


def refund(*legs: op.Leg, original: str | None = "paid") -> op.Submission:
    return b.post("refund", *legs, original_operation_id=original)


def standing(**facts: object) -> Loaded:
    return b.loaded(b.account("C-1", balance_minor=1_000, **facts))


SUSPENSE = b.account("SUSPENSE-CNY", type="suspense")
REFUSED = Original("paid", {}, (), {}, None, 1, booked=False)
CASES: dict[RejectionReason, Callable[[], Case]] = {
    R.UNKNOWN_ACCOUNT: lambda: (b.loaded(missing=["C-1"]), transfer_of(1)),
    R.ACCOUNT_EXISTS: lambda: (b.loaded(OPENED), b.open_account("C-1")),
    R.ENGINE_ACCOUNT: lambda: (
        b.loaded(SUSPENSE),
        b.command("SUSPENSE-CNY", op.CloseAccount()),
    ),
    R.UNKNOWN_PARENT: lambda: (
        b.loaded(missing=["C-2", "P"]),
        b.open_account("C-2", parent="P"),
    ),
    R.CURRENCY_MISMATCH: lambda: (
        b.loaded(OPENED),
        b.post("transfer", b.debit("C-1", 1, currency="USD")),
    ),
    R.DUPLICATE_ACCOUNT: lambda: (
        b.loaded(OPENED),
        b.post("transfer", b.debit("C-1", 1), b.credit("C-1", 1)),
    ),
    R.DATE_BEFORE_ACCOUNT: lambda: (
        b.loaded(b.account("C-1", business_date="2026-02-01")),
        b.post("history_credit", b.credit("C-1", 1), business_date="2026-01-31"),
    ),
    R.DATE_CLOSED: lambda: (
        b.loaded(b.account("C-1", business_date="2026-01-29"), closed_through="2026-01-30"),
        b.post("history_credit", b.credit("C-1", 1), business_date="2026-01-30"),
    ),
    R.HISTORY_ONLY: lambda: (b.loaded(OPENED), b.post("history_credit", b.credit("C-1", 1))),
    R.NOT_HISTORY: lambda: (
        b.loaded(OPENED),
        b.post("transfer", b.debit("C-1", 1), business_date=b.DAY),
    ),
    R.UNKNOWN_ORIGINAL: lambda: (
        b.loaded(OPENED, originals={"paid": None}),
        refund(b.credit("C-1", 1)),
    ),
    R.ORIGINAL_NOT_BOOKED: lambda: (
        b.loaded(OPENED, originals={"paid": REFUSED}),
        refund(b.credit("C-1", 1)),
    ),
    R.PAYOUT_STAGE: lambda: (
        b.loaded(PAYOUT, originals={"out": HELD}),
        b.post("withdrawal_settled", original_operation_id="out"),
    ),
    R.PAYOUT_INCOMPLETE: lambda: (
        b.loaded(PAYOUT, originals={"out": HELD}),
        b.post("withdrawal_failed", b.release("C-1", 49), original_operation_id="out"),
    ),
    R.REFUND_PART_UNKNOWN: lambda: (
        b.loaded(OPENED, b.account("C-2"), originals={"paid": PAID}),
        refund(b.credit("C-2", 1)),
    ),
    R.REFUND_EXCEEDS_PART: lambda: (
        b.loaded(OPENED, originals={"paid": PAID}),
        refund(b.credit("C-1", 98)),
    ),
    R.ACCOUNT_CLOSED: lambda: (standing(status="closed"), transfer_of(1)),
    R.ACCOUNT_FROZEN: lambda: (standing(whole_freezes=1), transfer_of(1)),
    R.ACCOUNT_LOST: lambda: (standing(lost=True), transfer_of(1)),
    R.ACCOUNT_BLOCKED: lambda: (standing(payment_status="blocked"), transfer_of(1)),
    R.ACCOUNT_RECEIVE_ONLY: lambda: (standing(payment_status="receive_only"), transfer_of(1)),
    R.ACCOUNT_PARTIAL_STOP: lambda: (standing(payment_status="partial_stop"), transfer_of(1)),
    R.HOLD_ON_DEBIT_ACCOUNT: lambda: (
        standing(normal_side="debit"),
        b.post("hold", b.hold("C-1", 1)),
    ),
    R.HOLD_EXISTS: lambda: (b.loaded(HOLDING), b.post("hold", b.hold("C-1", 1))),
    R.UNKNOWN_HOLD: lambda: (b.loaded(OPENED), b.post("release", b.release("C-1", 1))),
    R.HOLD_EXPIRY_PAST: lambda: (
        b.loaded(OPENED),
        b.post("hold", b.hold("C-1", 1, expires_at="2026-01-31T08:00:00+00:00")),
    ),
    R.HOLD_OF_PAYOUT: lambda: (
        b.loaded(PAYOUT, originals={"out": HELD}),
        b.post("release", b.release("C-1", 50)),
    ),
    R.HOLD_EXCEEDED: lambda: (
        b.loaded(HOLDING, originals={"opener": None}),
        b.post("release", b.release("C-1", 51)),
    ),
    R.FREEZE_EXISTS: lambda: (b.loaded(FREEZING), b.post("freeze", b.freeze("C-1", 1))),
    R.UNKNOWN_FREEZE: lambda: (b.loaded(OPENED), b.post("unfreeze", b.unfreeze("C-1", 1))),
    R.OTHER_AUTHORITY: lambda: (
        b.loaded(FREEZING),
        b.post("unfreeze", b.unfreeze("C-1", 1, authority="risk")),
    ),
    R.FREEZE_EXCEEDED: lambda: (b.loaded(FREEZING), b.post("unfreeze", b.unfreeze("C-1", 51))),
    R.LIMIT_PER_OPERATION: lambda: (limited(per_operation_minor=40), transfer_of(41)),
    R.LIMIT_PER_DAY_COUNT: lambda: (limited(per_day_count=1), transfer_of(1)),
    R.LIMIT_PER_DAY_AMOUNT: lambda: (limited(per_day_amount_minor=100), transfer_of(41)),
    R.INSUFFICIENT_FUNDS: lambda: (b.loaded(OPENED), transfer_of(1_001)),
    R.AMOUNT_OVERFLOW: lambda: (
        standing(credit_total_minor=AMOUNT_MAX),
        b.post("transfer", b.credit("C-1", 1)),
    ),
    R.ACCOUNT_BUSY: lambda: (
        b.loaded(
            b.account("C-1", buffering=Buffering(1_000, "in", "", None, None, 1)),
            b.account("BUFFER-C-1", type="buffer", accepted=Accepted(b.AT, 1, 0, 5)),
        ),
        b.post("transfer", b.credit("C-1", 1)),
    ),
    R.BUFFER_BOTH_NEEDS_NO_FLOOR: lambda: (
        b.loaded(OPENED),
        b.command("C-1", op.SetBuffering(buffer_ms=500, directions="both")),
    ),
    R.BALANCE_REMAINS: lambda: (b.loaded(OPENED), b.command("C-1", op.CloseAccount())),
    R.HOLD_REMAINS: lambda: (
        b.loaded(b.account("C-1", holds={"h": Hold(1, "opener")}, held_minor=1)),
        b.command("C-1", op.CloseAccount()),
    ),
    R.FREEZE_REMAINS: lambda: (
        b.loaded(b.account("C-1", freezes={"f": Freeze(None, "court", "1", "")})),
        b.command("C-1", op.CloseAccount()),
    ),
    R.CHILDREN_REMAIN: lambda: (
        b.loaded(b.account("C-1"), children={"C-1": ("C-2",)}),
        b.command("C-1", op.CloseAccount()),
    ),
    R.UNVOUCHERED_REMAINS: lambda: (
        b.loaded(b.account("C-1"), unvouchered=frozenset({"C-1"})),
        b.command("C-1", op.CloseAccount()),
    ),
    R.NO_CHANGE: lambda: (b.loaded(OPENED), b.command("C-1", op.ReportFound())),
    R.ATOMIC_BATCH_REJECTED: lambda: (b.loaded(OPENED), transfer_of(1)),
}


def test_there_is_a_case_for_every_reason_in_the_order_of_the_reasons() -> None:
    assert list(CASES) == list(R)


@pytest.mark.parametrize("reason", [r for r in CASES if r is not R.ATOMIC_BATCH_REJECTED])
def test_an_operation_is_rejected_for_its_reason_and_touches_nothing(
    reason: RejectionReason,
) -> None:
    # given
    state, submitted = CASES[reason]()
    # when
    decided = b.decide(state, submitted)
    # then one row says why, and no head is touched
    assert b.reasons(decided) == [reason]
    (event,) = b.events_of(decided)
    assert event.reason == reason
    assert event.fingerprint == submitted.fingerprint
    assert decided.touched == {}
    assert decided.totals == {}


def test_in_an_atomic_batch_the_innocent_are_rejected_with_the_guilty() -> None:
    state = b.loaded(OPENED)
    decided = b.decide(state, transfer_of(1), transfer_of(5_000), atomic=True)
    assert b.reasons(decided) == [R.ATOMIC_BATCH_REJECTED, R.INSUFFICIENT_FUNDS]
    assert decided.touched == {}


ALL_AT_ONCE = {
    "status": "closed",
    "whole_freezes": 1,
    "lost": True,
    "payment_status": "blocked",
    "limits": {"transfer": Limit(0, 0, 0)},
}
PEELED = [
    (R.CURRENCY_MISMATCH, {}),
    (R.DATE_BEFORE_ACCOUNT, {"currency": "CNY"}),
    (R.ACCOUNT_CLOSED, {"business_date": b.DAY}),
    (R.ACCOUNT_FROZEN, {"status": "open"}),
    (R.ACCOUNT_LOST, {"whole_freezes": 0}),
    (R.ACCOUNT_BLOCKED, {"lost": False}),
    (R.LIMIT_PER_OPERATION, {"payment_status": "normal"}),
    (R.LIMIT_PER_DAY_COUNT, {"limits": {"transfer": Limit(None, 0, 0)}}),
    (R.LIMIT_PER_DAY_AMOUNT, {"limits": {"transfer": Limit(None, 0, None)}}),
    (R.INSUFFICIENT_FUNDS, {"limits": {}}),
    (None, {"balance_minor": 10}),
]


def test_of_several_reasons_on_an_account_the_first_declared_is_the_answer() -> None:
    facts: dict[str, object] = {**ALL_AT_ONCE, "currency": "USD", "business_date": "2026-02-01"}
    for reason, cured in PEELED:
        facts.update(cured)
        assert b.reason_of(b.loaded(b.account("C-1", **facts)), transfer_of(10)) == reason


def test_a_later_leg_may_give_the_first_declared_reason() -> None:
    """It was the reason of the first leg that failed, whatever the others had."""
    state = b.loaded(b.account("C-1", currency="USD"), b.account("C-2"), missing=["C-3"])
    poor, foreign = b.debit("C-2", 1), b.credit("C-1", 1)
    for legs, reason in (
        ((poor, foreign), R.CURRENCY_MISMATCH),
        ((poor, foreign, b.credit("C-3", 1)), R.UNKNOWN_ACCOUNT),
        ((poor, b.credit("C-2", 1)), R.DUPLICATE_ACCOUNT),
        ((poor, b.credit("C-2", 1), foreign), R.CURRENCY_MISMATCH),
        ((poor,), R.INSUFFICIENT_FUNDS),
    ):
        assert b.reason_of(state, b.post("transfer", *legs)) == reason


def test_dates_are_refused_after_accounts_and_before_originals() -> None:
    state = b.loaded(OPENED, missing=["C-3"], originals={"paid": None})
    dated = {"business_date": b.DAY, "original_operation_id": "paid"}
    assert b.reason_of(state, b.post("transfer", b.debit("C-3", 1), **dated)) == R.UNKNOWN_ACCOUNT
    assert b.reason_of(state, b.post("transfer", b.debit("C-1", 1), **dated)) == R.NOT_HISTORY


def test_an_account_may_stand_on_both_sides_where_no_money_changes_hands() -> None:
    """A fee that is taken from a recharge, a release that pays: composite on purpose."""
    legs = (b.credit("C-1", 100), b.debit("C-1", 1))
    assert b.reason_of(b.loaded(OPENED), b.post("recharge", *legs)) is None
    released = (b.release("C-1", 50), b.debit("C-1", 50))
    state = b.loaded(HOLDING, originals={"opener": None})
    assert b.reason_of(state, b.post("transfer", *released)) is None


@pytest.mark.parametrize(
    "change",
    [
        op.CloseAccount(),
        op.FreezeAccount(freeze_id="f"),
        op.ReportLoss(),
        op.SetPaymentStatus(payment_status="blocked"),
        op.SetReserve(reserve_minor=1),
    ],
)
def test_nobody_changes_the_standing_of_a_suspense_account(change: op.Change) -> None:
    state = b.loaded(SUSPENSE)
    assert b.reason_of(state, b.command("SUSPENSE-CNY", change)) == R.ENGINE_ACCOUNT
    assert b.reason_of(state, b.command("SUSPENSE-CNY", op.RegisterInquiry())) is None
