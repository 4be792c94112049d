"""Buffered posting, pure: what is accepted, what is applied, what pushes back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ledger import events as ev
from ledger import operation as op
from ledger.account import Accepted, Account, Buffering
from ledger.batch import Decided, decide_batch
from ledger.errors import BufferFull
from ledger.errors import RejectionReason as R
from ledger.job import Job, Loaded, Outcome, answer_of
from ledger.original import known_original
from tests.ledger import builders as b

SECOND = "2026-01-31T08:00:01.000000Z"  # a second after b.AT
AGREED = Buffering(1_000, "in", "A-7", None, None, 3)


def hot(number: str = "M-1", **facts: Any) -> Account:
    """A merchant's account under an agreement: one second, inflows, at most three entries."""
    agreed = msgspec.structs.replace(AGREED, **facts.pop("agreed", {}))
    return b.account(number, buffering=agreed, **facts)


def buffer(number: str = "M-1", **facts: Any) -> Account:
    """The account's buffer account, with what waits on it."""
    accepted = facts.pop("accepted", None)
    made = b.account(f"BUFFER-{number}", type="buffer", accepted=accepted, **facts)
    return msgspec.structs.replace(made, parent=number)


def given(*accounts: Account, **more: Any) -> Loaded:
    return b.loaded(*accounts, missing=("BUFFER-M-1",), **more)


def applied(state: Loaded, *numbers: str, at: str = SECOND, due_only: bool = True) -> Decided:
    job = Job(book_id=b.BOOK, submissions=(), apply=numbers, due_only=due_only)
    return decide_batch([job], state, b.TYPES, at)


def after(state: Loaded, decided: Decided) -> Loaded:
    return msgspec.structs.replace(state, accounts={**state.accounts, **decided.touched})


def moves(decided: Decided) -> list[tuple[str, str, int]]:
    return [
        (type(event).__name__, event.account, event.amount_minor)
        for event in b.events_of(decided)
        if isinstance(event, ev.AccountCredited | ev.AccountDebited)
    ]


def answer(decided: Decided) -> op.Answer:
    outcome = decided.outcomes[0][0]
    assert isinstance(outcome, Outcome)
    return answer_of(outcome, 1)


def payment(amount_minor: int = 40, **more: Any) -> op.Submission:
    return b.post("payment", b.debit("C-1", amount_minor), b.credit("M-1", amount_minor), **more)


RICH = b.account("C-1", balance_minor=1_000)


# --- acceptance ---------------------------------------------------------------------------


def test_an_inflow_under_an_agreement_is_accepted_on_the_buffer_account() -> None:
    decided = b.decide(given(RICH, hot()), payment(40))
    assert moves(decided) == [("AccountDebited", "C-1", 40), ("AccountCredited", "BUFFER-M-1", 40)]
    assert decided.touched["BUFFER-M-1"].accepted == Accepted(b.AT, 1, 0, 40)
    assert "M-1" not in decided.touched
    assert decided.apply_at == "2026-01-31T08:00:00.500000Z"


def test_the_answer_says_accepted_and_for_which_account() -> None:
    said = answer(b.decide(given(RICH, hot()), payment(40)))
    assert said.status == "accepted"
    assert [(leg.account, leg.intended_account) for leg in said.legs] == [
        ("C-1", None),
        ("BUFFER-M-1", "M-1"),
    ]


def test_the_buffer_account_is_like_its_account_and_below_it() -> None:
    opened = b.decide(given(RICH, hot(subject="2002.01")), payment()).touched["BUFFER-M-1"]
    assert (opened.type, opened.subject, opened.parent) == ("buffer", "2002.01", "M-1")


NOT_BUFFERED: dict[str, tuple[Account, op.Submission]] = {
    "money out": (hot(balance_minor=90), b.post("fee", b.debit("M-1", 10))),
    "both directions, but a floor": (
        hot(balance_minor=90, agreed={"directions": "both"}),
        b.post("fee", b.debit("M-1", 10)),
    ),
    "the agreement has ended": (hot(agreed={"buffer_ms": 0}), payment()),
    "it begins tomorrow": (hot(agreed={"valid_from": "2026-02-01"}), payment()),
    "it was valid to yesterday": (hot(agreed={"valid_to": "2026-01-30"}), payment()),
    "a value date of its own": (hot(), payment(value_date="2026-01-30")),
    "history": (hot(), b.post("history_credit", b.credit("M-1", 5), business_date=b.DAY)),
    "another leg draws on it": (
        hot(),
        b.post("recharge", b.credit("M-1", 10), b.debit("M-1", 10)),
    ),
    "a hold": (hot(balance_minor=90), b.post("hold", b.hold("M-1", 10))),
}


@pytest.mark.parametrize("case", NOT_BUFFERED)
def test_what_no_agreement_covers_is_booked_at_once(case: str) -> None:
    account, submitted = NOT_BUFFERED[case]
    decided = b.decide(given(RICH, account), submitted)
    assert b.reasons(decided) == [None]
    assert answer(decided).status == "booked"
    assert "M-1" in decided.touched


