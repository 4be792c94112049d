"""kill -9 of a rebuild at each of its steps: the live books are as before, the next one works."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from consumers.rebuild import rebuild, select_old_schemas
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log, statuses
from tests.consumers.test_buses import a_day
from tests.consumers.written_log import WrittenLog

KILLED_AT = """
import os, signal, sys
from consumers.rebuild import rebuild

def die(at, *_):
    if at == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

rebuild(sys.argv[1], only=sys.argv[3:], processes=2 if sys.argv[2] == "filling" else 0,
        rows_per_stretch=40, progress=die, failpoint=die)
"""


def kill_rebuild_at(database_url: str, step: str, *only: str) -> None:
    """Run a rebuild in a process of its own that dies at a step."""
    command = [sys.executable, "-c", KILLED_AT, database_url, step, *only]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "step", ["filling", "filled", "level", "compared", "drained", "renamed", "swapped"]
)
def test_kill_9_at_each_step_leaves_the_live_books_and_the_next_rebuild_works(
    database_url: str, step: str
) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url)
    before = books(database_url)

    kill_rebuild_at(database_url, step)

    report = rebuild(database_url)  # at once: processes of the killed one may be alive still
    assert books(database_url) == before
    written.commit(written.recharge("after", "C-1"))
    consume_log(database_url)
    assert statuses(database_url)["after"] == ("vouchered", None)
    assert report.difference is None
    assert report.swapped
    with connect_to(database_url) as conn:
        kept = select_old_schemas(conn)
    assert len(kept) == (2 if step == "swapped" else 1)


def test_kill_9_in_the_swap_of_some_tables_leaves_them_all(database_url: str) -> None:
    a_day(WrittenLog(database_url))
    consume_log(database_url)
    before = books(database_url, lanes=True)

    kill_rebuild_at(database_url, "renamed", "vouchers", "voucher_lines")

    assert books(database_url, lanes=True) == before
    assert rebuild(database_url, only=["vouchers", "voucher_lines"]).swapped
    assert books(database_url, lanes=True) == before
