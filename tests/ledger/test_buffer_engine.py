"""Buffered posting on a real database: bounds, days, two engines, kills, reads, the audit."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import psycopg
import pytest

from infra import audit
from ledger import operation as op
from ledger.engine import EngineSettings
from ledger.errors import BufferFull
from ledger.job import Job
from ledger.money import AMOUNT_MAX
from ledger.reads import AccountState, select_account, select_account_page
from tests.ledger import builders as b
from tests.ledger.booking import FixedClock, Ledger, running_ledger
from tests.ledger.killed import run_until_killed
from tests.ledger.killed_applier import ACCEPTED_MINOR
from tests.waiting import wait_until

STILL = EngineSettings(sweep_interval_s=3_600)  # nothing is swept but by the clock of the test
AGREEMENT = {"agreement": "A-7"}


def merchant(ledger: Ledger, buffer_ms: int = 200, **more: Any) -> None:
    """A customer with money and a merchant whose inflows are buffered."""
    ledger.open("C-1", "M-1")
    ledger.answer(b.post("recharge", b.credit("C-1", 10_000)))
    change = op.SetBuffering(buffer_ms=buffer_ms, **{**AGREEMENT, **more})
    ledger.answer(b.command("M-1", change))


def pay(amount_minor: int = 40, **more: Any) -> op.Submission:
    return b.post("payment", b.debit("C-1", amount_minor), b.credit("M-1", amount_minor), **more)


def state(ledger: Ledger, number: str = "M-1") -> AccountState:
    with psycopg.connect(ledger.database_url, autocommit=True) as conn:
        return select_account(conn, b.BOOK, number)


def seen(ledger: Ledger) -> tuple[int, int, int]:
    """The merchant's booked balance, what is accepted beside it, and both together."""
    found = state(ledger)
    assert found.buffer is not None
    both = found.balance_minor if found.rolled_up is None else found.rolled_up.balance_minor
    return found.balance_minor, found.buffer.accepted_minor, both


def audited(ledger: Ledger) -> None:
    with psycopg.connect(ledger.database_url) as conn:
        verdict = audit.verify(conn)
    assert verdict.difference is None, verdict.difference


def test_what_is_accepted_is_applied_within_the_bound(database_url: str) -> None:
    clock = FixedClock()
    with running_ledger(database_url, settings=STILL, clock=clock, steady=clock.steady) as ledger:
        merchant(ledger, buffer_ms=2_000)
        assert ledger.answer(pay(40)).status == "accepted"
        assert ledger.answer(pay(30)).status == "accepted"
        clock.pass_time(0.999)
        nudge(ledger)
        assert seen(ledger) == (0, 70, 70)
        clock.pass_time(0.001)  # half the bound: nothing else makes the engine sweep here
        nudge(ledger)
        wait_until(lambda: seen(ledger) == (70, 0, 70), "the application")
        audited(ledger)


def test_without_another_posting_the_engine_applies_by_itself(database_url: str) -> None:
    with running_ledger(database_url, settings=STILL) as ledger:
        merchant(ledger, buffer_ms=100)
        ledger.answer(pay(40))
        wait_until(lambda: seen(ledger) == (40, 0, 40), "the application")
        assert ledger.rows("SELECT count(*) FROM ledger.accepted") == [(0,)]


def test_the_same_operation_again_is_accepted_again(database_url: str) -> None:
    with running_ledger(database_url, settings=STILL) as ledger:
        merchant(ledger, buffer_ms=60_000)
        first = ledger.answer(pay(40, operation_id="p"))
        again = ledger.answer(pay(40, operation_id="p"))
        assert again == msgspec.structs.replace(first, replayed=True)
        assert seen(ledger) == (0, 40, 40)


def test_what_waits_is_applied_before_the_day_closes(database_url: str) -> None:
    with running_ledger(database_url, settings=STILL) as ledger:
        merchant(ledger, buffer_ms=60_000)
        ledger.answer(pay(40))
        ledger.open_day("2026-02-01")
        found = state(ledger)
        assert (found.balance_minor, found.business_date) == (40, b.DAY)
        assert ledger.answer(pay(7)).business_date == "2026-02-01"
        ledger.open_day("2026-02-02")
        found = state(ledger)
        assert (found.balance_minor, found.previous_balance_minor) == (47, 40)
        assert found.business_date == "2026-02-01"
        audited(ledger)


def test_frozen_meanwhile_the_sum_lies_in_suspense_and_its_buffer_is_empty(
    database_url: str,
) -> None:
    with running_ledger(database_url, settings=STILL) as ledger:
        merchant(ledger, buffer_ms=60_000)
        ledger.answer(pay(40))
        freeze = op.FreezeAccount(freeze_id="f", authority="court", order_number="1", reason="x")
        ledger.answer(b.command("M-1", freeze))
        ledger.open_day("2026-02-01")
        assert seen(ledger) == (0, 0, 0)
        assert state(ledger, "SUSPENSE-CNY").balance_minor == 40
        audited(ledger)


