"""Batches decided ahead of the one being written: the same books as one after the other.

Goal: whatever happens between deciding and writing (another engine's commit, a batch that
dies, a lost COMMIT reply, a kill) leaves every acknowledged operation booked exactly once.
Method: batches are queued at once, so that they overlap, in both ways of writing one: small
ones as a statement sent by the engine's thread, large ones by COPY in the writer's thread. The
books are then checked against the audit and against the answers.
"""

from __future__ import annotations

import datetime as dt
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

from ledger.audit import verify
from ledger.booking import COMPANY_AFTER_SUPERSEDED
from ledger.engine import EngineSettings, Ticket
from ledger.errors import OperationIdReused
from ledger.job import Job
from ledger.operation import Answer, ReportLoss, Submission
from ledger.statement import ROWS_MAX
from tests.ledger.booking import FixedClock, Ledger, running_ledger
from tests.ledger.builders import BOOK, command, credit, debit, hold, post
from tests.waiting import wait_until

SIZES = {"statement": 60, "copy": ROWS_MAX // 3 + 50}  # a transfer is three rows
ACCOUNTS = [f"A-{number}" for number in range(40)]


def _transfers(seed: int, count: int) -> tuple[Submission, ...]:
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
    database_url: str, size: int, steps: Steps | None = None, **more: Any
) -> Iterator[Ledger]:
    """A running ledger whose accounts are filled, and which knows that it is alone."""
    settings = EngineSettings(sweep_interval_s=0.05, batch_size_max=size)
    with running_ledger(database_url, settings=settings, reach=steps, **more) as ledger:
        ledger.open(*ACCOUNTS)
        ledger.post(*(post("recharge", credit(number, 1_000_000)) for number in ACCOUNTS))
        ledger.post(post("recharge", credit(ACCOUNTS[0], 1)))
        if steps is not None:
            steps.armed = True
        yield ledger


class Steps:
    """Notices which steps belong to a batch that was decided ahead, and runs `act` at those."""

    def __init__(self, act: Callable[[str], None]) -> None:
        self.armed = False
        self._act = act
        self._sent = False

    def __call__(self, step: str) -> None:
        """Take note of a step; the engine's thread and the writer's come here."""
        if not self.armed:
            return
        if threading.current_thread().name.startswith("engine-writer"):
            self._act(step)
            return
        if step in ("engine.before_insert", "engine.sent"):
            self._sent = step == "engine.sent"
        if self._sent:
            self._act(step)


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    """Operations in a batch: written as a statement, or by COPY."""
    return SIZES[str(request.param)]


def test_what_leaves_no_row_is_said_of_an_id_that_was_looked_up(database_url: str) -> None:
    with _ledger_alone(database_url, 100) as ledger:
        known = post("recharge", credit(ACCOUNTS[1], 5), operation_id="known")
        version = ledger.answer(known).accounts[0].version
        lost = command(ACCOUNTS[1], ReportLoss(), operation_id="lost", if_version=version)
        first = ledger.answer(lost)
        for _ in range(2 * COMPANY_AFTER_SUPERSEDED):
            ledger.answer(post("recharge", credit(ACCOUNTS[0], 1)))
        beside = post("recharge", credit(ACCOUNTS[0], 1))
        jobs = [
            Job(book_id=BOOK, submissions=(beside,)),  # leaves a row: the batch is decided ahead
            Job(book_id=BOOK, submissions=(known,), dry_run=True),
            Job(book_id=BOOK, submissions=(lost,)),
        ]
        tickets = [Ticket(job, None) for job in jobs]
        ledger.engine.take(tickets)
        booked, dry, again = [ticket.results(60)[0] for ticket in tickets]
    assert isinstance(booked, Answer)
    assert isinstance(dry, Answer)
    assert isinstance(again, Answer), "another version by now, and yet the first answer"
    assert (booked.replayed, dry.replayed, again.replayed) == (False, True, True)
    assert again.booked_at == first.booked_at


