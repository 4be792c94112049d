"""Migrations under load: they wait for nobody for long, posting goes on, and no process starts on
a schema that is not its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from infra.cli.exit_codes import ExitCode
from infra.schema import MIGRATIONS, migrate, read_migrations
from infra.supervisor import program
from tests.consumers.caught_up import consume_log
from tests.fix_api import ApiCaller, api_over, credit, operation
from tests.waiting import wait_until

CREATE_FIRST = "CREATE SCHEMA ledger; CREATE TABLE ledger.first (n integer)"
WIDEN_FIRST = "ALTER TABLE ledger.first ADD COLUMN wide text"
APART = """-- without transaction: the table is large
DROP INDEX CONCURRENTLY IF EXISTS ledger.first_n_idx;
CREATE INDEX CONCURRENTLY first_n_idx
    ON ledger.first (n);
"""
EXPAND = """
ALTER TABLE ledger.accounts ADD COLUMN colour text;
ALTER TABLE ledger.stored_events ADD COLUMN colour text;
ALTER TABLE projections.outcomes ADD COLUMN colour text NOT NULL DEFAULT 'none';
"""
EXPAND_APART = """-- without transaction
DROP INDEX CONCURRENTLY IF EXISTS ledger.stored_events_topic_idx;
CREATE INDEX CONCURRENTLY stored_events_topic_idx ON ledger.stored_events (topic);
"""
WAITING = """
    SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'ledger.first'::regclass
"""
NEWER = "INSERT INTO ledger.schema_migrations (version, name, sha256) VALUES (9999, 'later', 'x')"
ANOTHER = "UPDATE ledger.schema_migrations SET sha256 = 'x' || sha256 WHERE version = 1"
AS_BEFORE = """
    DELETE FROM ledger.schema_migrations WHERE version = 9999;
    UPDATE ledger.schema_migrations SET sha256 = substr(sha256, 2) WHERE version = 1;
