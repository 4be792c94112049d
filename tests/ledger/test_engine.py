"""The engine books in real PostgreSQL: answers, repeats, two engines, expiry, days, the clock."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import msgspec
import psycopg
import pytest

from infra.decision_log import decision_log
from ledger import operation as op
from ledger import recall
from ledger.audit import verify
from ledger.books import open_day
from ledger.codec import account_stream, stream_uuid
from ledger.engine import EngineSettings
from ledger.errors import (
    ClockAhead,
    DayRefused,
    EngineStopped,
    InvalidRequest,
    LedgerError,
    OperationIdReused,
    Overloaded,
    VersionMismatch,
)
from ledger.job import Job
from ledger.statuses import AccountingResult, apply_results_in_tx
from tests.ledger import builders as b
from tests.ledger.booking import FAST, FixedClock, Ledger, running_ledger
from tests.waiting import wait_until

LATER_DAY = dt.date(2026, 2, 3)


def passes_audit(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        assert verify(conn).difference is None


def balance_of(ledger: Ledger, number: str) -> int:
    rows = ledger.rows("SELECT balance FROM ledger.accounts WHERE number = %s", [number])
    return int(rows[0][0])


def test_an_answer_carries_every_touched_account_and_the_place_in_the_log(
    database_url: str,
) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("C-1", "C-2")
        ledger.answer(b.post("recharge", b.credit("C-1", 500)))
        answer = ledger.answer(b.post("transfer", b.debit("C-1", 30), b.credit("C-2", 30)))
    assert answer.status == "booked"
    assert answer.accounting_status == "pending"
    assert [(a.account, a.balance_minor, a.version) for a in answer.accounts] == [
        ("C-1", 470, 3),
        ("C-2", 30, 2),
    ]
    (row,) = ledger.rows(
        "SELECT topic FROM ledger.stored_events WHERE notification_id = %s", [answer.position]
    )
    assert row == ("ledger.recorded:OperationBooked",)
    passes_audit(database_url)


def test_the_same_body_is_answered_the_same_also_after_a_restart(database_url: str) -> None:
    paid = b.post("transfer", b.credit("C-1", 5), operation_id="paid")
    refused = b.post("transfer", b.debit("C-1", 99), operation_id="refused")
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        first = ledger.post(paid, refused)
        again = ledger.post(paid, refused)
    with running_ledger(database_url) as ledger:
        ledger.answer(b.post("transfer", b.credit("C-1", 1_000)))
        restarted = ledger.post(paid, refused)
        assert balance_of(ledger, "C-1") == 1_005
    for repeated in (again, restarted):
        for one, other in zip(first, repeated, strict=True):
            assert isinstance(one, op.Answer)
            assert isinstance(other, op.Answer)
            assert other.replayed
            assert (other.status, other.code, other.position, other.accounts) == (
                one.status,
                one.code,
                one.position,
                one.accounts,
            )


def test_an_account_is_closed_once_accounting_has_ended_its_operations(database_url: str) -> None:
    close = [b.command("C-1", op.CloseAccount()) for _ in range(3)]
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        for kind, leg in (("recharge", b.credit), ("withdrawal", b.debit)):
            ledger.answer(b.post(kind, leg("C-1", 5), operation_id=kind))
        refusals = [ledger.answer(close[0]).code]
        ended(ledger, "recharge", "vouchered")
        ended(ledger, "withdrawal", "parked")
        refusals.append(ledger.answer(close[1]).code)
        ended(ledger, "withdrawal", "vouchered", revision=2)
        assert ledger.answer(close[2]).status == "booked"
    assert refusals == ["unvouchered_remains"] * 2
    passes_audit(database_url)


@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize("open_one", ["old", "new", None])
def test_a_long_account_is_looked_through_without_the_lock(
    database_url: str, open_one: str | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody waited while its whole stream was read: 0.7 s for 42,000 events."""
    monkeypatch.setattr(recall, "EVENTS_AT_ONCE", at_once)
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        for number, leg in enumerate((b.credit, b.debit) * 4):
            ledger.answer(b.post("fee", leg("C-1", 5), operation_id=f"op-{number}"))
        still_open = {"old": "op-2", "new": "op-7"}.get(open_one or "")
        for number in range(8):
            if f"op-{number}" != still_open:
                ended(ledger, f"op-{number}", "vouchered")
        with psycopg.connect(database_url) as conn:
            found = recall.select_ended_through(conn, b.BOOK, "C-1")
            assert recall.select_ended_through(conn, b.BOOK, "nobody") == {}
        # what is known to have ended is not read again; it is believed
        last_known = {"old": 3, "new": 8, None: 9}[open_one]
        assert found["BUFFER-C-1"] == 0
        assert last_known - at_once < found["C-1"] <= last_known
        close = msgspec.structs.replace(b.command("C-1", op.CloseAccount()), ended_through=found)
        code = ledger.answer(close).code
    assert code == (None if still_open is None else "unvouchered_remains")


