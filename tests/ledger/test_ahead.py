"""Batches decided ahead of the one being written: the same books as one after the other.

Goal: whatever happens between deciding and writing (another engine's commit, a batch that
dies, a lost COMMIT reply, a kill) leaves every acknowledged operation booked exactly once.
Method: batches larger than AHEAD_SIZE_MIN are queued at once, so that they overlap; the
books are then checked against the audit and against the answers.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.ahead import AHEAD_SIZE_MIN
from ledger.audit import verify
from ledger.engine import EngineSettings
from ledger.job import Job
from ledger.operation import Answer, Submission
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.builders import BOOK, credit, debit, post

SIZE = AHEAD_SIZE_MIN + 50
ACCOUNTS = [f"A-{number}" for number in range(40)]


def _transfers(seed: int, count: int = SIZE) -> tuple[Submission, ...]:
    """Transfers between few accounts: each batch depends on the one before it."""
    chosen = random.Random(seed)
    return tuple(
        post(
            "transfer",
            debit(source, 1 + number % 7),
            credit(target, 1 + number % 7),
            operation_id=f"t-{seed}-{number}",
        )
        for number in range(count)
        for source, target in [chosen.sample(ACCOUNTS, 2)]
    )


def _post_overlapping(ledger: Ledger, batches: list[tuple[Submission, ...]]) -> list[Answer]:
    """Queue all batches at once, each as a batch of its own, and return all answers."""
    tickets = [ledger.engine.submit(Job(book_id=BOOK, submissions=batch)) for batch in batches]
    answers = []
    for ticket in tickets:
        for result in ticket.results(60):
            assert isinstance(result, Answer), result
            answers.append(result)
    return answers


def _check_books(ledger: Ledger, answers: list[Answer]) -> None:
    """Every acknowledged operation is there once, nothing else is, and the audit passes."""
    booked = [answer.operation_id for answer in answers if answer.status == "booked"]
    assert len(booked) == len(set(booked))
    stored = ledger.rows(
        "SELECT convert_from(state, 'UTF8')::jsonb ->> 'operation_id' FROM ledger.stored_events "
        "WHERE topic = 'ledger.recorded:OperationBooked' "
        "AND convert_from(state, 'UTF8')::jsonb ->> 'business_type' = 'transfer'"
    )
    assert sorted(row[0] for row in stored) == sorted(booked)
    total = ledger.rows("SELECT sum(balance)::bigint FROM ledger.accounts")[0][0]
    assert total == 1_000_000 * len(ACCOUNTS) + 1
    with psycopg.connect(ledger.database_url) as conn:
        verdict = verify(conn)
    assert verdict.passed, verdict


@contextmanager
def _ledger_alone(
    database_url: str, reach: Callable[[str], None] | None = None, **more: Any
) -> Iterator[Ledger]:
    """A running ledger whose accounts are filled, and which knows that it is alone."""
    settings = EngineSettings(sweep_interval_s=0.05, batch_size_max=SIZE)
    with running_ledger(database_url, settings=settings, reach=reach, **more) as ledger:
        ledger.open(*ACCOUNTS)
        ledger.post(*(post("recharge", credit(number, 1_000_000)) for number in ACCOUNTS))
        ledger.post(post("recharge", credit(ACCOUNTS[0], 1)))
        yield ledger


def _in_writer() -> bool:
    return threading.current_thread().name.startswith("engine-writer")


def test_overlapping_batches_give_the_books_of_one_after_the_other(database_url: str) -> None:
    written_ahead: list[str] = []

    def reach(step: str) -> None:
        if _in_writer():
            written_ahead.append(step)

    with _ledger_alone(database_url, reach) as ledger:
        answers = _post_overlapping(ledger, [_transfers(seed) for seed in range(8)])

        assert len(answers) == 8 * SIZE
        assert written_ahead.count("engine.after_commit") > 1
        _check_books(ledger, answers)


@pytest.mark.parametrize(
    "step", ["engine.before_insert", "engine.after_insert", "engine.before_commit"]
)
def test_a_batch_that_dies_takes_the_one_decided_on_it_with_it(
    database_url: str, step: str
) -> None:
    left = [2]

    def reach(reached: str) -> None:
        if reached == step and _in_writer() and left[0]:
            left[0] -= 1
            raise psycopg.OperationalError("the connection is gone")

    with _ledger_alone(database_url, reach) as ledger:
        answers = _post_overlapping(ledger, [_transfers(seed) for seed in range(6)])

        assert left == [0]
        assert len(answers) == 6 * SIZE
        _check_books(ledger, answers)


def test_a_lost_commit_reply_of_a_batch_ahead_books_nothing_twice(database_url: str) -> None:
    left = [1]

    def reach(reached: str) -> None:
        if reached == "engine.after_commit" and _in_writer() and left[0]:
            left[0] -= 1
            raise psycopg.OperationalError("the reply to COMMIT was lost")

    with _ledger_alone(database_url, reach) as ledger:
        answers = _post_overlapping(ledger, [_transfers(seed) for seed in range(4)])

        assert left == [0]
        assert len(answers) == 4 * SIZE
        assert {answer.replayed for answer in answers} == {True, False}
        _check_books(ledger, answers)


def test_another_engine_in_between_supersedes_what_was_decided_ahead(database_url: str) -> None:
    with _ledger_alone(database_url) as first, running_ledger(database_url) as second:
        answers: list[Answer] = []

        def post_from(ledger: Ledger, seeds: range) -> None:
            answers.extend(_post_overlapping(ledger, [_transfers(seed) for seed in seeds]))

        callers = [
            threading.Thread(target=post_from, args=(first, range(6))),
            threading.Thread(target=post_from, args=(second, range(100, 106))),
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

        assert len(answers) == 12 * SIZE
        _check_books(first, answers)


def test_a_refund_decided_ahead_sees_the_refund_that_is_being_written(database_url: str) -> None:
    with _ledger_alone(database_url) as ledger:
        payer, merchant = ACCOUNTS[:2]
        paid = post("payment", debit(payer, SIZE), credit(merchant, SIZE), operation_id="paid")
        ledger.answer(paid)
        batches = [
            tuple(
                post(
                    "refund",
                    debit(merchant, 1),
                    credit(payer, 1),
                    operation_id=f"refund-{batch}-{number}",
                    original_operation_id="paid",
                )
                for number in range(SIZE)
            )
            for batch in range(3)
        ]

        answers = _post_overlapping(ledger, batches)

        assert [answer.status for answer in answers].count("booked") == SIZE
        assert {answer.code for answer in answers if answer.status == "rejected"} == {
            "refund_exceeds_part"
        }


def test_an_id_sent_again_in_the_next_batch_is_answered_as_the_first(database_url: str) -> None:
    with _ledger_alone(database_url) as ledger:
        batch = _transfers(1)

        answers = _post_overlapping(ledger, [batch, batch, batch])

        firsts, repeats = answers[:SIZE], answers[SIZE:]
        assert not any(answer.replayed for answer in firsts)
        assert all(answer.replayed for answer in repeats)
        assert [a.position for a in repeats] == [a.position for a in firsts] * 2
        _check_books(ledger, firsts)


KILLED = """
    import os, signal, sys
    from tests.ledger import test_ahead as case

    url, step, hits = sys.argv[1], sys.argv[2], int(sys.argv[3])

    def reach(reached):
        global hits
        if reached == step and case._in_writer():
            hits -= 1
            if hits == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    with case._ledger_alone(url, reach) as ledger:
        batches = [case._transfers(seed) for seed in range(6)]
        tickets = [
            ledger.engine.submit(case.Job(book_id=case.BOOK, submissions=batch))
            for batch in batches
        ]
        for ticket in tickets:
            for result in ticket.results(60):
                print(result.operation_id, flush=True)
"""


@pytest.mark.parametrize("step", ["before_insert", "after_insert", "before_commit", "after_commit"])
def test_a_kill_while_batches_overlap_loses_and_doubles_nothing(
    database_url: str, step: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), database_url, f"engine.{step}", "3"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    acknowledged = set(killed.stdout.split())

    with running_ledger(database_url) as ledger:
        answers = _post_overlapping(ledger, [_transfers(seed) for seed in range(6)])

        replayed = {answer.operation_id for answer in answers if answer.replayed}
        assert acknowledged <= replayed
        _check_books(ledger, answers)