"""
PROCESSES = (
    *(("api",), ("consume",), ("relay",), ("results",)),
    ("sweep", "--every", "60"),
    ("day", "keep", "--at", "00:00"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "migrations"
    place.mkdir()
    (place / "0001_first.sql").write_text(CREATE_FIRST)
    return place


def run(url: str, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a database."""
    return subprocess.run(
        [*program(), *words],
        env={**os.environ, "DAYBOOK_DATABASE_URL": url, "DAYBOOK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_migration_that_cannot_have_its_lock_lets_others_pass_and_tries_again(
    empty_database_url: str, folder: Path
) -> None:
    migrate(empty_database_url, folder)
    (folder / "0002_widen.sql").write_text(WIDEN_FIRST)
    applied: list[int] = []
    with psycopg.connect(empty_database_url) as holder:
        holder.execute("SELECT n FROM ledger.first")  # keeps its lock until the end
        migration = in_thread(lambda: applied.append(migrate(empty_database_url, folder)))
        with psycopg.connect(empty_database_url, autocommit=True) as reader:
            reader.execute("SET statement_timeout = '60s'")
            wait_until(
                lambda: reader.execute(WAITING).fetchone() == (1,), "the migration waits for it"
            )
            reader.execute("SELECT n FROM ledger.first")  # would stand behind it until the end
            assert applied == []
    migration.join(60)
    assert applied == [1]


def test_a_lock_that_is_never_free_ends_the_migration_and_leaves_the_schema(
    empty_database_url: str, folder: Path
) -> None:
    migrate(empty_database_url, folder)
    (folder / "0002_widen.sql").write_text(WIDEN_FIRST)
    with psycopg.connect(empty_database_url) as holder:
        holder.execute("SELECT n FROM ledger.first")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            migrate(empty_database_url, folder, patience_s=0)
    assert migrate(empty_database_url, folder) == 1


def test_a_file_may_run_apart_and_begins_again_after_it_was_cut(
    empty_database_url: str, folder: Path
) -> None:
    migrate(empty_database_url, folder)
    (folder / "0002_index.sql").write_text(APART)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("CREATE INDEX first_n_idx ON ledger.first (n)")  # as a cut run leaves it
    assert migrate(empty_database_url, folder) == 1
    assert migrate(empty_database_url, folder) == 0
    [migration] = [each for each in read_migrations(folder) if each.apart]
    assert len(migration.statements) == 2


def test_posting_goes_on_while_the_schema_moves_on_and_the_running_program_stays_in_traffic(
    database_url: str, tmp_path: Path, folder: Path
) -> None:
    shutil.rmtree(folder)
    shutil.copytree(MIGRATIONS, folder)
    number = len(read_migrations(folder))
    (folder / f"{number + 1:04}_expand.sql").write_text(EXPAND)
    (folder / f"{number + 2:04}_index.sql").write_text(EXPAND_APART)
    answers: list[int] = []
    stop = threading.Event()

    def post(api: ApiCaller, caller: int) -> None:
        for each in range(100_000):
            if stop.is_set():
                return
            body = operation(f"load-{caller}-{each}", credit("C-1", 1))
            answers.append(api.post("/v1/operations", body).status_code)

    with api_over(database_url, tmp_path) as api:
        api.open("C-1")
        assert api.http.get("/health/ready").json()["schema"] == "ok"
        callers = [in_thread(lambda caller=caller: post(api, caller)) for caller in range(4)]
        wait_until(lambda: len(answers) > 50, "posting has begun")
        assert migrate(database_url, folder) == 2
        done = len(answers)
        wait_until(lambda: len(answers) > done + 50, "posting goes on")
        stop.set()
        for caller in callers:
            caller.join(60)
        ready = api.http.get("/health/ready")
        consume_log(database_url)

        assert set(answers) == {201}
        assert api.balance("C-1") == len(answers)
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert "use a newer Daybook" in ready.json()["schema"]


def test_an_application_that_began_on_a_newer_schema_is_not_ready(
    database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(NEWER)
    with api_over(database_url, tmp_path) as api:
        ready = api.http.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert "use a newer Daybook" in ready.json()["schema"]


def test_a_running_application_stays_on_a_newer_schema_leaves_on_another_and_comes_back(
    database_url: str, tmp_path: Path
) -> None:
    with (
        api_over(database_url, tmp_path) as api,
        psycopg.connect(database_url, autocommit=True) as conn,
    ):
        api.open("C-1")

        def standing() -> tuple[int, str]:
            ready = api.http.get("/health/ready")
            return ready.status_code, ready.json()["schema"]

        assert standing() == (200, "ok")
        conn.execute(NEWER)
        assert standing()[0] == 200
        assert "use a newer Daybook" in standing()[1]
        credited = operation("on-the-newer", credit("C-1", 1))
        assert api.post("/v1/operations", credited).status_code == 201
        conn.execute(ANOTHER)
        assert standing()[0] == 503
        assert "is not the file that was applied" in standing()[1]
        conn.execute(AS_BEFORE)
        assert standing() == (200, "ok")


def test_no_process_starts_on_a_schema_that_is_newer_or_not_yet_there(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(NEWER)
    environment = {**os.environ, "DAYBOOK_HOME": str(tmp_path)}
    started = {
        (words, say): subprocess.Popen(
            [*program(), *words],
            env={**environment, "DAYBOOK_DATABASE_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words, url, say in (
            *((words, database_url, "use a newer") for words in PROCESSES),
            (("consume",), empty_database_url, "`daybook migrate`"),
        )
    }
    for (words, say), process in started.items():
        said, _ = process.communicate(timeout=120)
        assert process.returncode == ExitCode.REFUSED, f"{words}: {said}"
        assert say in said
        assert "Traceback" not in said


def test_the_plan_changes_nothing_and_the_check_says_by_its_exit_code(
    empty_database_url: str, tmp_path: Path
) -> None:
    planned = run(empty_database_url, tmp_path, "migrate", "--plan")
    unready = run(empty_database_url, tmp_path, "migrate", "--check")
    applied = run(empty_database_url, tmp_path, "migrate")
    ready = run(empty_database_url, tmp_path, "migrate", "--check")
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(NEWER)
    newer = run(empty_database_url, tmp_path, "migrate")

    assert (planned.returncode, unready.returncode) == (ExitCode.OK, ExitCode.NO)
    assert "0001_ledger in one transaction" in planned.stderr + planned.stdout
    assert f"{len(read_migrations())} migrations applied" in applied.stderr + applied.stdout
    assert ready.returncode == ExitCode.OK
    assert newer.returncode == ExitCode.REFUSED
    assert "use a newer Daybook" in newer.stderr
