"""The database fails under load: callers hear 503 and ask again; the books go on by themselves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from infra import postgres_guard
from infra.postgres import EmbeddedPostgres
from infra.settings import Settings
from ledger.engine import EngineSettings
from tests.faults.load import SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.probe import open_probe, probe, read_probe
from tests.faults.scene import Scene, running_scene
from tests.faults.servers import own_server
from tests.faults.verdicts import Fault
from tests.waiting import wait_until

LOCK_TIMEOUT_S = 0.5
TERMINATE = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# Raises at the first statements that write the table, and counts outside of the transaction.
RAISE_OFTEN = """
    CREATE SEQUENCE public.{name};
    CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('public.{name}') <= {times} THEN
            RAISE EXCEPTION 'made by a test' USING ERRCODE = '{state}';
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER {name} AFTER INSERT ON {table} EXECUTE FUNCTION public.{name}();
"""
TIMES_RAISED = "SELECT last_value FROM public.{name}"
DROP_RAISE = "DROP FUNCTION public.{name}() CASCADE; DROP SEQUENCE public.{name}"
RAISED = 3


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server of this page's own: its faults are nobody else's."""
    with own_server() as server:
        yield server


@pytest.fixture(scope="module")
def scene(server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One system for all faults of this page."""
    home = tmp_path_factory.mktemp("database")
    with running_scene(home, server.url, lock_timeout_s=LOCK_TIMEOUT_S) as running:
        open_probe(running)
        yield running


@pytest.fixture
def load(scene: Scene, fault: Fault, request: pytest.FixtureRequest) -> SeededLoad:
    """The test's load, not yet begun."""
    return SeededLoad(scene, seed=fault.seed, prefix=f"{request.node.name[5:40]}-{fault.seed}")


@contextmanager
def administering(scene: Scene, **options: Any) -> Iterator[psycopg.Connection[Any]]:
    """A connection of an administrator, in autocommit."""
    with psycopg.connect(scene.database_url, autocommit=True, **options) as conn:
        yield conn


@contextmanager
def read_only(scene: Scene) -> Iterator[None]:
    """Let the server take no writes, as somebody does who fears for its disk."""
    with administering(scene, options="-c default_transaction_read_only=off") as admin:
        admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        admin.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
            admin.execute("SELECT pg_reload_conf()")


def assert_refused_for_now(answer: httpx.Response) -> None:
    """The caller is told to come again, and that nothing is known of the operation."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    assert answer.json()["code"] == "store_unavailable"


@pytest.mark.parametrize(
    ("how", "words"), [(signal.SIGINT, "stopped"), (signal.SIGQUIT, "lost its power")]
)
def test_a_server_that_stops_and_starts_again(
    scene: Scene, server: EmbeddedPostgres, load: SeededLoad, fault: Fault, how: int, words: str
) -> None:
    fault.name = f"database: {words} and started"
    with load:
        load.wait_for_more(50)
        postgres_guard.stop_postmaster(server.cluster, how=signal.Signals(how))
        assert_refused_for_now(probe(scene))
        assert httpx.get(f"{scene.url}/health/ready").status_code == 503
        assert httpx.get(f"{scene.url}/health/live").status_code == 200
        server.start()
        load.wait_for_more(50)
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("callers heard 503 and asked again; all parts connected anew")


def test_connections_that_are_cut_again_and_again(
    scene: Scene, load: SeededLoad, fault: Fault
) -> None:
    fault.name = "database: every connection cut, five times"
    with load, administering(scene) as admin:
        for _ in range(5):
            load.wait_for_more(20)
            cut = admin.execute(TERMINATE).fetchone()
            assert cut is not None
            assert cut[0] > 0
        load.wait_for_more(20)
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("all parts connected anew; the engine looked up what had been committed")


def test_a_database_that_takes_no_writes_is_read_and_says_so(
    scene: Scene, load: SeededLoad, fault: Fault
) -> None:
    fault.name = "database: read-only for a while"
    answers: list[httpx.Response] = []

    def says_why() -> bool:
        answers.append(probe(scene))  # the first may meet a pool whose connections were just cut
        return "read-only" in answers[-1].text

    with load:
        load.wait_for_more(50)
        with read_only(scene):
            wait_until(says_why, "posting is refused with the reason")
            assert_refused_for_now(answers[-1])
            assert "read-only" in answers[-1].json()["detail"]
            read = read_probe(scene)
            assert read.status_code == 200, read.text  # reads go on
        load.wait_for_more(50)
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("reads went on; posting heard 503 with the reason until writes were allowed")


def test_a_lock_held_for_longer_than_anybody_waits(
    scene: Scene, load: SeededLoad, fault: Fault
) -> None:
    fault.name = "database: lock held longer than the lock timeout"
    with load:
        load.wait_for_more(50)
        with administering(scene) as admin, admin.transaction():
            admin.execute("LOCK TABLE ledger.stored_events IN ACCESS EXCLUSIVE MODE")
            refused = probe(scene)
            assert_refused_for_now(refused)
            assert "lock timeout" in refused.json()["detail"]
        load.wait_for_more(50)
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("callers heard 503 after the lock timeout, and were booked when it was free")


def test_a_caller_hears_of_a_lock_before_its_own_patience_ends() -> None:
    """With the defaults a caller hears before the own patience ends, also who stands behind other
    batches: a try begins for nobody who has waited for as long as the engine's patience."""
    defaults = Settings()
    patience_s = EngineSettings().store_patience_s
    assert defaults.lock_timeout_s + patience_s < defaults.request_timeout_s
    assert defaults.lock_timeout_s < defaults.statement_timeout_s


@pytest.mark.parametrize(
    ("part", "mine", "theirs"),
    [
        ("engine", "LOCK TABLE ledger.accounts", "SELECT pg_advisory_xact_lock({log})"),
        ("consumer", "LOCK TABLE vouchers", "SELECT position FROM positions FOR UPDATE"),
    ],
)
def test_the_victim_of_a_deadlock_tries_again(
    scene: Scene, load: SeededLoad, fault: Fault, part: str, mine: str, theirs: str
) -> None:
    fault.name = f"database: {part} is a deadlock's victim"
    with load:
        load.wait_for_more(50)
        with administering(scene) as admin:
            make_deadlock(admin, mine, theirs.format(log="1145393475, hashtext('ledger')"))
        load.wait_for_more(50)
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("it rolled back, and did the same again")


def make_deadlock(admin: psycopg.Connection[Any], mine: str, theirs: str) -> None:
    """Hold what a part wants next, then ask for what it holds; it is the one that looks first."""
    admin.execute("SET search_path = projections, ledger")
    admin.execute("SET deadlock_timeout = '1h'")
    with admin.transaction():
        admin.execute(mine.encode())
        wait_until(
            lambda: (
                admin.execute(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass",
                    (mine.removeprefix("LOCK TABLE "),),
                ).fetchone()
                != (0,)
            ),
            "somebody waits for the table",
        )
        admin.execute(theirs.encode())


@pytest.mark.parametrize(
    ("part", "table"), [("engine", "ledger.seals"), ("consumer", "projections.outcomes")]
)
@pytest.mark.parametrize(
    ("state", "words"), [("40001", "serialization failure"), ("40P01", "deadlock detected")]
)
def test_a_transaction_that_the_database_gives_up_is_tried_again(
    scene: Scene, load: SeededLoad, fault: Fault, part: str, table: str, state: str, words: str
) -> None:
    fault.name = f"database: {words} in the {part}, {RAISED} times"
    name = f"raise_{part}_{state.lower()}"
    with load, administering(scene) as admin:
        load.wait_for_more(50)
        given = {"name": name, "table": table, "state": state, "times": RAISED}
        admin.execute(RAISE_OFTEN.format(**given).encode())
        load.wait_for_more(100)
        wait_until(lambda: times_raised(admin, name) > RAISED, "it passes in the end")
        admin.execute(DROP_RAISE.format(name=name).encode())
        load.wait_for_more(20)
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("it rolled back, and did the same again")


def times_raised(admin: psycopg.Connection[Any], name: str) -> int:
    row = admin.execute(TIMES_RAISED.format(name=name).encode()).fetchone()
    assert row is not None
    return int(row[0])
