"""The database is slow to give, with the product's own settings: a lock held by somebody for half a
minute, and a default of isolation at which a rival's writes would make ours fail."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from tests.faults.load import SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.probe import open_probe, probe
from tests.faults.scene import Scene, running_scene
from tests.faults.verdicts import Fault
from tests.waiting import wait_until

HELD_S = 30
LOCK_BOTH = """
    LOCK TABLE ledger.stored_events, projections.outcomes IN ACCESS EXCLUSIVE MODE
"""
SET_DEFAULT = """
    ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'
"""
CUT_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
ANY_BEHIND = """
    SELECT count(*) FROM pg_locks
    WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))
"""
TOUCH = {
    "engine": "UPDATE ledger.accounts SET version = version WHERE number = 'rival-C-1'",
    "consumer": "UPDATE projections.positions SET position = position",
}
TIMES = 3


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[Scene]:
    """A system with the timeouts that it has by default."""
    with running_scene(tmp_path, database_url, retry_pause_s_max=5.0) as running:
        open_probe(running)
        yield running


def test_a_lock_held_for_thirty_seconds(scene: Scene, fault: Fault) -> None:
    fault.name = f"database: lock held by somebody for {HELD_S} s"
    waited: list[float] = []
    with SeededLoad(scene, seed=fault.seed) as load:
        load.wait_for_more(50)
        with psycopg.connect(scene.database_url) as holder:
            holder.execute(LOCK_BOTH)
            until = time.monotonic() + HELD_S
            while time.monotonic() < until:
                began = time.monotonic()
                refused = probe(scene)
                waited.append(time.monotonic() - began)
                assert refused.status_code == 503, refused.text
                assert refused.headers["retry-after"]
                assert "lock timeout" in refused.json()["detail"], "not the caller's own patience"
            assert scene.words == [], "no part ended"
        load.wait_for_more(50)
    assert_nothing_lost(scene.database_url, load)
    fault.recovered(f"callers heard 503 after {max(waited):.0f} s at most; later all were booked")


@pytest.mark.parametrize("part", TOUCH)
def test_a_serialization_failure_cannot_occur(scene: Scene, fault: Fault, part: str) -> None:
    """The database's default is the strictest. A rival changes, again and again, a row for which a
    part then waits; at the default level whoever had read before fails with 40001, as is shown."""
    fault.name = f"database: serialization failure of the {part}"
    with SeededLoad(scene, seed=fault.seed, prefix="rival") as load:
        load.wait_for_more(50)
        with psycopg.connect(scene.database_url, autocommit=True) as admin:
            admin.execute(SET_DEFAULT.format(name=admin.info.dbname).encode())
            admin.execute(CUT_OTHERS)
        load.wait_for_more(50)
        with psycopg.connect(scene.database_url, autocommit=True) as rival:
            assert rival.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
            for _ in range(TIMES):
                stand_before(rival, TOUCH[part])
                load.wait_for_more(20)
            assert_fails_at_the_default(scene.database_url, rival, TOUCH[part])
        load.wait_for_more(50)
    assert_nothing_lost(scene.database_url, load)
    assert "could not serialize" not in scene.log
    fault.recovered("cannot occur: every part reads committed, whatever the default")


def stand_before(rival: Connection[Any], touch: str) -> None:
    """Change rows, and keep them until somebody waits for them."""
    while True:
        try:
            with rival.transaction():
                rival.execute(touch.encode())
                wait_until(
                    lambda: rival.execute(ANY_BEHIND).fetchone() != (0,),
                    "a part waits for the rival",
                )
            return
        except psycopg.errors.SerializationFailure:
            continue  # the rival's own, for what the parts changed


def assert_fails_at_the_default(database_url: str, rival: Connection[Any], touch: str) -> None:
    """Whoever read before the rival's change, at the database's default level, fails with 40001."""
    with psycopg.connect(database_url) as late:
        late.execute("SELECT count(*) FROM ledger.accounts, projections.positions")
        while True:
            with contextlib.suppress(psycopg.errors.SerializationFailure):
                rival.execute(touch.encode())
                break
        with pytest.raises(psycopg.errors.SerializationFailure):
            late.execute(touch.encode())
