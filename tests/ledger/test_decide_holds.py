"""Holds, payouts and freezes: set aside, given back, taken; expiry only when asked."""

from __future__ import annotations

import pytest

from ledger import events as ev
from ledger.account import Account, Freeze, Hold
from ledger.errors import RejectionReason
from ledger.job import Loaded
from ledger.operation import Submission
from ledger.original import Original, original_of
from tests.ledger import builders as b

R = RejectionReason
SOON = "2026-01-31T08:30:00.000000Z"


def rich(**facts: object) -> Account:
    return b.account("C-1", balance_minor=1_000, **facts)


def after(state: Loaded, *submissions: Submission, at: str = b.AT) -> Account:
    decided = b.decide(state, *submissions, at=at)
    assert set(b.reasons(decided)) == {None}
    return decided.touched["C-1"]


def test_a_hold_sets_money_aside_and_leaves_the_balance() -> None:
    account = after(b.loaded(rich()), b.post("hold", b.hold("C-1", 300)))
    assert b.money(account) == (1_000, 300, 0, 700)
    assert account.holds["h"].amount_minor == 300


def test_a_hold_is_released_and_captured_in_parts_until_nothing_is_left() -> None:
    state = b.loaded(rich(), b.account("M-1"))
    account = after(
        state,
        b.post("hold", b.hold("C-1", 300)),
        b.post("release", b.release("C-1", 100)),
        b.post("payment_capture", b.capture("C-1", 150), b.credit("M-1", 150)),
        b.post("release", b.release("C-1", 50)),
    )
    assert b.money(account) == (850, 0, 0, 850)
    assert account.holds == {}


def test_held_money_cannot_be_held_or_paid_again() -> None:
    state = b.loaded(rich())
    submissions = (
        b.post("hold", b.hold("C-1", 900)),
        b.post("hold", b.hold("C-1", 101, "h2")),
        b.post("transfer", b.debit("C-1", 101)),
        b.post("transfer", b.debit("C-1", 100)),
    )
    rejected = R.INSUFFICIENT_FUNDS
    assert b.reasons(b.decide(state, *submissions)) == [None, rejected, rejected, None]


@pytest.mark.parametrize(
    ("facts", "available"),
    [
        ({}, 1_000),
        ({"held_minor": 10}, 990),
        ({"frozen_minor": 10}, 990),
        ({"reserve_minor": 10}, 990),
        ({"credit_limit_minor": 10}, 1_010),
        ({"held_minor": 1, "frozen_minor": 2, "reserve_minor": 3, "credit_limit_minor": 5}, 999),
        ({"credit_limit_minor": None}, None),
    ],
)
def test_available_is_balance_less_held_frozen_reserve_plus_credit(
    facts: dict[str, int], available: int | None
) -> None:
    account = rich(**facts)
    assert account.available_minor == available
    if available is not None:
        state = b.loaded(account)
        assert b.reason_of(state, b.post("transfer", b.debit("C-1", available))) is None
        over = b.post("transfer", b.debit("C-1", available + 1))
        assert b.reason_of(state, over) is R.INSUFFICIENT_FUNDS


def test_release_then_pay_in_one_operation_uses_the_released_money() -> None:
    held = rich(held_minor=1_000, holds={"h": Hold(1_000, "opener")})
    state = b.loaded(held, b.account("M-1"), originals={"opener": None})
    whole = b.post("payment", b.release("C-1", 400), b.debit("C-1", 400), b.credit("M-1", 400))
    assert b.money(after(state, whole)) == (600, 600, 0, 0)


# --- expiry -------------------------------------------------------------------------------


def test_a_hold_with_an_expiry_frees_its_money_by_the_engines_own_operation() -> None:
    # given
    hold = Hold(300, "opener", expires_at=SOON)
    booked = _booked_hold("opener")
    originals: dict[str, Original | None] = {"opener": original_of(booked, None, 1, b.TYPES)}
    state = b.loaded(rich(held_minor=300, holds={"h": hold}), originals=originals)
    # when a batch is decided after it
    decided = b.decide(state, b.post("transfer", b.debit("C-1", 1_000)), at=b.LATER)
    # then the money is free before the debit is decided
    assert b.reasons(decided) == [None]
    events = b.events_of(decided)
    assert [type(event) for event in events] == [
        ev.OperationBooked,
        ev.HoldExpired,
        ev.OperationFollowed,
        ev.OperationBooked,
        ev.AccountDebited,
    ]
    assert events[0].operation_id == "expire:C-1:h:opener"
    assert events[0].principal == "daybook"
    assert events[2].operation_id == "opener"
    assert events[2].relation == "expired"


