"""A batch: legs all or none, neighbours undisturbed, ids once, atomic and dry runs, suspense."""

from __future__ import annotations

import pytest

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account
from ledger.closing import open_below
from ledger.codec import account_stream, operation_stream
from ledger.errors import OperationIdReused, RejectionReason, VersionMismatch
from ledger.job import Outcome, Recorded
from ledger.money import AMOUNT_MAX
from tests.ledger import builders as b

R = RejectionReason


def people(*balances: int) -> list[Account]:
    return [b.account(f"C-{no}", balance_minor=minor) for no, minor in enumerate(balances, 1)]


def test_an_operations_rows_are_its_record_then_each_legs_event() -> None:
    transfer = b.post("transfer", b.debit("C-1", 5), b.credit("C-2", 5), operation_id="t")
    decided = b.decide(b.loaded(*people(10, 0)), transfer)
    assert [(row.stream_id, row.version) for row in decided.rows] == [
        (operation_stream(b.BOOK, "t"), 1),
        (account_stream(b.BOOK, "C-1"), 2),
        (account_stream(b.BOOK, "C-2"), 2),
    ]
    booked, debited, credited = b.events_of(decided)
    assert (debited.balance_before_minor, debited.balance_minor) == (10, 5)
    assert (credited.balance_before_minor, credited.balance_minor) == (0, 5)
    assert [leg.balance_minor for leg in booked.legs] == [5, 5]
    assert decided.totals == {"CNY": (1, 10)}


def test_legs_all_pass_or_none_apply() -> None:
    state = b.loaded(*people(10, 0))
    decided = b.decide(state, b.post("transfer", b.credit("C-2", 50), b.debit("C-1", 11)))
    assert b.reasons(decided) == [R.INSUFFICIENT_FUNDS]
    assert decided.touched == {}
    assert len(decided.rows) == 1


def test_a_rejected_operation_never_disturbs_its_neighbours() -> None:
    before = b.post("transfer", b.debit("C-1", 3), b.credit("C-2", 3), operation_id="1")
    guilty = b.post("transfer", b.debit("C-1", 3), b.debit("C-2", 99), operation_id="2")
    behind = b.post("transfer", b.debit("C-1", 7), b.credit("C-2", 7), operation_id="3")
    with_guilty = b.decide(b.loaded(*people(10, 0)), before, guilty, behind)
    without = b.decide(b.loaded(*people(10, 0)), before, behind)
    assert b.reasons(with_guilty) == [None, R.INSUFFICIENT_FUNDS, None]
    assert with_guilty.touched == without.touched
    kept = [row for row in with_guilty.rows if row.stream_id != operation_stream(b.BOOK, "2")]
    assert kept == without.rows


def test_the_same_account_in_many_legs_and_operations_counts_on() -> None:
    submissions = [b.post("transfer", b.credit("C-1", 1), b.credit("C-1", 2)) for _ in range(3)]
    decided = b.decide(b.loaded(*people(0)), *submissions)
    events = [e for e in b.events_of(decided) if isinstance(e, ev.AccountCredited)]
    assert [event.version for event in events] == [2, 3, 4, 5, 6, 7]
    assert [event.balance_minor for event in events] == [1, 3, 4, 6, 7, 9]


# --- ids ----------------------------------------------------------------------------------


def test_an_id_twice_in_a_batch_is_booked_once_and_answered_twice() -> None:
    transfer = b.post("transfer", b.debit("C-1", 3), operation_id="same")
    decided = b.decide(b.loaded(*people(10)), transfer, transfer)
    first, second = decided.outcomes[0]
    assert isinstance(first, Outcome)
    assert isinstance(second, Outcome)
    assert (first.replayed, second.replayed) == (False, True)
    assert first.record is second.record
    assert decided.touched["C-1"].balance_minor == 7


def test_an_id_that_is_on_record_is_answered_from_the_record_also_a_rejection() -> None:
    poor = b.post("transfer", b.debit("C-1", 3), operation_id="old")
    refused = b.decide(b.loaded(*people(0)), poor).outcomes[0][0]
    assert isinstance(refused, Outcome)
    # given the rejection on record, and money on the account by now
    recorded = {"old": Recorded(refused.record.event, position=7)}
    decided = b.decide(b.loaded(*people(10), recorded=recorded), poor)
    assert decided.rows == []
    outcome = decided.outcomes[0][0]
    assert isinstance(outcome, Outcome)
    assert (outcome.replayed, outcome.record.position) == (True, 7)


def test_an_id_with_another_body_is_refused_and_records_nothing() -> None:
    decided = b.decide(
        b.loaded(*people(10)),
        b.post("transfer", b.debit("C-1", 3), operation_id="same"),
        b.post("transfer", b.debit("C-1", 4), operation_id="same"),
    )
    assert isinstance(decided.outcomes[0][1], OperationIdReused)
    assert len(decided.rows) == 2


