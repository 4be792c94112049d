"""kill -9 of the scheduled sweep at each of its steps, while it heals what was lost under load."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from infra.postgres import EmbeddedPostgres
from tests.e2e.test_sweep import LOCK_LANES, PASS_OVER
from tests.faults.load import SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.scene import Scene, running_scene
from tests.faults.verdicts import Fault
from tests.fix_postgres import fresh_database
from tests.waiting import wait_until

SWEEP_STEPS = {
    "compared": "after it compared",
    "healed": "inside the transaction that heals",
    "recorded": "after it recorded",
}
ANY_MISSING = """
    SELECT count(*) > 0 FROM ledger.stored_events
    WHERE topic = 'ledger.recorded:OperationBooked' AND notification_id <= %s
      AND NOT EXISTS (SELECT 1 FROM projections.outcomes WHERE position = notification_id)
"""


@pytest.fixture(scope="module")
def scene(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """One system, which sweeps every second, for all kills."""
    with (
        fresh_database(postgres_server, template_database) as url,
        running_scene(tmp_path_factory.mktemp("sweeps"), url, sweep_interval_s=1) as running,
    ):
        yield running


@pytest.mark.parametrize("step", SWEEP_STEPS)
def test_a_sweep_killed_at_any_step_heals_all_that_was_lost(
    scene: Scene, fault: Fault, step: str
) -> None:
    fault.name = f"kill -9: sweep, {SWEEP_STEPS[step]}"
    load = SeededLoad(scene, seed=fault.seed, prefix=step)
    with load:
        load.wait_for_more(50)
        last = lose_some(scene, load)
        scene.kill_at(step, "sweep")
        load.wait_for_more(50)
    wait_until(lambda: not any_missing(scene, last), "the next sweep heals them")
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("the next sweep went on where it was cut, and healed what was missing")


def lose_some(scene: Scene, load: SeededLoad) -> int:
    """Let the consumer pass over what is booked meanwhile; return the last position of it."""
    with psycopg.connect(scene.database_url) as conn:
        wait_until(lambda: conn.execute(LOCK_LANES).fetchall(), "the consumer has begun")
        load.wait_for_more(20)
        conn.execute(PASS_OVER)
        row = conn.execute("SELECT max(position) FROM projections.positions").fetchone()
    assert row is not None
    assert any_missing(scene, row[0])
    return int(row[0])


def any_missing(scene: Scene, last: int) -> bool:
    with psycopg.connect(scene.database_url) as conn:
        row = conn.execute(ANY_MISSING, (last,)).fetchone()
        return bool(row and row[0])