def test_a_hold_without_an_expiry_never_expires() -> None:
    state = b.loaded(rich(held_minor=300, holds={"h": Hold(300, "opener")}))
    decided = b.decide(state, at="2999-01-01T00:00:00.000000Z")
    assert decided.rows == []


def test_a_payouts_hold_takes_no_expiry() -> None:
    submitted = b.post("withdrawal_hold", b.hold("C-1", 1, expires_at="2999-01-01T00:00:00+00:00"))
    assert b.reason_of(b.loaded(rich()), submitted) is R.HOLD_OF_PAYOUT


def _booked_hold(operation_id: str, business_type: str = "hold") -> ev.OperationBooked:
    decided = b.decide(
        b.loaded(rich()), b.post(business_type, b.hold("C-1", 300), operation_id=operation_id)
    )
    booked = b.events_of(decided)[0]
    assert isinstance(booked, ev.OperationBooked)
    return booked


# --- payouts ------------------------------------------------------------------------------

OUT = {"original_operation_id": "out"}


def payout_day(*submissions: Submission) -> list[RejectionReason | None]:
    """Hold 300 for a payout, then these."""
    held = b.post("withdrawal_hold", b.hold("C-1", 300), operation_id="out")
    state = b.loaded(rich(), b.account("P"))
    return b.reasons(b.decide(state, held, *submissions))[1:]


def sent() -> Submission:
    return b.post("withdrawal_sent", **OUT)


def succeeded(amount_minor: int = 300) -> Submission:
    legs = (b.capture("C-1", amount_minor), b.credit("P", amount_minor))
    return b.post("withdrawal_succeeded", *legs, **OUT)


def failed(amount_minor: int = 300) -> Submission:
    return b.post("withdrawal_failed", b.release("C-1", amount_minor), **OUT)


def settled() -> Submission:
    return b.post("withdrawal_settled", **OUT)


STAGES = {
    "sent, succeeded, settled": ([sent, succeeded, settled], [None, None, None]),
    "succeeded at once": ([succeeded, settled], [None, None]),
    "sent, failed": ([sent, failed], [None, None]),
    "failed at once": ([failed], [None]),
    "settled before success": ([sent, settled], [None, R.PAYOUT_STAGE]),
    "sent twice": ([sent, sent], [None, R.PAYOUT_STAGE]),
    "failed after success": ([succeeded, failed], [None, R.PAYOUT_STAGE]),
    "succeeded after failure": ([failed, succeeded], [None, R.PAYOUT_STAGE]),
    "settled twice": ([succeeded, settled, settled], [None, None, R.PAYOUT_STAGE]),
}


@pytest.mark.parametrize("life", STAGES)
def test_a_payout_goes_from_stage_to_stage_in_order(life: str) -> None:
    stages, expected = STAGES[life]
    assert payout_day(*(stage() for stage in stages)) == expected


def test_a_payouts_hold_is_ended_by_its_outcome_alone_and_as_a_whole() -> None:
    loose = (
        b.post("release", b.release("C-1", 300)),
        b.post("payment_capture", b.capture("C-1", 300)),
    )
    assert payout_day(*loose) == [R.HOLD_OF_PAYOUT] * 2
    assert payout_day(succeeded(299)) == [R.PAYOUT_INCOMPLETE]
    assert payout_day(failed(299)) == [R.PAYOUT_INCOMPLETE]


def test_a_payout_that_has_succeeded_is_captured_also_from_a_frozen_account() -> None:
    held = b.post("withdrawal_hold", b.hold("C-1", 300), operation_id="out")
    first = b.decide(b.loaded(rich(), b.account("P")), held)
    frozen = first.touched["C-1"]
    frozen.whole_freezes = 1
    original = original_of(b.events_of(first)[0], None, 1, b.TYPES)
    state = b.loaded(frozen, b.account("P"), originals={"out": original})
    assert b.reasons(b.decide(state, succeeded())) == [None]