def ended(ledger: Ledger, operation_id: str, status: str, revision: int = 1) -> None:
    """Say how accounting ended an operation."""
    result = AccountingResult(b.BOOK, operation_id, status, None, revision)
    with psycopg.connect(ledger.database_url) as conn:
        assert apply_results_in_tx(conn, [result]) == 1


def test_a_parent_is_closed_after_the_accounts_below_it(database_url: str) -> None:
    """The buffer account that the engine opened below it does not count."""
    close = [b.command("P", op.CloseAccount()) for _ in range(2)]
    with running_ledger(database_url) as ledger:
        ledger.open("P", "C-1")
        ledger.open("P.1", "P.2", parent="P")
        buffered = op.SetBuffering(buffer_ms=100, agreement="A-7")
        ledger.answer(b.command("P", buffered))
        for kind, leg in (("recharge", b.credit), ("withdrawal", b.debit)):
            ledger.answer(b.post(kind, leg("P", 5), operation_id=kind))
            ended(ledger, kind, "vouchered")
        ledger.answer(b.command("P.1", op.CloseAccount()))
        refused = ledger.answer(close[0])
        assert (refused.code, refused.detail) == ("children_remain", "P.2")
        ledger.answer(b.command("P.2", op.CloseAccount()))
        for (apply,) in ledger.rows(
            "SELECT DISTINCT convert_from(state, 'UTF8')::jsonb ->> 'operation_id'"
            " FROM ledger.stored_events WHERE strpos(convert_from(state, 'UTF8'), %s) > 0",
            ["daybook:apply:"],
        ):
            ended(ledger, apply, "non_posting")
        assert ledger.answer(close[1]).status == "booked"
        late = ledger.answer(b.open_account("P.3", parent="P"))
        assert late.code == "account_closed"
    passes_audit(database_url)


