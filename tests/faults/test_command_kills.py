"""kill -9 of a repair or a rebuild at each step, under load: run again, it goes on or anew."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounting.ruleset_files import SHIPPED_EXAMPLES, shipped_ruleset
from infra.first_start import publish_rules
from infra.postgres import EmbeddedPostgres
from projections.tables import connect_to
from tests.faults.load import ParkingLoad, SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost, wait_for_books
from tests.faults.scene import Scene, running_scene
from tests.faults.verdicts import Fault
from tests.fix_postgres import fresh_database

SALES = 1_400  # more than one order of repair holds
COUNT_PARKED = "SELECT count(*) FROM outcomes WHERE status = 'parked'"
COUNT_SHADOWS = "SELECT count(*) FROM pg_namespace WHERE nspname = 'projections_shadow'"
SELECT_INCARNATION = "SELECT max(incarnation) FROM positions"
REPAIR_STEPS = {"ordered": "after an order", "performed": "between two orders"}
REBUILD_STEPS = {
    "filled": (False, "when the shadow is filled"),
    "level": (False, "before it compares"),
    "compared": (False, "after it compared"),
    "drained": (False, "inside the swap"),
    "renamed": (False, "inside the swap, renamed"),
    "swapped": (True, "after the swap"),
}


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[Scene]:
    """A system for one repair: its rules change."""
    with running_scene(tmp_path, database_url) as running:
        yield running


@pytest.fixture(scope="module")
def rebuilt_scene(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """One system for all rebuilds."""
    with (
        fresh_database(postgres_server, template_database) as url,
        running_scene(tmp_path_factory.mktemp("rebuilds"), url) as running,
    ):
        wait_for_books(url)  # a consumer's first transaction makes the positions
        yield running


def number(scene: Scene, query: str) -> int:
    with connect_to(scene.database_url) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def park_sales(scene: Scene, load: ParkingLoad) -> None:
    """Post sales until more are parked than one order holds, then publish their rule."""
    with load:
        load.wait_for_more(SALES)
    wait_for_books(scene.database_url)
    assert number(scene, COUNT_PARKED) > 1_000
    rules = shipped_ruleset(SHIPPED_EXAMPLES / "voucher_sale.toml")
    publish_rules(scene.database_url, scene.settings.book, rules, maker="local")


@pytest.mark.parametrize("step", REPAIR_STEPS)
def test_a_killed_repair_is_run_again(scene: Scene, fault: Fault, step: str) -> None:
    fault.name = f"kill -9: repair, {REPAIR_STEPS[step]}"
    parked = ParkingLoad(scene, seed=fault.seed, prefix="parked")
    park_sales(scene, parked)
    with SeededLoad(scene, seed=fault.seed) as load:
        load.wait_for_more(50)
        scene.run_killed_at(step, "repair", "retry", "--reason", "no_rule")
        load.wait_for_more(50)
        assert scene.run("repair", "retry", "--reason", "no_rule") == 0, scene.log
    assert_nothing_lost(scene.database_url, parked, load)
    assert number(scene, COUNT_PARKED) == 0
    fault.recovered("the command, run again, ordered what was still parked")


def test_a_consumer_killed_while_it_performs_a_repair(scene: Scene, fault: Fault) -> None:
    fault.name = "kill -9: consumer, while it performs a repair"
    parked = ParkingLoad(scene, seed=fault.seed, prefix="parked")
    park_sales(scene, parked)
    with SeededLoad(scene, seed=fault.seed) as load:
        load.wait_for_more(50)
        victim = scene.children["consumer"]
        scene.arm("changed")
        assert scene.run("repair", "retry", "--reason", "no_rule") == 0, scene.log
        assert scene.was_taken()
        scene.wait_for_successor("consumer", victim)
        load.wait_for_more(50)
    assert_nothing_lost(scene.database_url, parked, load)
    assert number(scene, COUNT_PARKED) == 0
    fault.recovered("the supervisor started another one, which performed the order")


@pytest.mark.parametrize("step", REBUILD_STEPS)
def test_a_killed_rebuild_leaves_the_books_whole(
    rebuilt_scene: Scene, fault: Fault, step: str
) -> None:
    swapped, words = REBUILD_STEPS[step]
    fault.name = f"kill -9: rebuild, {words}"
    scene = rebuilt_scene
    before = number(scene, SELECT_INCARNATION)
    with SeededLoad(scene, seed=fault.seed, prefix=step) as load:
        load.wait_for_more(random.Random(fault.seed).randrange(50, 100))
        scene.run_killed_at(step, "rebuild")
        load.wait_for_more(50)
    assert_nothing_lost(scene.database_url, load)
    assert number(scene, SELECT_INCARNATION) == before + swapped
    assert scene.run("rebuild") == 0, scene.log
    assert number(scene, SELECT_INCARNATION) == before + swapped + 1
    assert number(scene, COUNT_SHADOWS) == 0
    fault.recovered("the live books were whole; the next rebuild began anew")