def test_overlapping_batches_give_the_books_of_one_after_the_other(
    database_url: str, size: int
) -> None:
    written_ahead: list[str] = []

    with _ledger_alone(database_url, size, Steps(written_ahead.append)) as ledger:
        answers = _post_overlapping(ledger, [_transfers(seed, size) for seed in range(8)])

        assert len(answers) == 8 * size
        assert written_ahead.count("engine.after_commit") > 1
        _check_books(ledger, answers)


@pytest.mark.parametrize(
    ("way", "step"),
    [
        ("statement", "engine.sent"),
        ("copy", "engine.before_insert"),
        ("copy", "engine.after_insert"),
        ("copy", "engine.before_commit"),
    ],
)
def test_a_batch_that_dies_takes_the_one_decided_on_it_with_it(
    database_url: str, way: str, step: str
) -> None:
    left = [2]
    size = SIZES[way]

    def die(reached: str) -> None:
        if reached == step and left[0]:
            left[0] -= 1
            raise psycopg.OperationalError("the connection is gone")

    with _ledger_alone(database_url, size, Steps(die)) as ledger:
        answers = _post_overlapping(ledger, [_transfers(seed, size) for seed in range(6)])

        assert left == [0]
        assert len(answers) == 6 * size
        _check_books(ledger, answers)


def test_a_lost_commit_reply_of_a_batch_ahead_books_nothing_twice(
    database_url: str, size: int
) -> None:
    left = [1]

    def die(reached: str) -> None:
        if reached == "engine.after_commit" and left[0]:
            left[0] -= 1
            raise psycopg.OperationalError("the reply to COMMIT was lost")

    with _ledger_alone(database_url, size, Steps(die)) as ledger:
        answers = _post_overlapping(ledger, [_transfers(seed, size) for seed in range(4)])

        assert left == [0]
        assert len(answers) == 4 * size
        assert {answer.replayed for answer in answers} == {True, False}
        _check_books(ledger, answers)


def test_another_engine_in_between_supersedes_what_was_decided_ahead(
    database_url: str, size: int
) -> None:
    with _ledger_alone(database_url, size) as first, running_ledger(database_url) as second:
        answers: list[Answer] = []

        def post_from(ledger: Ledger, seeds: range) -> None:
            answers.extend(_post_overlapping(ledger, [_transfers(seed, size) for seed in seeds]))

        callers = [
            threading.Thread(target=post_from, args=(first, range(6))),
            threading.Thread(target=post_from, args=(second, range(100, 106))),
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

        assert len(answers) == 12 * size
        _check_books(first, answers)


def test_a_refund_decided_ahead_sees_the_refund_that_is_being_written(
    database_url: str, size: int
) -> None:
    with _ledger_alone(database_url, size) as ledger:
        payer, merchant = ACCOUNTS[:2]
        paid = post("payment", debit(payer, size), credit(merchant, size), operation_id="paid")
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
                for number in range(size)
            )
            for batch in range(3)
        ]

        answers = _post_overlapping(ledger, batches)

        assert [answer.status for answer in answers].count("booked") == size
        assert {answer.code for answer in answers if answer.status == "rejected"} == {
            "refund_exceeds_part"
        }


def test_an_id_sent_again_in_the_next_batch_is_answered_as_the_first(
    database_url: str, size: int
) -> None:
    with _ledger_alone(database_url, size) as ledger:
        batch = _transfers(1, size)

        answers = _post_overlapping(ledger, [batch, batch, batch])

        firsts, repeats = answers[:size], answers[size:]
        assert not any(answer.replayed for answer in firsts)
        assert all(answer.replayed for answer in repeats)
        assert [a.position for a in repeats] == [a.position for a in firsts] * 2
        _check_books(ledger, firsts)


