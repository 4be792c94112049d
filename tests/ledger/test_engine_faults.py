"""Kills and cut wires: every acknowledged operation is booked exactly once, nothing else is."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from ledger import operation as op
from ledger.audit import verify
from ledger.errors import StoreUnavailable
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.cut_wire import cut_wire
from tests.ledger.killed_engine import BEFORE, payments

STEPS = {  # step: whether the batch is committed by then
    "engine.before_insert": False,
    "engine.after_insert": False,
    "engine.before_commit": False,
    "engine.after_commit": True,
}


def balances(ledger: Ledger) -> list[tuple[str, int]]:
    return ledger.rows("SELECT number, balance FROM ledger.accounts ORDER BY number")


def passes_audit(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        assert verify(conn).difference is None


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_loses_and_doubles_nothing(database_url: str, step: str) -> None:
    # given an engine that is killed at this step of a batch
    killed = subprocess.run(
        [sys.executable, "-m", "tests.ledger.killed_engine", database_url, step],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout.split() == [BEFORE]
    # when another one is asked the same again
    with running_ledger(database_url) as ledger:
        answers = ledger.post(*payments())
        again = ledger.post(*payments())
        # then each operation is there once
        assert balances(ledger) == [("C-1", 950), ("C-2", 50)]
    assert [getattr(a, "replayed", None) for a in answers] == [STEPS[step]] * 10
    assert [getattr(a, "position", 0) for a in again] == [
        getattr(a, "position", 1) for a in answers
    ]
    passes_audit(database_url)


@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_reply_to_commit_is_resolved_by_looking_under_the_lock(
    database_url: str, times: int
) -> None:
    """The library's recorder would try again on its own, and book twice."""
    with (
        cut_wire(database_url) as (wire, url),
        running_ledger(
            database_url, connect=lambda: psycopg.connect(url, autocommit=True)
        ) as ledger,
    ):
        ledger.open("C-1", "C-2")
        ledger.answer(b.post("recharge", b.credit("C-1", 1_000)))
        wire.cut_next_commit(times)
        results = ledger.post(*payments())
        assert wire.cuts == times
        assert balances(ledger) == [("C-1", 950), ("C-2", 50)]
    assert all(isinstance(result, op.Answer) and result.status == "booked" for result in results)
    passes_audit(database_url)


def test_a_lost_reply_to_a_rejection_is_the_same_rejection(database_url: str) -> None:
    with (
        cut_wire(database_url) as (wire, url),
        running_ledger(
            database_url, connect=lambda: psycopg.connect(url, autocommit=True)
        ) as ledger,
    ):
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
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(StoreUnavailable):
            ledger.answer(paid)
        away = False
        assert ledger.answer(paid).status == "booked"
        assert ledger.answer(paid).replayed
        assert balances(ledger) == [("C-1", 5)]
    passes_audit(database_url)
