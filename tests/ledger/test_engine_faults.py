"""Kills and cut wires: every acknowledged operation is booked exactly once, nothing else is."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from ledger import operation as op
from ledger.audit import verify
from ledger.engine import EngineSettings
from ledger.errors import EngineStopped, StoreUnavailable
from ledger.job import Job
from ledger.log import LOG_LOCK
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.builders import BOOK
from tests.ledger.cut_wire import ledger_on_wire
from tests.ledger.killed import run_until_killed
from tests.ledger.killed_engine import BEFORE, START_MINOR, payments
from tests.waiting import wait_until

STEPS = {  # step: whether the batch is committed by then; None: nobody can know
    ("in-company", "engine.before_insert"): False,
    ("in-company", "engine.sent"): None,
    ("in-company", "engine.after_commit"): True,
    ("holding-in-company", "engine.sent"): None,
    ("holding-in-company", "engine.after_commit"): True,
    ("holding-alone", "engine.sent"): None,
    ("large-in-company", "engine.before_insert"): False,
    ("large-in-company", "engine.after_insert"): False,
    ("large-in-company", "engine.before_commit"): False,
    ("large-in-company", "engine.after_commit"): True,
    ("alone", "engine.before_insert"): False,
    ("alone", "engine.sent"): None,
    ("alone", "engine.after_commit"): True,
}


def balances(ledger: Ledger) -> list[tuple[str, int]]:
    return ledger.rows("SELECT number, balance FROM ledger.accounts ORDER BY number")


def passes_audit(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        assert verify(conn).difference is None


@pytest.mark.parametrize(("way", "step"), STEPS)
def test_a_kill_at_any_step_loses_and_doubles_nothing(
    database_url: str, way: str, step: str
) -> None:
    # given an engine that is killed at this step of a batch
    assert run_until_killed("tests.ledger.killed_engine", database_url, step, way) == [BEFORE]
    # when another one is asked the same again
    with running_ledger(database_url) as ledger:
        answers = ledger.post(*payments(way))
        again = ledger.post(*payments(way))
        # then each operation is there once
        paid_minor = 5 * len([each for each in payments(way) if each.operation_id != "t-hold"])
        assert balances(ledger) == [("C-1", START_MINOR - paid_minor), ("C-2", paid_minor)]
    replayed = {getattr(answer, "replayed", None) for answer in answers}
    committed = STEPS[way, step]
    assert replayed == {committed} if committed is not None else len(replayed) == 1
    assert [getattr(a, "position", 0) for a in again] == [
        getattr(a, "position", 1) for a in answers
    ]
    passes_audit(database_url)


@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_reply_to_commit_is_resolved_by_looking_under_the_lock(
    database_url: str, times: int
) -> None:
    """The library's recorder would try again on its own, and book twice."""
    with ledger_on_wire(database_url) as (wire, ledger):
        ledger.open("C-1", "C-2")
        ledger.answer(b.post("recharge", b.credit("C-1", 1_000)))
        wire.cut_next_commit(times)
        results = ledger.post(*payments())
        assert wire.cuts == times
        assert balances(ledger) == [("C-1", 950), ("C-2", 50)]
    assert all(isinstance(result, op.Answer) and result.status == "booked" for result in results)
    passes_audit(database_url)


def test_a_lost_reply_to_a_rejection_is_the_same_rejection(database_url: str) -> None:
    with ledger_on_wire(database_url) as (wire, ledger):
        ledger.open("C-1")
        wire.cut_next_commit()
        refused = ledger.answer(b.post("transfer", b.debit("C-1", 1)))
        assert wire.cuts == 1
    assert refused.code == "insufficient_funds"
    passes_audit(database_url)


def test_a_store_that_stays_away_is_said_so_and_nothing_is_lost_when_it_is_back(
    database_url: str,
) -> None:
    away = False

    def connect() -> psycopg.Connection:
        if away:
            raise psycopg.OperationalError("nobody answers")
        return psycopg.connect(database_url, autocommit=True)

    with running_ledger(database_url, connect=connect) as ledger:
        ledger.open("C-1")
        paid = b.post("transfer", b.credit("C-1", 5), operation_id="paid")
        away = True
        cut_connections(database_url)
        with pytest.raises(StoreUnavailable):
            ledger.answer(paid)
        away = False
        assert ledger.answer(paid).status == "booked"
        assert ledger.answer(paid).replayed
        assert balances(ledger) == [("C-1", 5)]
    passes_audit(database_url)


def test_a_commit_that_fails_after_the_function_has_answered_books_nothing(
    database_url: str,
) -> None:
    """The function's result comes before the commit that ends its statement."""
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        ledger.answer(b.post("recharge", b.credit("C-1", 1_000)))
        with psycopg.connect(database_url) as conn:
            conn.execute(
                "CREATE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'serialization_failure'; END $$"
            )
            conn.execute(
                "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ledger.seals "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_commit()"
            )
        paid = b.post("recharge", b.credit("C-1", 5), operation_id="paid")
        with pytest.raises(StoreUnavailable):
            ledger.answer(paid)
        assert balances(ledger) == [("C-1", 1_000)]
        with psycopg.connect(database_url) as conn:
            conn.execute("DROP TRIGGER at_commit ON ledger.seals")
        answer = ledger.answer(paid)
        assert (answer.status, answer.replayed) == ("booked", False)
        assert balances(ledger) == [("C-1", 1_005)]
    passes_audit(database_url)