def test_two_engines_apply_once(database_url: str) -> None:
    with (
        running_ledger(database_url, settings=STILL) as one,
        running_ledger(database_url, settings=STILL) as other,
    ):
        merchant(one, buffer_ms=60_000)
        for each in (one, other, one):
            each.answer(pay(10))
        job = Job(book_id=b.BOOK, submissions=(), apply=("M-1",), due_only=False)
        tickets = [each.engine.submit(job) for each in (one, other) * 5]
        for ticket in tickets:
            ticket.results(60)
        assert seen(one) == (30, 0, 30)
        count = "SELECT version FROM ledger.accounts WHERE number = 'M-1'"
        assert one.rows(count) == [(3,)]  # opened, agreed, applied
        audited(one)


def test_another_engine_applies_what_a_dead_one_accepted(database_url: str) -> None:
    with running_ledger(database_url, settings=STILL) as dead:
        merchant(dead, buffer_ms=60_000)
        dead.answer(pay(40))
    later = FixedClock(ahead_s=700)
    with running_ledger(database_url, clock=later, steady=later.steady) as ledger:
        wait_until(lambda: seen(ledger) == (40, 0, 40), "the application at the start")
        audited(ledger)


def test_an_agreement_changed_is_an_agreement_read_back(database_url: str) -> None:
    with running_ledger(database_url, settings=STILL) as ledger:
        dates = {"valid_from": dt.date(2026, 1, 1), "valid_to": dt.date(2026, 12, 31)}
        merchant(ledger, buffer_ms=50_000, entries_max=9, **dates)
        ledger.answer(pay(40))
        buffer = state(ledger).buffer
        assert buffer is not None
        assert (buffer.buffer_ms, buffer.agreement, buffer.entries_max) == (50_000, "A-7", 9)
        assert (buffer.valid_from, buffer.valid_to) == ("2026-01-01", "2026-12-31")
        with psycopg.connect(database_url, autocommit=True) as conn:
            page = select_account_page(conn, b.BOOK, {}, after="", limit=10)
        listed = {each.account: each.buffer for each in page.items}
        assert listed["M-1"] == buffer
        assert listed["BUFFER-M-1"] is None
        audited(ledger)


def nudge(ledger: Ledger) -> None:
    """Two batches: the engine sweeps between them, if it is time."""
    for _ in range(2):
        ledger.answer(b.post("recharge", b.credit("C-1", 1)))


def test_a_full_buffer_pushes_back_until_it_is_applied(database_url: str) -> None:
    with running_ledger(database_url, settings=STILL) as ledger:
        merchant(ledger, buffer_ms=60_000, entries_max=1)
        ledger.answer(pay(40))
        assert isinstance(ledger.post(pay(5, operation_id="p"))[0], BufferFull)
        job = Job(book_id=b.BOOK, submissions=(), apply=("M-1",), due_only=False)
        ledger.engine.post(job, 60)
        assert ledger.answer(pay(5, operation_id="p")).status == "accepted"


def test_what_suspense_cannot_count_lies_in_the_next_one_and_the_day_opens(
    database_url: str,
) -> None:
    """The day stayed open until somebody lifted the freeze."""
    with running_ledger(database_url, settings=STILL) as ledger:
        merchant(ledger, buffer_ms=60_000)
        ledger.answer(pay(40))
        freeze = op.FreezeAccount(freeze_id="f", authority="court", order_number="1", reason="x")
        ledger.answer(b.command("M-1", freeze))
        # a suspense account that has counted all that it can
        ledger.open("CLOSED")
        ledger.answer(b.command("CLOSED", op.CloseAccount()))
        ledger.answer(b.post("recharge", b.credit("CLOSED", AMOUNT_MAX - 39)))
        ledger.open_day("2026-02-01")
        assert seen(ledger) == (0, 0, 0)
        assert state(ledger, "SUSPENSE-CNY").balance_minor == AMOUNT_MAX - 39
        assert state(ledger, "SUSPENSE-CNY-2").balance_minor == 40
        audited(ledger)


@pytest.mark.parametrize(
    "step",
    ["engine.before_insert", "engine.after_insert", "engine.before_commit", "engine.after_commit"],
)
def test_a_kill_at_any_step_of_the_application_applies_it_once(
    database_url: str, step: str
) -> None:
    assert run_until_killed("tests.ledger.killed_applier", database_url, step) == ["accepted"]
    with running_ledger(database_url) as ledger:
        wait_until(lambda: seen(ledger) == (ACCEPTED_MINOR, 0, ACCEPTED_MINOR), "the application")
        assert state(ledger).version == 3  # opened, agreed, applied
        audited(ledger)
