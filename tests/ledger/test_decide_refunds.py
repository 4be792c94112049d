"""Refunds: each names its original; the sum per funding part never exceeds what it paid."""

from __future__ import annotations

from ledger import events as ev
from ledger.account import Hold
from ledger.errors import RejectionReason
from ledger.job import Loaded
from ledger.operation import Leg, Submission
from ledger.original import original_of
from tests.ledger import builders as b

R = RejectionReason


def paid(*legs: Leg) -> Loaded:
    """A payment of these legs has been booked by an earlier batch."""
    people = ("C-1", "COUPON", "M-1")
    rich = [b.account(number, balance_minor=100_000) for number in people]
    first = b.decide(b.loaded(*rich), b.post("payment", *legs, operation_id="paid"))
    booked = b.events_of(first)[0]
    accounts = {each.number: each for each in rich} | first.touched
    original = original_of(booked, None, 1, b.TYPES)
    return b.loaded(*accounts.values(), originals={"paid": original})


def with_coupon() -> Loaded:
    """97 from the customer and 3 from a coupon."""
    return paid(b.debit("C-1", 97), b.debit("COUPON", 3), b.credit("M-1", 100))


def refund(*legs: Leg) -> Submission:
    return b.post("refund", *legs, original_operation_id="paid")


def test_97_and_a_coupon_of_3_never_refund_more_than_each_of_them() -> None:
    state = with_coupon()
    back = b.debit("M-1", 100)
    assert b.reason_of(state, refund(back, b.credit("C-1", 98))) is R.REFUND_EXCEEDS_PART
    assert b.reason_of(state, refund(back, b.credit("C-1", 97), b.credit("COUPON", 3))) is None
    over = refund(back, b.credit("C-1", 96), b.credit("COUPON", 4))
    assert b.reason_of(state, over) is R.REFUND_EXCEEDS_PART


def test_refunds_of_one_batch_add_up() -> None:
    submissions = (
        refund(b.debit("M-1", 60), b.credit("C-1", 60)),
        refund(b.debit("M-1", 38), b.credit("C-1", 38)),
        refund(b.debit("M-1", 37), b.credit("C-1", 37)),
        refund(b.debit("M-1", 1), b.credit("C-1", 1)),
    )
    exceeds = R.REFUND_EXCEEDS_PART
    assert b.reasons(b.decide(with_coupon(), *submissions)) == [None, exceeds, None, exceeds]


def test_the_originals_stream_carries_the_sums_that_guard_the_cap() -> None:
    decided = b.decide(
        with_coupon(),
        refund(b.debit("M-1", 60), b.credit("C-1", 60)),
        refund(b.debit("M-1", 2), b.credit("COUPON", 2)),
    )
    followed = [e for e in b.events_of(decided) if isinstance(e, ev.OperationFollowed)]
    assert [event.refunded for event in followed] == [{"C-1": 60}, {"C-1": 60, "COUPON": 2}]
    versions = [row.version for row in decided.rows if b"OperationFollowed" in row.topic]
    assert versions == [2, 3]


def test_a_named_part_may_be_refunded_to_another_account() -> None:
    state = paid(b.debit("C-1", 97, part="card"), b.credit("M-1", 97))
    assert b.reason_of(state, refund(b.credit("COUPON", 97, part="card"))) is None
    assert b.reason_of(state, refund(b.credit("COUPON", 98, part="card"))) is (
        R.REFUND_EXCEEDS_PART
    )
    assert b.reason_of(state, refund(b.credit("C-1", 1))) is R.REFUND_PART_UNKNOWN


def test_a_refund_must_give_something_back() -> None:
    assert b.reason_of(with_coupon(), refund(b.debit("M-1", 1))) is R.REFUND_PART_UNKNOWN


def test_a_refund_without_or_with_a_rejected_original_is_refused() -> None:
    nameless = b.post("refund", b.credit("C-1", 1))
    assert b.reason_of(with_coupon(), nameless) is R.UNKNOWN_ORIGINAL
    poor = b.loaded(b.account("C-1"), b.account("M-1"))
    decided = b.decide(
        poor,
        b.post("payment", b.debit("C-1", 97), operation_id="paid"),
        refund(b.credit("C-1", 1)),
    )
    assert b.reasons(decided) == [R.INSUFFICIENT_FUNDS, R.ORIGINAL_NOT_BOOKED]


def test_what_went_to_suspense_is_refunded_as_the_part_it_was_meant_for() -> None:
    # given a recharge whose target is closed
    closed = b.account("C-1", status="closed")
    decided = b.decide(
        b.loaded(closed), b.post("recharge", b.credit("C-1", 50), operation_id="paid")
    )
    original = original_of(b.events_of(decided)[0], None, 1, b.TYPES)
    # then its part bears the intended account's name
    assert set(original.parts) == {"C-1"}


def test_a_refund_that_releases_a_hold_leaves_the_holds_opener_alone() -> None:
    """The sums of a refund were written into the stream of every operation it followed.

    A refund that also releases a hold follows two originals; the opener of the hold got the
    refunded sums of the other one, so its own parts could no longer be refunded right.
    """
    first = paid(b.debit("C-1", 97), b.credit("M-1", 97))
    held = b.decide(
        b.loaded(b.account("C-2", balance_minor=9)),
        b.post("hold", b.hold("C-2", 5), operation_id="opener"),
    )
    opener = original_of(b.events_of(held)[0], None, 1, b.TYPES)
    state = b.loaded(
        *(account for account in first.accounts.values() if account is not None),
        b.account("C-2", balance_minor=9, held_minor=5, holds={"h": Hold(5, "opener")}),
        originals={**first.originals, "opener": opener},
    )
    decided = b.decide(state, refund(b.release("C-2", 5), b.credit("C-1", 97)))
    followed = {
        event.operation_id: event.refunded
        for event in b.events_of(decided)
        if isinstance(event, ev.OperationFollowed)
    }
    assert followed == {"paid": {"C-1": 97}, "opener": {}}