# --- atomic and dry runs ------------------------------------------------------------------


def test_an_atomic_job_books_all_or_rejects_all_and_its_neighbours_do_not_notice() -> None:
    state = b.loaded(*people(10, 0))
    good = b.post("transfer", b.debit("C-1", 3))
    bad = b.post("transfer", b.debit("C-2", 99))
    jobs = [b.job(good, bad, atomic=True), b.job(b.post("transfer", b.debit("C-1", 10)))]
    decided = b.decide_batch(jobs, state, b.TYPES, b.AT)
    reasons = [getattr(o.record.event, "reason", None) for job in decided.outcomes for o in job]
    assert reasons == [R.ATOMIC_BATCH_REJECTED, R.INSUFFICIENT_FUNDS, None]
    assert decided.touched["C-1"].balance_minor == 0


def test_an_error_in_an_atomic_job_records_nothing_of_it() -> None:
    decided = b.decide(
        b.loaded(*people(10)),
        b.post("transfer", b.debit("C-1", 3)),
        b.command("C-1", op.ReportLoss(), if_version=99),
        atomic=True,
    )
    assert [type(outcome) for outcome in decided.outcomes[0]] == [VersionMismatch] * 2
    assert decided.rows == []


def test_an_id_twice_in_an_atomic_job_that_fails_is_rejected_both_times() -> None:
    """The second of two equal ids was answered with the record that had been taken back."""
    twice = b.post("transfer", b.debit("C-1", 3), operation_id="same")
    bad = b.post("transfer", b.debit("C-1", 99))
    decided = b.decide(b.loaded(*people(10)), twice, twice, bad, atomic=True)
    assert b.reasons(decided) == [
        R.ATOMIC_BATCH_REJECTED,
        R.ATOMIC_BATCH_REJECTED,
        R.INSUFFICIENT_FUNDS,
    ]


def test_a_dry_run_tells_the_outcome_and_leaves_no_trace() -> None:
    decided = b.decide_batch(
        [
            b.job(b.post("transfer", b.debit("C-1", 10)), dry_run=True),
            b.job(b.post("transfer", b.debit("C-1", 10))),
        ],
        b.loaded(*people(10)),
        b.TYPES,
        b.AT,
    )
    dry, real = decided.outcomes
    assert isinstance(dry[0], Outcome)
    assert isinstance(dry[0].record.event, ev.OperationBooked)
    assert isinstance(real[0], Outcome)
    assert isinstance(real[0].record.event, ev.OperationBooked)
    assert len(decided.rows) == 2


def test_a_command_with_a_stale_version_is_a_mismatch_and_records_nothing() -> None:
    account = people(0)[0]
    stale = b.command("C-1", op.ReportLoss(), if_version=2)
    current = b.command("C-1", op.ReportLoss(), if_version=1)
    decided = b.decide(b.loaded(account), stale, current)
    assert isinstance(decided.outcomes[0][0], VersionMismatch)
    assert isinstance(decided.outcomes[0][1], Outcome)


# --- closing ------------------------------------------------------------------------------


def test_an_operation_of_the_same_batch_keeps_its_account_open() -> None:
    """The close saw only the operations that were on record before the batch."""
    close = b.command("C-1", op.CloseAccount())
    emptied = b.decide(b.loaded(*people(10)), b.post("withdrawal", b.debit("C-1", 10)), close)
    assert b.reasons(emptied) == [None, R.UNVOUCHERED_REMAINS]
    others = b.decide(b.loaded(*people(0, 10)), b.post("withdrawal", b.debit("C-2", 10)), close)
    assert b.reasons(others) == [None, None]


def test_an_account_is_closed_after_the_accounts_below_it() -> None:
    """It was closed above an open account, which went on holding money for its tree."""
    parent, child = b.account("P"), b.account("P.1", parent="P")
    state = b.loaded(parent, child, missing=["P.2"], children={"P": ("P.1",)})
    close = [b.command(number, op.CloseAccount()) for number in ("P", "P.1", "P", "P")]
    opened = b.open_account("P.2", parent="P")
    decided = b.decide(state, *close[:2], opened, close[2])
    assert b.reasons(decided) == [R.CHILDREN_REMAIN, None, None, R.CHILDREN_REMAIN]
    assert b.reasons(b.decide(state, *close[1:3], opened)) == [None, None, R.ACCOUNT_CLOSED]


def test_its_buffer_account_does_not_keep_an_account_open() -> None:
    buffer = b.account("BUFFER-P", type="buffer", parent="P", balance_minor=0)
    touched = {"BUFFER-P": buffer}  # as an application in the same batch leaves it
    assert open_below("P", b.loaded(b.account("P")), touched) == ()