KILLED = """
    import os, signal, sys
    from tests.ledger import test_ahead as case

    url, step, hits, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

    def die(reached):
        global hits
        if reached == step:
            hits -= 1
            if hits == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    with case._ledger_alone(url, size, case.Steps(die)) as ledger:
        batches = [case._transfers(seed, size) for seed in range(6)]
        tickets = [
            ledger.engine.submit(case.Job(book_id=case.BOOK, submissions=batch))
            for batch in batches
        ]
        for ticket in tickets:
            for result in ticket.results(60):
                print(result.operation_id, flush=True)
"""


@pytest.mark.parametrize(
    ("way", "step"),
    [
        ("statement", "sent"),
        ("statement", "after_commit"),
        ("copy", "before_insert"),
        ("copy", "after_insert"),
        ("copy", "before_commit"),
        ("copy", "after_commit"),
    ],
)
def test_a_kill_while_batches_overlap_loses_and_doubles_nothing(
    database_url: str, way: str, step: str
) -> None:
    size = SIZES[way]
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(KILLED),
            database_url,
            f"engine.{step}",
            "3",
            str(size),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    acknowledged = set(killed.stdout.split())

    with running_ledger(database_url) as ledger:
        answers = _post_overlapping(ledger, [_transfers(seed, size) for seed in range(6)])

        replayed = {answer.operation_id for answer in answers if answer.replayed}
        assert acknowledged <= replayed
        _check_books(ledger, answers)


def test_an_old_id_among_new_ones_is_answered_from_the_record_and_the_new_are_booked(
    database_url: str, size: int
) -> None:
    """New ids are not looked up ahead: the writer finds the old one, and nothing is written."""
    with _ledger_alone(database_url, size) as ledger:
        batches = [_transfers(seed, size) for seed in range(4)]
        firsts = _post_overlapping(ledger, batches)
        mixed = (*_transfers(9, size - 1), batches[0][0])

        answers = _post_overlapping(ledger, [mixed, _transfers(10, size), batches[1]])

        replayed = [answer for answer in answers if answer.replayed]
        assert [a.operation_id for a in replayed] == ["t-0-0", *(f"t-1-{n}" for n in range(size))]
        assert [a.position for a in replayed] == [
            firsts[0].position,
            *(a.position for a in firsts[size : 2 * size]),
        ]
        _check_books(ledger, firsts + [answer for answer in answers if not answer.replayed])


def test_an_old_id_with_another_body_is_refused_alone(database_url: str, size: int) -> None:
    with _ledger_alone(database_url, size) as ledger:
        firsts = _post_overlapping(ledger, [_transfers(seed, size) for seed in range(3)])
        other = post("recharge", credit(ACCOUNTS[0], 5), operation_id="t-0-0")

        results = ledger.post(*_transfers(9, size - 1), other)

        assert isinstance(results[-1], OperationIdReused)
        assert all(isinstance(answer, Answer) for answer in results[:-1])
        _check_books(ledger, [*firsts, *(a for a in results if isinstance(a, Answer))])


def test_holds_expire_while_batch_after_batch_is_decided_ahead(database_url: str) -> None:
    clock = FixedClock()
    stop = threading.Event()
    with _ledger_alone(database_url, 60, clock=clock, steady=clock.steady) as ledger:
        ledger.open("H-1")  # no batch touches it: nothing but the sweep looks at its hold
        ledger.answer(post("recharge", credit("H-1", 10)))
        held = post("hold", hold("H-1", 10, expires_at=clock.now + dt.timedelta(seconds=10)))
        assert ledger.answer(held).status == "booked"

        def keep_posting() -> None:
            seed = 0
            while not stop.is_set():
                seed += 1
                _post_overlapping(ledger, [_transfers(1_000 * seed + n, 60) for n in range(4)])

        caller = threading.Thread(target=keep_posting)
        caller.start()
        try:
            clock.pass_time(60)
            wait_until(
                lambda: ledger.rows("SELECT count(*) FROM ledger.holds") == [(0,)],
                "the hold expires",
            )
        finally:
            stop.set()
            caller.join()
