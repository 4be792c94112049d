"""kill -9 of a part at each step of its work, under load: the supervisor's successor goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from infra.postgres import EmbeddedPostgres
from tests.faults.load import SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.scene import Scene, running_scene
from tests.faults.verdicts import Fault
from tests.fix_postgres import fresh_database

STEPS = [  # part, step, in words
    ("api-1", "engine.before_insert", "engine, before its insert"),
    ("api-1", "engine.after_insert", "engine, after its insert"),
    ("api-1", "engine.before_commit", "engine, before its commit"),
    ("api-1", "engine.after_commit", "engine, after its commit, before the answer"),
    ("consumer", "polled", "consumer, before its transaction"),
    ("consumer", "handled", "consumer, inside its transaction"),
    ("consumer", "committed", "consumer, after its transaction"),
]


@pytest.fixture(scope="module")
def scene(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """One system for all kills of this page: each starts from what the one before left."""
    with (
        fresh_database(postgres_server, template_database) as url,
        running_scene(tmp_path_factory.mktemp("kills"), url) as running,
    ):
        yield running


@pytest.mark.parametrize(("part", "step", "where"), STEPS)
def test_a_part_killed_at_any_step_is_replaced_and_nothing_is_lost(
    scene: Scene, fault: Fault, part: str, step: str, where: str
) -> None:
    fault.name = f"kill -9: {where}"
    after = random.Random(fault.seed).randrange(3)
    with SeededLoad(scene, seed=fault.seed, prefix=step) as load:
        load.wait_for_more(100)
        scene.kill_at(step, part, after=after)
        load.wait_for_more(100)
    assert_nothing_lost(scene.database_url, load)
    assert scene.words[-1].startswith(f"{part} ended by itself (SIGKILL)")
    fault.recovered("the supervisor started another one")