def test_another_body_under_a_known_id_is_refused(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        ledger.answer(b.post("transfer", b.credit("C-1", 5), operation_id="id"))
        (result,) = ledger.post(b.post("transfer", b.credit("C-1", 6), operation_id="id"))
        assert isinstance(result, OperationIdReused)
        assert balance_of(ledger, "C-1") == 5


def test_an_if_match_of_another_version_changes_nothing(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        (result,) = ledger.post(b.command("C-1", op.ReportLoss(), if_version=7))
    assert isinstance(result, VersionMismatch)


def test_a_dry_run_says_what_would_be_and_writes_nothing(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        before = ledger.rows("SELECT count(*) FROM ledger.stored_events")
        (result,) = ledger.post(b.post("transfer", b.credit("C-1", 5)), dry_run=True)
        assert isinstance(result, op.Answer)
        assert (result.dry_run, result.status, result.position) == (True, "booked", None)
        assert ledger.rows("SELECT count(*) FROM ledger.stored_events") == before


def test_an_unknown_book_is_an_error_of_its_caller_alone(database_url: str) -> None:
    stray = b.post("transfer", b.credit("C-1", 5))
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        with pytest.raises(LedgerError) as caught:
            ledger.engine.post(Job(book_id="nowhere", submissions=(stray,)), 20)
        assert caught.value.code == "unknown_book"
        assert ledger.answer(b.post("transfer", b.credit("C-1", 5))).status == "booked"


def test_a_full_queue_pushes_back_and_a_stopped_engine_takes_nothing(database_url: str) -> None:
    settings = EngineSettings(queue_size_max=2)
    with running_ledger(database_url, settings=settings) as ledger:
        with pytest.raises(Overloaded):
            ledger.post(*(b.post("transfer") for _ in range(3)))
        ledger.engine.stop()
        with pytest.raises(EngineStopped):
            ledger.post(b.post("transfer"))


# --- two engines on one database ----------------------------------------------------------


def at_once(*calls: Any) -> list[Any]:
    """Run calls in threads that start together; return their results."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(no: int, call: Any) -> None:
        barrier.wait()
        results[no] = call()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_engines_with_the_same_ids_and_one_hot_account_book_each_once(
    database_url: str,
) -> None:
    with running_ledger(database_url) as one, running_ledger(database_url) as other:
        one.open("HOT", *(f"C-{no}" for no in range(5)))
        posts = [
            b.post("transfer", b.credit("HOT", 1), b.credit(f"C-{no % 5}", 1)) for no in range(60)
        ]

        def send(ledger: Ledger, order: list[op.Submission]) -> list[op.Result]:
            return [ledger.answer(each) for each in order]

        answers = at_once(lambda: send(one, posts), lambda: send(other, posts[::-1]))
        assert balance_of(one, "HOT") == 60
    flat = [answer for each in answers for answer in each]
    assert sum(not answer.replayed for answer in flat) == 60
    by_id = {answer.operation_id: answer.position for answer in answers[0]}
    assert by_id == {answer.operation_id: answer.position for answer in answers[1]}
    passes_audit(database_url)


def test_two_engines_open_the_same_account_and_it_is_opened_once(database_url: str) -> None:
    with running_ledger(database_url) as one, running_ledger(database_url) as other:
        mine = b.open_account("C-1", operation_id="mine")
        yours = b.open_account("C-1", operation_id="yours")
        first, second = at_once(lambda: one.answer(mine), lambda: other.answer(yours))
    assert sorted([first.status, second.status]) == ["booked", "rejected"]
    assert {first.code, second.code} == {None, "account_exists"}
    passes_audit(database_url)


def test_fifty_callers_refund_at_once_and_never_more_than_was_paid(database_url: str) -> None:
    with running_ledger(database_url) as one, running_ledger(database_url) as other:
        one.open("C-1", "COUPON", "M-1")
        one.post(*(b.post("recharge", b.credit(n, 1_000)) for n in ("C-1", "COUPON")))
        one.answer(
            b.post(
                "payment",
                b.debit("C-1", 97),
                b.debit("COUPON", 3),
                b.credit("M-1", 100),
                operation_id="paid",
            )
        )

        def refund(ledger: Ledger) -> op.Answer:
            legs = (b.debit("M-1", 10), b.credit("C-1", 10))
            return ledger.answer(b.post("refund", *legs, original_operation_id="paid"))

        answers = at_once(*(lambda e=(one, other)[n % 2]: refund(e) for n in range(50)))
        assert balance_of(one, "M-1") == 10
    assert sorted(a.code or "booked" for a in answers) == sorted(
        ["booked"] * 9 + ["refund_exceeds_part"] * 41
    )
    passes_audit(database_url)


# --- expiry, days, history ----------------------------------------------------------------


def test_the_sweeper_frees_an_expired_hold_without_anyone_asking(database_url: str) -> None:
    clock = FixedClock()
    with running_ledger(database_url, clock=clock, steady=clock.steady) as ledger:
        ledger.open("C-1")
        ledger.answer(b.post("recharge", b.credit("C-1", 500)))
        soon = (clock.now + dt.timedelta(minutes=1)).isoformat()
        ledger.answer(b.post("hold", b.hold("C-1", 300, expires_at=soon), operation_id="h1"))
        assert ledger.rows("SELECT held FROM ledger.accounts") == [(300,)]
        clock.pass_time(61)
        wait_until(
            lambda: ledger.rows("SELECT held FROM ledger.accounts") == [(0,)],
            "the sweeper has found the hold",
        )
        assert ledger.rows("SELECT count(*) FROM ledger.holds") == [(0,)]
    passes_audit(database_url)


def test_the_day_moves_forward_only_and_days_are_the_books_not_the_clocks(
    database_url: str,
) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        ledger.answer(b.post("transfer", b.credit("C-1", 100)))
        ledger.open_day("2026-02-03")
        answer = ledger.answer(b.post("transfer", b.credit("C-1", 1)))
        with psycopg.connect(database_url) as conn, pytest.raises(DayRefused):
            open_day(conn, b.BOOK, b.TODAY, principal="x")
    assert answer.business_date == "2026-02-03"
    (touched,) = answer.accounts
    assert (touched.previous_balance_minor, touched.day_credits_minor) == (100, 1)
    passes_audit(database_url)


def test_history_is_booked_with_its_own_dates_in_order_and_not_into_a_closed_day(
    database_url: str,
) -> None:
    def history(date: str, amount_minor: int) -> op.Submission:
        leg = b.credit("C-1", amount_minor)
        return b.post("history_credit", leg, business_date=date, value_date=date)

    with running_ledger(database_url, date="1993-01-01") as ledger:
        ledger.open("C-1", business_date="1993-01-01")
        dates = ["1993-01-05", "1993-01-07", "1993-01-06"]
        answers = ledger.post(*(history(date, 10) for date in dates))
        assert [getattr(a, "code", "error") for a in answers] == [None, None, "date_before_account"]
        ledger.open_day("1993-02-01")
        assert ledger.answer(history("1993-01-31", 10)).code == "date_closed"
    passes_audit(database_url)


# --- the clock ----------------------------------------------------------------------------


def test_a_clock_set_back_never_sets_the_booked_instant_back(database_url: str) -> None:
    clock = FixedClock()
    with running_ledger(database_url, clock=clock, steady=clock.steady) as ledger:
        ledger.open("C-1")
        before = ledger.answer(b.post("transfer", b.credit("C-1", 1)))
        clock.jump(-7_200)
        behind = ledger.answer(b.post("transfer", b.credit("C-1", 1)))
        clock.pass_time(9_000)
        after = ledger.answer(b.post("transfer", b.credit("C-1", 1)))
    assert before.booked_at == behind.booked_at < after.booked_at
    passes_audit(database_url)


def test_a_clock_that_jumps_forward_beyond_the_bound_stops_the_engine(database_url: str) -> None:
    clock = FixedClock()
    with running_ledger(database_url, clock=clock, steady=clock.steady) as ledger:
        ledger.open("C-1")
        ledger.answer(b.post("transfer", b.credit("C-1", 1)))
        clock.jump(3_599)
        ledger.answer(b.post("transfer", b.credit("C-1", 1)))
        clock.jump(3_601)
        with pytest.raises(EngineStopped):
            ledger.post(b.post("transfer", b.credit("C-1", 1)))
        wait_until(lambda: ledger.engine.stopped_by is not None, "the engine has stopped")
        with pytest.raises(EngineStopped):
            ledger.post(b.post("transfer", b.credit("C-1", 1)))
        assert balance_of(ledger, "C-1") == 2
    passes_audit(database_url)


def test_a_clock_that_is_far_ahead_from_the_start_books_nothing(database_url: str) -> None:
    """The engine compared only its own readings, and so took the first one on trust."""
    clock = FixedClock(ahead_s=86_400)
    with running_ledger(database_url, clock=clock, steady=clock.steady) as ledger:
        with pytest.raises(EngineStopped, match="jumped forward"):
            ledger.post(b.open_account("C-1"))
        assert ledger.rows("SELECT count(*) FROM ledger.accounts") == [(0,)]


def test_no_day_is_opened_and_no_decision_written_with_a_clock_far_ahead(
    database_url: str,
) -> None:
    """A command with such a clock would have held every later commit at its instant."""
    with running_ledger(database_url) as ledger:
        before = ledger.rows("SELECT last_id, booked_at FROM ledger.seals ORDER BY last_id")
        with psycopg.connect(database_url) as conn, pytest.raises(ClockAhead, match="s ahead"):
            open_day(conn, b.BOOK, LATER_DAY, principal="x", clock=FixedClock(86_400))
        with decision_log(database_url) as decisions:
            decisions.recorder.clock = FixedClock(86_400)
            with pytest.raises(ClockAhead):
                decisions.request_repair(b.BOOK, ["x"], maker="x")
        with psycopg.connect(database_url) as conn:
            open_day(conn, b.BOOK, LATER_DAY, principal="x", clock=FixedClock(200))
        after = ledger.rows("SELECT last_id, booked_at FROM ledger.seals ORDER BY last_id")
    assert after[:-1] == before
    assert after[-1][0] == before[-1][0] + 1
    passes_audit(database_url)


# --- what the store refuses ---------------------------------------------------------------


def test_one_poisoned_operation_fails_alone_in_its_batch(database_url: str) -> None:
    # given an operation whose account number no text column can hold, smuggled past parsing
    poison = b.open_account("C-\x00", operation_id="poison")
    with running_ledger(database_url, settings=FAST) as ledger:
        ledger.open("C-1")
        neighbours = [b.post("transfer", b.credit("C-1", 1)) for _ in range(9)]
        results = ledger.post(*neighbours[:5], poison, *neighbours[5:])
        assert isinstance(results[5], InvalidRequest)
        assert results[5].code == "refused_by_store"
        others = [*results[:5], *results[6:]]
        assert [getattr(each, "status", None) for each in others] == ["booked"] * 9
        assert balance_of(ledger, "C-1") == 9
    passes_audit(database_url)


def test_a_foreign_row_under_an_operations_stream_is_met_and_not_overwritten(
    database_url: str,
) -> None:
    """Only a writer that takes no lock can do that; the engine looks again and gives up."""
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        stream = stream_uuid(account_stream(b.BOOK, "C-1"))
        with psycopg.connect(database_url) as conn:
            conn.execute(
                "INSERT INTO ledger.stored_events VALUES (%s, 2, 'x', '', 1000, '')", (stream,)
            )
        with pytest.raises(LedgerError) as caught:
            ledger.answer(b.post("transfer", b.credit("C-1", 1)))
        assert caught.value.code in ("store_unavailable", "refused_by_store")
        assert balance_of(ledger, "C-1") == 0


def test_the_statements_of_a_small_batch_are_planned_once_and_not_for_each_batch(
    database_url: str,
) -> None:
    """PostgreSQL says when it plans, to whoever asks it to."""
    planned: list[str] = []
    rarely_swept = EngineSettings(sweep_interval_s=3_600)

    def connect() -> psycopg.Connection[Any]:
        conn = psycopg.connect(database_url, autocommit=True)
        conn.execute("SET client_min_messages = log")
        conn.execute("SET log_planner_stats = on")
        conn.add_notice_handler(lambda said: planned.append(said.message_primary or ""))
        return conn

    with running_ledger(database_url, settings=rarely_swept, connect=connect) as ledger:
        ledger.open("A-1")
        for number in range(20):
            ledger.answer(b.post("recharge", b.credit("A-1", 1), operation_id=f"warm-{number}"))
        assert any("PLANNER" in said for said in planned)
        planned.clear()
        for number in range(20):
            ledger.answer(b.post("recharge", b.credit("A-1", 1), operation_id=f"r-{number}"))
    assert [said for said in planned if "PLANNER" in said] == []
