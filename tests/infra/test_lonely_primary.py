"""A primary whose synchronous standby is gone: no command waits for it without end, and of two
hosts it is the other one that commands read, write and back up."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from eventsourcing.persistence import PersistenceError

from infra.backup import mark_restored
from infra.cli.exit_codes import ExitCode
from infra.decision_log import decision_log
from infra.first_start import first_start
from infra.postgres import EmbeddedPostgres
from infra.schema import migrate
from ledger.audit import digest_from_line
from ledger.books import open_book, open_day, select_books
from ledger.failover import ProvenConnection
from tests.faults.servers import own_folder, server_in
from tests.faults.test_failover import socket_of
from tests.fix_api import ApiCaller, api_over, credit, operation
from tests.infra.commands import Daybook, in_this_process
from tests.waiting import wait_until

DAY = dt.date(2026, 1, 31)
PATIENCE_S = 1.0
SELECT_LOG = "SELECT log_id::text FROM ledger.log"


@pytest.fixture(scope="module")
def lonely() -> Iterator[EmbeddedPostgres]:
    """A server with a ledger, where commits wait for a standby that is not there."""
    with own_folder("lonely") as folder, server_in(folder / "a") as server:
        first_start(server.url, key_path=folder / "key", book_id="main", open_date=DAY)
        set_standby(server, "nobody")
        yield server


def set_standby(server: EmbeddedPostgres, name: str) -> None:
    """Let commits wait for a standby from now on, or for none."""
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'".encode())
        admin.execute("SELECT pg_reload_conf()")
    wait_until(lambda: commits(server) == (not name), "the server has heard of it")


def commits(server: EmbeddedPostgres) -> bool:
    """Whether something can be committed there now."""
    try:
        ProvenConnection.connect(server.url, autocommit=True).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="module")
def other() -> Iterator[EmbeddedPostgres]:
    """A server with a ledger of its own, which commits."""
    with own_folder("other") as folder, server_in(folder / "b") as server:
        first_start(server.url, key_path=folder / "key", book_id="main", open_date=DAY)
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.failover.COMMIT_PATIENCE_S", PATIENCE_S)


@pytest.fixture
def daybook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Daybook]:
    """Commands on a database by its address."""

    def on(url: str) -> Daybook:
        monkeypatch.setenv("DAYBOOK_DATABASE_URL", url)
        return in_this_process(capsys)

    return on


def a_decision(url: str) -> None:
    with decision_log(url) as decisions:
        decisions.request_repair("main", ["p-1"], maker="alice")


def a_book(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        open_book(conn, "second", "Second", DAY, principal="alice")


def a_day(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        open_day(conn, "main", DAY + dt.timedelta(days=1), principal="alice")


@pytest.mark.parametrize("write", [a_decision, a_book, a_day, migrate, mark_restored])
def test_nobody_waits_without_end_for_a_standby_that_is_gone(
    lonely: EmbeddedPostgres, write: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.decision_log.CONNECT_PATIENCE_S", 3)
    began = time.monotonic()

    with pytest.raises((psycopg.OperationalError, PersistenceError)):
        write(lonely.url)

    assert time.monotonic() - began < 10
    with psycopg.connect(lonely.url) as conn:
        (book,) = select_books(conn)
    assert book.open_business_date == DAY, "nothing was written"


def test_callers_hear_503_and_the_age_of_the_oldest_is_told_while_the_standby_is_gone(
    lonely: EmbeddedPostgres, tmp_path: Path
) -> None:
    """What the alarm DaybookCallersWait looks at: nothing is booked, so no posting is slow."""
    set_standby(lonely, "")
    with api_over(lonely.url, tmp_path, request_timeout_s=3) as api, ThreadPoolExecutor() as pool:
        api.open("C-1")
        set_standby(lonely, "nobody")
        posted = pool.submit(api.post, "/v1/operations", operation("r-1", credit("C-1", 5)))
        wait_until(lambda: oldest_wait_s(api) > 1, "the caller waits, and the metric says so")
        decided = api.post("/v1/books/main/day", {"business_date": "2026-02-01"})
        assert posted.result().status_code == 503
        set_standby(lonely, "")
        wait_until(lambda: oldest_wait_s(api) == 0, "nobody waits any more")
        repeated = api.post("/v1/operations", operation("r-1", credit("C-1", 5)))
        set_standby(lonely, "nobody")

    assert decided.status_code == 503, decided.text
    assert repeated.status_code == 201, "it was booked when the wait ended, once"


def oldest_wait_s(api: ApiCaller) -> float:
    found = re.search(
        r"^daybook_waiting_oldest_seconds (\S+)$", api.get("/metrics").text, re.MULTILINE
    )
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize(
    "words", [("keys", "create", "g", "--scope", "read"), ("keys", "revoke", "local"), ("migrate",)]
)
def test_a_command_that_writes_says_that_nothing_can_be_committed(
    lonely: EmbeddedPostgres, daybook: Callable[[str], Daybook], words: tuple[str, ...]
) -> None:
    ended = daybook(lonely.url)(*words)
    assert ended.code == ExitCode.UNAVAILABLE
    assert "does not commit: is its standby gone" in ended.err


def test_a_lone_server_is_read_whatever_it_can_commit(
    lonely: EmbeddedPostgres, daybook: Callable[[str], Daybook]
) -> None:
    run = daybook(lonely.url)
    for words in (("keys", "list"), ("audit", "digest"), ("migrate", "--check")):
        assert run(*words).code == ExitCode.OK, words


def test_of_two_hosts_commands_work_on_the_one_that_commits(
    lonely: EmbeddedPostgres,
    other: EmbeddedPostgres,
    daybook: Callable[[str], Daybook],
    tmp_path: Path,
) -> None:
    """The first one takes writes and can be read: a digest or a backup of it is worth nothing."""
    hosts = ",".join(quote(socket_of(each), safe="") for each in (lonely, other))
    both = daybook(f"postgresql://postgres@/daybook?host={hosts}&target_session_attrs=read-write")
    with psycopg.connect(other.url) as conn:
        (log_id,) = conn.execute(SELECT_LOG).fetchone() or ("",)

    digest = both("audit", "digest").out
    backed_up = both("backup", str(tmp_path / "backup.tar")).out
    created = both("keys", "create", "gateway", "--scope", "read")
    listed = both("keys", "list", "--json").json

    assert digest_from_line(digest).log_id == log_id
    assert digest_from_line(backed_up).log_id == log_id
    assert created.code == ExitCode.OK
    assert {key["principal"] for key in listed} == {"local", "gateway"}
    assert both("audit", "verify").code == ExitCode.OK
    assert both("migrate", "--check").code == ExitCode.OK