def test_a_statement_whose_sender_died_while_it_waited_in_the_server_counts_once(
    database_url: str,
) -> None:
    """The server commits what it was sent, though nobody is there to be answered."""
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url) as watcher:
        watcher.autocommit = True
        # given a batch on its way, which waits for the lock of the log
        sender = subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.killed_engine", database_url, "never", "asked"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert sender.stdin is not None
        assert sender.stdout is not None
        assert sender.stdout.readline().decode().strip() == BEFORE
        holder.execute("SELECT pg_advisory_xact_lock(%s, hashtext('ledger'))", (LOG_LOCK,))
        sender.stdin.write(b"go\n")
        sender.stdin.flush()
        wait_until(lambda: waits_in_append(watcher), "the statement waits for the lock")
        # when its sender is killed, and the lock given back
        sender.kill()
        sender.communicate()
        holder.rollback()
        wait_until(lambda: not waits_in_append(watcher), "the statement ends")
    # then it is booked, once
    with running_ledger(database_url) as ledger:
        answers = ledger.post(*payments())
        assert {getattr(answer, "replayed", None) for answer in answers} == {True}
        assert balances(ledger) == [("C-1", START_MINOR - 50), ("C-2", 50)]
    passes_audit(database_url)


@pytest.mark.parametrize(
    "held",
    [f"SELECT pg_advisory_xact_lock({LOG_LOCK}, hashtext('ledger'))", "LOCK ledger.stored_events"],
)
def test_who_stands_behind_others_before_a_lock_is_told_when_they_are(
    database_url: str, held: str
) -> None:
    """Each batch in turn waited for the lock's timeout, and once more when it had been decided
    ahead: who came third heard nothing for as long as a caller waits at all."""
    tries: list[int] = []

    def connect() -> psycopg.Connection:
        tries.append(len(tries))
        return psycopg.connect(database_url, autocommit=True, options="-c lock_timeout=1s")

    one_by_one = EngineSettings(sweep_interval_s=3_600, batch_size_max=1, store_patience_s=0.2)
    with running_ledger(database_url, connect=connect, settings=one_by_one) as ledger:
        ledger.open("C-1")
        for _ in range(3):  # then it is alone, and decides ahead
            ledger.answer(b.post("recharge", b.credit("C-1", 5)))
        before = len(tries)
        with psycopg.connect(database_url) as holder:
            holder.execute(held.encode())
            jobs = [
                Job(book_id=BOOK, submissions=(b.post("recharge", b.credit("C-1", 5)),))
                for _ in range(6)
            ]
            for ticket in [ledger.engine.submit(job) for job in jobs]:
                with pytest.raises(StoreUnavailable, match="lock timeout"):
                    ticket.results(60)
        assert len(tries) == before  # who was told without a try needed no new connection
        ledger.answer(b.post("recharge", b.credit("C-1", 5)))
        assert balances(ledger) == [("C-1", 20)]
    passes_audit(database_url)


def waits_in_append(watcher: psycopg.Connection) -> bool:
    row = watcher.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND state = 'active' AND query LIKE 'SELECT ledger.append_batch%' "
        "AND pid <> pg_backend_pid()"
    ).fetchone()
    return row is not None and row[0] > 0


def test_an_engine_without_a_file_to_wait_with_goes_on_when_there_is_one(
    database_url: str,
) -> None:
    """Its thread once died of it in the sweep for expired holds, and every caller waited."""
    out_of_files = False
    refused = threading.Event()

    def connect() -> psycopg.Connection:
        if out_of_files:
            refused.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return psycopg.connect(database_url, autocommit=True)

    with running_ledger(database_url, connect=connect) as ledger:
        ledger.open("C-1")
        out_of_files = True
        cut_connections(database_url)
        assert refused.wait(60)  # by the sweep
        with pytest.raises(StoreUnavailable, match="Too many open files"):
            ledger.answer(b.post("transfer", b.credit("C-1", 5), operation_id="paid"))
        out_of_files = False
        assert ledger.answer(b.post("transfer", b.credit("C-1", 5), operation_id="paid")).status
    passes_audit(database_url)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_a_defect_ends_says_so_and_leaves_nobody_waiting(
    database_url: str,
) -> None:
    broken = False

    def connect() -> psycopg.Connection:
        if broken:
            raise ZeroDivisionError
        return psycopg.connect(database_url, autocommit=True)

    with running_ledger(database_url, connect=connect) as ledger:
        ledger.open("C-1")
        broken = True
        cut_connections(database_url)
        wait_until(lambda: ledger.engine.stopped_by is not None, "the sweep meets the defect")
        with pytest.raises(EngineStopped, match="restart this process"):
            ledger.answer(b.post("transfer", b.credit("C-1", 5)))


def cut_connections(database_url: str) -> None:
    """End every other session of the database."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