@pytest.mark.parametrize("day", ["valid_from", "valid_to"])
def test_an_agreement_is_valid_on_its_first_and_on_its_last_day(day: str) -> None:
    decided = b.decide(given(RICH, hot(agreed={day: b.DAY})), payment())
    assert answer(decided).status == "accepted"


def test_an_account_without_a_floor_may_buffer_both_directions() -> None:
    account = hot(credit_limit_minor=None, agreed={"directions": "both"})
    decided = b.decide(given(account), b.post("fee", b.debit("M-1", 70)))
    assert moves(decided) == [("AccountDebited", "BUFFER-M-1", 70)]
    assert decided.touched["BUFFER-M-1"].accepted == Accepted(b.AT, 1, 70, 0)


def test_what_the_account_cannot_take_at_acceptance_is_refused_as_without_buffering() -> None:
    assert b.reason_of(given(RICH, hot(whole_freezes=1)), payment()) is R.ACCOUNT_FROZEN


def test_a_must_book_inflow_to_a_frozen_account_goes_to_suspense_at_once() -> None:
    decided = b.decide(given(hot(whole_freezes=1)), b.post("recharge", b.credit("M-1", 9)))
    assert moves(decided) == [("AccountCredited", "SUSPENSE-CNY", 9)]
    assert answer(decided).status == "booked"


def test_a_refund_names_the_account_that_the_part_was_for() -> None:
    decided = b.decide(given(hot()), b.post("recharge", b.credit("M-1", 9), operation_id="r"))
    original = known_original(b.events_of(decided)[0], None, 1, b.TYPES)
    assert original is not None
    assert list(original.parts) == ["M-1"]


@pytest.mark.parametrize("kind", ["transfer", "recharge"])
def test_nobody_but_the_engine_posts_to_a_buffer_account(kind: str) -> None:
    decided = b.decide(given(hot(), buffer()), b.post(kind, b.credit("BUFFER-M-1", 5)))
    assert [move for move in moves(decided) if move[1] == "BUFFER-M-1"] == []


def test_nobody_but_the_engine_opens_or_changes_a_buffer_account() -> None:
    assert b.reason_of(given(), b.open_account("BUFFER-M-1")) is R.ACCOUNT_EXISTS
    change = b.command("BUFFER-M-1", op.SetReserve(reserve_minor=1))
    assert b.reason_of(given(buffer()), change) is R.ENGINE_ACCOUNT
    below = b.open_account("C-9", parent="BUFFER-M-1")
    assert b.reason_of(b.loaded(buffer(), missing=("C-9",)), below) is R.ENGINE_ACCOUNT


# --- application --------------------------------------------------------------------------


def test_what_waits_is_applied_as_one_sum_once_half_the_bound_has_passed() -> None:
    state = given(hot(balance_minor=5), buffer(balance_minor=70, accepted=Accepted(b.AT, 2, 0, 70)))
    assert moves(applied(state, "M-1", at="2026-01-31T08:00:00.499999Z")) == []
    decided = applied(state, "M-1", at="2026-01-31T08:00:00.500000Z")
    assert moves(decided) == [
        ("AccountDebited", "BUFFER-M-1", 70),
        ("AccountCredited", "M-1", 70),
    ]
    assert decided.touched["M-1"].balance_minor == 75
    assert decided.touched["BUFFER-M-1"].accepted is None
    assert b.events_of(decided)[0].operation_id == "daybook:apply:M-1:1"


def test_both_directions_are_applied_gross() -> None:
    account = hot(credit_limit_minor=None, agreed={"directions": "both"})
    waiting = buffer(credit_limit_minor=None, accepted=Accepted(b.AT, 4, 30, 30))
    decided = applied(given(account, waiting), "M-1")
    assert moves(decided) == [
        ("AccountDebited", "BUFFER-M-1", 30),
        ("AccountCredited", "M-1", 30),
        ("AccountCredited", "BUFFER-M-1", 30),
        ("AccountDebited", "M-1", 30),
    ]
    assert decided.touched["M-1"].balance_minor == 0
    assert decided.touched["M-1"].day_credits_minor == 30


def test_applied_twice_is_applied_once() -> None:
    state = given(hot(), buffer(balance_minor=70, accepted=Accepted(b.AT, 2, 0, 70)))
    assert moves(applied(after(state, applied(state, "M-1")), "M-1")) == []


def test_an_account_frozen_meanwhile_sends_the_sum_to_suspense_with_an_issue() -> None:
    waiting = buffer(balance_minor=70, accepted=Accepted(b.AT, 2, 0, 70))
    decided = applied(given(hot(whole_freezes=1), waiting), "M-1")
    assert moves(decided) == [
        ("AccountDebited", "BUFFER-M-1", 70),
        ("AccountCredited", "SUSPENSE-CNY", 70),
    ]
    issue = b.events_of(decided)[0].issues[0]
    assert (issue.code, issue.intended_account, issue.reason) == (
        "suspense",
        "M-1",
        "account_frozen",
    )


