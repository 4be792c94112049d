"""`daybook sweep`: what it says, what it writes, how it ends."""

from __future__ import annotations

import datetime as dt
import os
import subprocess

import psycopg
import pytest

from infra.cli.exit_codes import ExitCode
from infra.supervisor import program
from ledger.books import open_book
from tests.consumers.caught_up import statuses
from tests.consumers.test_completeness import broken, two_recharges
from tests.consumers.test_sweeps import one_lost_between, recorded
from tests.consumers.written_log import BOOK, DAY
from tests.infra.commands import Daybook, Ended


@pytest.fixture
def daybook(database_url: str) -> Daybook:
    """Run a command on this test's database, as a process: it sets its logs up."""

    def run(*words: str, url: str = database_url) -> Ended:
        done = subprocess.run(
            [*program(), *words],
            env={**os.environ, "DAYBOOK_DATABASE_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def test_complete_books_end_with_exit_code_0(database_url: str, daybook: Daybook) -> None:
    two_recharges(database_url)

    ended = daybook("sweep")

    assert ended.code == ExitCode.OK
    assert "2 operations, positions 1 to 6" in ended.out
    assert "complete" in ended.err


def test_a_missing_operation_is_named_with_exit_code_1_and_healed_when_asked(
    database_url: str, daybook: Daybook
) -> None:
    one_lost_between(database_url)

    found = daybook("sweep")
    assert found.code == ExitCode.NO
    assert "lost" in found.out
    assert "missing" in found.out
    assert "--heal" in found.err
    assert "lost" not in statuses(database_url)

    healed = daybook("sweep", "--heal", "--json")
    assert healed.code == ExitCode.OK
    assert healed.json["complete"] is True
    assert (healed.json["found"], healed.json["healed"]) == (1, 1)
    assert statuses(database_url)["lost"] == ("vouchered", None)
    assert len(recorded(database_url)) == 2


def test_a_day_and_a_range_are_swept_alone(database_url: str, daybook: Daybook) -> None:
    two_recharges(database_url)
    broken(database_url, "UPDATE outcomes SET amounts = '{\"CNY\":1}' WHERE position = 6")

    with psycopg.connect(database_url, autocommit=True) as conn:
        open_book(conn, BOOK, "Main", dt.date.fromisoformat(DAY), principal="alice")

    of_range = daybook("sweep", "--from", "1", "--to", "5", "--json")
    of_day = daybook("sweep", "--date", DAY, "--json")
    of_other = daybook("sweep", "--date", "2025-12-31", "--book", "main", "--json")

    assert (of_range.code, of_range.json["operations"]) == (ExitCode.OK, 1)
    assert (of_day.code, of_day.json["found"]) == (ExitCode.NO, 1)
    assert (of_other.code, of_other.json["operations"]) == (ExitCode.OK, 0)


@pytest.mark.parametrize("words", [("--from", "9", "--to", "3"), ("--every", "5", "--date", DAY)])
def test_what_makes_no_sense_is_refused(daybook: Daybook, words: tuple[str, ...]) -> None:
    assert daybook("sweep", *words).code == ExitCode.USAGE


def test_a_book_that_is_not_there_is_not_complete(database_url: str, daybook: Daybook) -> None:
    two_recharges(database_url)

    ended = daybook("sweep", "--book", "nobody")

    assert ended.code == ExitCode.REFUSED
    assert "no book 'nobody'" in ended.err
    assert not recorded(database_url)


def test_a_database_without_a_schema_is_refused(empty_database_url: str, daybook: Daybook) -> None:
    ended = daybook("sweep", url=empty_database_url)
    assert ended.code == ExitCode.REFUSED
    assert "migrate" in ended.err
