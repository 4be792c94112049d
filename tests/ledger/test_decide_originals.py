"""What an operation follows: the original it names, and the opener of every hold it ends."""

from __future__ import annotations

import msgspec

from ledger import events as ev
from ledger.codec import encode_state
from ledger.operation import Submission
from tests.ledger import builders as b

TWO_HOLDS = (
    b.post("hold", b.hold("C-1", 300, "h1"), operation_id="first"),
    b.post("hold", b.hold("C-2", 200, "h2"), operation_id="second"),
)
BOTH = (b.capture("C-2", 200, "h2"), b.capture("C-1", 300, "h1"), b.credit("M-1", 500))


def booked(*submissions: Submission) -> tuple[ev.OperationBooked, list[tuple[str, str]]]:
    """Decide; give the last operation, and whose streams got a row by it, with the relation."""
    rich = (b.account("C-1", balance_minor=1_000), b.account("C-2", balance_minor=1_000))
    decided = b.decide(b.loaded(*rich, b.account("M-1")), *submissions)
    assert set(b.reasons(decided)) == {None}
    events = b.events_of(decided)
    last = [event for event in events if isinstance(event, ev.OperationBooked)][-1]
    followed = [
        (event.operation_id, event.relation)
        for event in events
        if isinstance(event, ev.OperationFollowed) and event.by_operation_id == last.operation_id
    ]
    return last, followed


def test_a_capture_of_two_openers_holds_follows_both_in_the_order_of_its_legs() -> None:
    last, followed = booked(*TWO_HOLDS, b.post("payment_capture", *BOTH))

    assert (last.original_operation_id, last.also_follows) == ("second", ("first",))
    assert last.originals == ("second", "first")
    assert followed == [("second", "capture"), ("first", "capture")]


def test_who_names_an_original_and_releases_anothers_hold_follows_the_named_one_first() -> None:
    paid = b.post("payment", b.debit("C-1", 9), b.credit("M-1", 9), operation_id="paid")
    legs = (b.release("C-2", 200, "h2"), b.debit("M-1", 9), b.credit("C-1", 9))
    refund = b.post("refund", *legs, original_operation_id="paid")

    last, followed = booked(*TWO_HOLDS, paid, refund)

    assert last.originals == ("paid", "second")
    assert sorted(followed) == [("paid", "refund"), ("second", "release")]


def test_who_names_the_opener_of_the_hold_it_ends_follows_it_once() -> None:
    named = b.post("payment_capture", *BOTH, original_operation_id="first")

    last, followed = booked(*TWO_HOLDS, named)

    assert last.originals == ("first", "second")
    assert len(followed) == 2


def test_an_operation_that_ends_its_own_hold_follows_nobody() -> None:
    """It was its own original, and waited for itself in the books for ever."""
    last, followed = booked(b.post("hold", b.hold("C-1", 5), b.release("C-1", 5)))

    assert last.originals == ()
    assert followed == []


def test_a_row_that_names_one_original_has_the_bytes_it_always_had() -> None:
    hold = b.post("hold", b.hold("C-1", 300), operation_id="first")
    last, _ = booked(hold, b.post("release", b.release("C-1", 300)))
    state = encode_state(last)

    assert b"also_follows" not in state
    assert msgspec.json.decode(state, type=ev.OperationBooked).originals == ("first",)