def test_a_promised_debit_is_booked_on_a_frozen_account_with_an_issue() -> None:
    account = hot(credit_limit_minor=None, whole_freezes=1, agreed={"directions": "both"})
    waiting = buffer(credit_limit_minor=None, balance_minor=-30, accepted=Accepted(b.AT, 1, 30, 0))
    decided = applied(given(account, waiting), "M-1")
    assert decided.touched["M-1"].balance_minor == -30
    issue = b.events_of(decided)[0].issues[0]
    assert (issue.code, issue.account, issue.reason) == ("booked_anyway", "M-1", "account_frozen")


def test_a_clearing_account_on_the_debit_side_buffers_what_comes_in_by_debit() -> None:
    clearing = hot(normal_side="debit", credit_limit_minor=None, agreed={"directions": "both"})
    state = given(clearing)
    coming = b.decide(state, b.post("fee", b.debit("M-1", 90)), b.post("fee", b.credit("M-1", 20)))
    assert coming.touched["BUFFER-M-1"].accepted == Accepted(b.AT, 2, 90, 20)
    decided = applied(after(state, coming), "M-1")
    assert moves(decided) == [
        ("AccountCredited", "BUFFER-M-1", 90),
        ("AccountDebited", "M-1", 90),
        ("AccountDebited", "BUFFER-M-1", 20),
        ("AccountCredited", "M-1", 20),
    ]
    assert decided.touched["M-1"].balance_minor == 70
    assert decided.touched["BUFFER-M-1"].balance_minor == 0


def test_nobody_is_refused_for_want_of_money_that_was_accepted() -> None:
    waiting = buffer(balance_minor=70, accepted=Accepted(b.AT, 2, 0, 70))
    decided = b.decide(given(hot(), waiting), b.post("fee", b.debit("M-1", 60)))
    assert b.reasons(decided) == [None]
    assert decided.touched["M-1"].balance_minor == 10
    assert b.reason_of(given(hot(), waiting), b.post("fee", b.debit("M-1", 71))) is (
        R.INSUFFICIENT_FUNDS
    )


def test_an_account_is_not_closed_while_something_waits_for_it() -> None:
    waiting = buffer(balance_minor=70, accepted=Accepted(b.AT, 2, 0, 70))
    close = b.command("M-1", op.CloseAccount())
    assert b.reason_of(given(hot(), waiting), close) is R.BALANCE_REMAINS
    assert b.reason_of(given(hot(), buffer()), close) is None


def test_what_waits_is_applied_after_the_agreement_has_ended() -> None:
    waiting = buffer(balance_minor=70, accepted=Accepted(b.AT, 2, 0, 70))
    ended = hot(agreed={"buffer_ms": 0})
    assert applied(given(ended, waiting), "M-1", at=b.AT).touched["M-1"].balance_minor == 70


# --- push-back ----------------------------------------------------------------------------

OLD = buffer(balance_minor=70, accepted=Accepted(b.AT, 1, 0, 70))
LONG = buffer(balance_minor=70, accepted=Accepted(b.AT, 3, 0, 70))
TOO_LATE = "2026-01-31T08:00:02.000001Z"


@pytest.mark.parametrize(("waiting", "at"), [(OLD, TOO_LATE), (LONG, b.AT)])
def test_a_buffer_that_nobody_applies_or_that_is_full_pushes_back(
    waiting: Account, at: str
) -> None:
    refused = b.decide(given(RICH, hot(), waiting), payment(), at=at).outcomes[0][0]
    assert isinstance(refused, BufferFull)
    assert refused.retriable
    assert b.decide(given(RICH, hot(), waiting), payment(), at=at).rows == []


def test_a_type_that_fails_when_the_account_is_busy_is_rejected_for_good() -> None:
    transfer = b.post("transfer", b.debit("C-1", 5), b.credit("M-1", 5))
    assert b.reason_of(given(RICH, hot(), LONG), transfer) is R.ACCOUNT_BUSY


def test_what_returns_money_passes_a_full_buffer() -> None:
    paid = b.decide(
        b.loaded(b.account("M-1", balance_minor=50), RICH),
        b.post("payment", b.debit("M-1", 50), b.credit("C-1", 50), operation_id="p"),
    )
    original = known_original(b.events_of(paid)[0], None, 1, b.TYPES)
    refund = b.post("refund", b.debit("C-1", 5), b.credit("M-1", 5), original_operation_id="p")
    state = given(RICH, hot(), LONG, originals={"p": original})
    assert answer(b.decide(state, refund, at=TOO_LATE)).status == "accepted"


# --- the agreement ------------------------------------------------------------------------


def test_both_directions_need_an_account_without_a_floor() -> None:
    both = op.SetBuffering(buffer_ms=500, directions="both")
    assert b.reason_of(given(hot()), b.command("M-1", both)) is R.BUFFER_BOTH_NEEDS_NO_FLOOR
    no_floor = hot(credit_limit_minor=None)
    assert b.reason_of(given(no_floor), b.command("M-1", both)) is None


def test_the_agreement_stands_on_the_account() -> None:
    change = op.SetBuffering(buffer_ms=500, agreement="A-9")
    decided = b.decide(given(b.account("M-1")), b.command("M-1", change))
    agreed = decided.touched["M-1"].buffering
    assert agreed == Buffering(500, "in", "A-9", None, None, 1_000_000)