# --- suspense -----------------------------------------------------------------------------

REFUSING = {
    "closed": {"status": "closed"},
    "frozen": {"whole_freezes": 1},
    "blocked": {"payment_status": "blocked"},
    "of another currency": {"currency": "USD"},
    "dated later": {"business_date": "2026-02-28"},
}


@pytest.mark.parametrize("standing", REFUSING)
def test_a_must_book_inflow_that_its_target_cannot_take_goes_to_suspense(standing: str) -> None:
    target = b.account("C-1", **REFUSING[standing])
    decided = b.decide(b.loaded(target), b.post("recharge", b.credit("C-1", 50)))
    assert b.reasons(decided) == [None]
    booked, opened, credited = b.events_of(decided)
    assert (opened.account, opened.type, opened.subject) == (
        "SUSPENSE-CNY",
        "suspense",
        b.TYPES.suspense_subject,
    )
    assert (credited.account, credited.intended_account) == ("SUSPENSE-CNY", "C-1")
    (issue,) = booked.issues
    assert (issue.code, issue.intended_account, issue.amount_minor) == ("suspense", "C-1", 50)
    assert set(decided.touched) == {"SUSPENSE-CNY"}


def test_a_must_book_inflow_to_nobody_goes_to_suspense_as_well() -> None:
    decided = b.decide(b.loaded(missing=["NOBODY"]), b.post("recharge", b.credit("NOBODY", 50)))
    (issue,) = b.events_of(decided)[0].issues
    assert issue.reason == R.UNKNOWN_ACCOUNT


def test_suspense_is_opened_once_and_used_again() -> None:
    closed = b.account("C-1", status="closed")
    posts = [b.post("recharge", b.credit("C-1", 50)) for _ in range(3)]
    decided = b.decide(b.loaded(closed), *posts)
    assert [e for e in b.events_of(decided) if isinstance(e, ev.AccountOpened)] == [
        b.events_of(decided)[1]
    ]
    assert decided.touched["SUSPENSE-CNY"].balance_minor == 150


def test_nobody_but_the_engine_opens_a_suspense_account() -> None:
    """One opened in dollars took an inflow of yuan, and booked it as dollars."""
    decided = b.decide(b.loaded(), b.open_account("SUSPENSE-CNY", currency="USD"))
    assert b.reasons(decided) == [R.ACCOUNT_EXISTS]


def test_what_a_suspense_account_could_not_count_goes_to_the_next_one() -> None:
    """It was refused, though the channel had already taken the money."""
    closed = b.account("C-1", status="closed")
    second = {"missing": ["SUSPENSE-CNY-2", "SUSPENSE-CNY-3"]}
    amounts = (AMOUNT_MAX - 5, 6, AMOUNT_MAX, 5)
    posts = [b.post("recharge", b.credit("C-1", amount_minor)) for amount_minor in amounts]
    decided = b.decide(b.loaded(closed, **second), *posts)
    assert b.reasons(decided) == [None] * 4
    assert {number: each.balance_minor for number, each in decided.touched.items()} == {
        "SUSPENSE-CNY": AMOUNT_MAX,
        "SUSPENSE-CNY-2": 6,
        "SUSPENSE-CNY-3": AMOUNT_MAX,
    }
    booked = [event for event in b.events_of(decided) if isinstance(event, ev.OperationBooked)]
    assert [event.issues[0].account for event in booked] == [
        "SUSPENSE-CNY",
        "SUSPENSE-CNY-2",
        "SUSPENSE-CNY-3",
        "SUSPENSE-CNY",
    ]
    assert decided.opened == set(decided.touched)


def test_an_inflow_into_suspense_that_is_a_day_ahead_keeps_the_accounts_days_in_order() -> None:
    suspense = b.account("SUSPENSE-CNY", type="suspense", business_date="2026-02-01")
    closed = b.account("C-1", status="closed")
    decided = b.decide(b.loaded(closed, suspense), b.post("recharge", b.credit("C-1", 5)))
    booked, credited = b.events_of(decided)
    assert (booked.business_date, credited.business_date) == (b.DAY, "2026-02-01")


def test_money_out_of_a_refusing_account_is_never_suspended() -> None:
    closed = b.account("C-1", status="closed", balance_minor=100)
    assert b.reason_of(b.loaded(closed), b.post("recharge", b.debit("C-1", 50))) is R.ACCOUNT_CLOSED


def test_an_inflow_that_is_not_must_book_is_refused() -> None:
    closed = b.account("C-1", status="closed")
    assert b.reason_of(b.loaded(closed), b.post("transfer", b.credit("C-1", 5))) is R.ACCOUNT_CLOSED
