"""What can wait goes after postings: processes of audit and sweep, here and in the server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import psycopg
import pytest

from ledger.priority import BOOKS, NICENESS, after_postings, server_goes_after_postings
from tests.infra.test_connections import over_tcp
from tests.ledger.booking import open_test_book
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


def waiting(watcher: psycopg.Connection[Any]) -> list[int]:
    with watcher.transaction():
        rows = watcher.execute(WAITING).fetchall()
    return [int(pid) for (pid,) in rows]