# --- frozen amounts -----------------------------------------------------------------------


def test_a_frozen_amount_is_out_of_reach_of_debits_and_captures() -> None:
    state = b.loaded(rich())
    submissions = (
        b.post("freeze", b.freeze("C-1", 400)),
        b.post("transfer", b.debit("C-1", 601)),
        b.post("transfer", b.debit("C-1", 600)),
    )
    assert b.reasons(b.decide(state, *submissions)) == [None, R.INSUFFICIENT_FUNDS, None]


@pytest.mark.parametrize(
    ("facts", "frozen_minor", "takes_minor"),
    [
        ({}, 200, 800),
        ({}, 201, 799),  # frozen after the hold: all that the capture may leave
        ({}, 1_000, 0),
        ({"credit_limit_minor": 100}, 250, 800),  # the credit of the account stands for it
        ({"credit_limit_minor": None}, 5_000, 800),  # no floor: nothing is out of reach
    ],
)
def test_a_capture_leaves_what_is_frozen_also_when_its_hold_is_older(
    facts: dict[str, int | None], frozen_minor: int, takes_minor: int
) -> None:
    """An amount that was frozen after the hold was taken by its capture."""
    held = {"held_minor": 800, "holds": {"h": Hold(800, "opener")}}
    state = b.loaded(rich(**held, **facts), b.account("M-1"), originals={"opener": None})
    freeze = b.post("freeze", b.freeze("C-1", frozen_minor))
    for amount_minor in {takes_minor, takes_minor + 1} & set(range(1, 801)):
        taken = b.post(
            "payment_capture", b.capture("C-1", amount_minor), b.credit("M-1", amount_minor)
        )
        expected = None if amount_minor <= takes_minor else R.INSUFFICIENT_FUNDS
        assert b.reasons(b.decide(state, freeze, taken)) == [None, expected]


def test_a_payout_that_has_succeeded_is_captured_also_from_a_frozen_amount() -> None:
    held = b.post("withdrawal_hold", b.hold("C-1", 800), operation_id="out")
    first = b.decide(b.loaded(rich(), b.account("P")), held)
    original = original_of(b.events_of(first)[0], None, 1, b.TYPES)
    state = b.loaded(first.touched["C-1"], b.account("P"), originals={"out": original})
    freeze = b.post("freeze", b.freeze("C-1", 1_000))
    decided = b.decide(state, freeze, succeeded(800))
    assert b.reasons(decided) == [None, None]
    assert b.money(decided.touched["C-1"]) == (200, 0, 1_000, -800)


def test_an_authority_may_freeze_more_than_is_there() -> None:
    account = after(b.loaded(rich()), b.post("freeze", b.freeze("C-1", 5_000)))
    assert b.money(account) == (1_000, 0, 5_000, -4_000)


def test_only_the_authority_that_froze_lifts_the_amount_in_parts_if_it_wants() -> None:
    state = b.loaded(rich(frozen_minor=400, freezes={"f": Freeze(400, "court", "1", "")}))
    submissions = (
        b.post("unfreeze", b.unfreeze("C-1", 100, authority="risk")),
        b.post("unfreeze", b.unfreeze("C-1", 100)),
        b.post("unfreeze", b.unfreeze("C-1", 301)),
        b.post("unfreeze", b.unfreeze("C-1", 300)),
    )
    decided = b.decide(state, *submissions)
    assert b.reasons(decided) == [R.OTHER_AUTHORITY, None, R.FREEZE_EXCEEDED, None]
    assert decided.touched["C-1"].freezes == {}
    assert b.money(decided.touched["C-1"]) == (1_000, 0, 0, 1_000)


def test_a_leg_cannot_lift_the_freeze_of_a_whole_account() -> None:
    state = b.loaded(rich(whole_freezes=1, freezes={"f": Freeze(None, "court", "1", "")}))
    assert b.reason_of(state, b.post("unfreeze", b.unfreeze("C-1", 1))) is R.UNKNOWN_FREEZE
