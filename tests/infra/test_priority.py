"""What can wait goes after postings: processes of audit and sweep, here and in the server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from consumers.audit import Books, read_published
from ledger.audit import verify
from ledger.priority import (
    BOOKS,
    NICENESS,
    REST_S_MAX,
    RESTS,
    GivesWay,
    Waits,
    after_postings,
    processor_times,
    server_goes_after_postings,
)
from tests.infra.test_connections import over_tcp
from tests.ledger.booking import open_test_book, running_ledger
from tests.waiting import wait_until

WAITING = """SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"""


def niceness(process: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, process)


def test_a_block_is_lowered_with_what_it_starts_and_nothing_beside_it() -> None:
    seen: list[int] = []
    here = niceness(0)

    def work() -> None:
        with after_postings():
            inside = threading.Thread(target=lambda: seen.append(niceness(0)))
            inside.start()
            inside.join()
            seen.append(niceness(0))
            words = [sys.executable, "-c", "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"]
            seen.append(int(subprocess.run(words, capture_output=True, check=True).stdout))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [NICENESS] * 3
    assert niceness(0) == here


def test_a_server_process_of_this_machine_is_lowered_alone(database_url: str) -> None:
    with (
        psycopg.connect(database_url) as lowered,
        psycopg.connect(database_url) as other,
        over_tcp(database_url) as url,
        psycopg.connect(url) as afar,
    ):
        server_goes_after_postings(lowered)
        server_goes_after_postings(afar)  # may be on another machine: nobody knows its processes
        found = [niceness(each.info.backend_pid) for each in (lowered, other, afar)]
    assert found == [NICENESS, 0, 0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("audit", "verify"), NICENESS), (("sweep",), NICENESS), (("consume",), BOOKS)],
)
def test_a_part_that_can_wait_is_lowered_on_both_sides(
    database_url: str, words: tuple[str, ...], expected: int
) -> None:
    """A lock makes the part stand still while somebody looks at it."""
    open_test_book(database_url)
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url) as watcher:
        holder.execute("LOCK TABLE ledger.stored_events")
        command = [sys.executable, "-m", "infra", *words]
        environment = {**os.environ, "DAYBOOK_DATABASE_URL": database_url}
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, env=environment, **quiet) as process:
            try:
                wait_until(lambda: waiting(watcher), "the command waits for the lock")
                found = [niceness(each) for each in (process.pid, *waiting(watcher))]
                assert found == [expected] * 2
            finally:
                process.kill()


class Machine:
    """A thread's times, as the system would tell them, and the rests that were taken."""

    def __init__(self) -> None:
        self.ran_ns = self.waited_ns = 0
        self.now_s = 0.0
        self.rests: list[float] = []

    def work(self, ran_s: float, waited_s: float) -> None:
        self.ran_ns += round(ran_s * 1e9)
        self.waited_ns += round(waited_s * 1e9)
        self.now_s += ran_s + waited_s

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now_s += seconds

    def gives_way(self, *, told: bool = True) -> GivesWay:
        return GivesWay(
            times=lambda: (self.ran_ns, self.waited_ns) if told else None,
            clock=lambda: self.now_s,
            rest=self.rest,
        )


def in_a_thread(work: Any) -> None:
    """Run in a thread of its own, which may stay lowered; what it raises is raised here."""
    failures: list[BaseException] = []

    def catching() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=catching)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_work_rests_when_it_waited_longer_than_it_worked() -> None:
    machine = Machine()

    def work() -> None:
        with after_postings():
            gives_way = machine.gives_way()
        for ran_s, waited_s in ((0.03, 0.0), (0.03, 0.02), (0.02, 0.03), (0.03, 0.02), (1.0, 9.0)):
            machine.work(ran_s, waited_s)
            gives_way.between()

    in_a_thread(work)
    assert machine.rests == [pytest.approx(0.05 * RESTS), REST_S_MAX]


def test_waiting_is_told_since_the_last_question() -> None:
    machine = Machine()
    waits = Waits(lambda: (machine.ran_ns, machine.waited_ns))
    said = []
    for ran_s, waited_s in ((0.1, 0.2), (0.2, 0.1), (0.1, 0.1), (0.0, 0.01)):
        machine.work(ran_s, waited_s)
        said.append(waits.longer_than_it_runs())
    assert said == [True, False, False, True]
    assert not Waits(lambda: None).longer_than_it_runs()


def test_small_pieces_are_counted_together() -> None:
    machine = Machine()

    def work() -> None:
        with after_postings():
            gives_way = machine.gives_way()
        for _ in range(10):
            machine.work(0.001, 0.0015)
            gives_way.between()

    in_a_thread(work)
    assert machine.rests == [pytest.approx(8 * 0.0025 * RESTS)]


@pytest.mark.parametrize("told", [True, False])
def test_work_that_is_not_lowered_or_not_told_never_rests(told: bool) -> None:
    machine = Machine()

    def work() -> None:
        with ExitStack() as stack:
            if not told:
                stack.enter_context(after_postings())
            gives_way = machine.gives_way(told=told)
        machine.work(0.1, 1.0)
        gives_way.between()

    in_a_thread(work)
    assert machine.rests == []


def test_a_thread_that_others_keep_from_its_processor_rests() -> None:
    """Really: four processes want the one processor that it may use."""
    assert processor_times() is not None
    rests: list[float] = []
    one = {min(os.sched_getaffinity(0))}

    def work() -> None:
        os.sched_setaffinity(0, one)
        with ExitStack() as stack:
            for _ in range(4):
                spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(spinning.wait)
                stack.callback(spinning.kill)
            stack.enter_context(after_postings())
            gives_way = GivesWay(rest=rests.append)
            while not rests:
                sum(range(10_000))
                gives_way.between()

    in_a_thread(work)
    assert rests


def test_both_parts_of_an_audit_stand_between_pieces(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood: list[GivesWay] = []
    monkeypatch.setattr(GivesWay, "between", lambda self: stood.append(self))
    with running_ledger(database_url) as ledger:
        ledger.open("C-1", "C-2")
    with psycopg.connect(database_url) as conn:
        verdict = verify(conn)
        assert verdict.passed
        assert len(stood) == verdict.commits > 1
        books = Books()
        books.start(conn)
        read_published(conn, books, verdict.last_id)
    assert len(stood) == verdict.commits + 1


def waiting(watcher: psycopg.Connection[Any]) -> list[int]:
    with watcher.transaction():
        rows = watcher.execute(WAITING).fetchall()
    return [int(pid) for (pid,) in rows]
