"""kill -9 of a part at each step of its work, under load: the supervisor's successor goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from infra.postgres import EmbeddedPostgres
from ledger.statement import ROWS_MAX
from tests.faults.load import BatchLoad, SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.scene import Scene, free_topics, running_scene
from tests.faults.verdicts import Fault
from tests.fix_postgres import fresh_database

ENGINE_STEPS = {
    "engine.before_insert": "before its insert",
    "engine.after_insert": "after its insert",
    "engine.before_commit": "before its commit",
    "engine.after_commit": "after its commit, before the answer",
}
CONSUMER_STEPS = {
    "polled": "before its transaction",
    "handled": "inside its transaction",
    "committed": "after its transaction",
}
RELAY_STEPS = {
    "selected": "before it sends",
    "sending": "while it sends",
    "sent": "after it sent, before it saves its position",
}
COPIED = ROWS_MAX * 2 // 3  # operations of about two rows: too many for one statement
AFTER_MAX = 3  # the seed says at which of the first times


@pytest.fixture(scope="module")
def scene(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """One system for all kills on the log bus: each starts from what the one before left."""
    with (
        fresh_database(postgres_server, template_database) as url,
        running_scene(tmp_path_factory.mktemp("kills"), url) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def kafka_scene(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    kafka_bootstrap: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """One system for all kills of the relay."""
    overrides = {"bus": "kafka", "kafka_bootstrap": kafka_bootstrap, **free_topics()}
    with (
        fresh_database(postgres_server, template_database) as url,
        running_scene(tmp_path_factory.mktemp("relay-kills"), url, **overrides) as running,
    ):
        yield running


def kill_under_load(
    scene: Scene, fault: Fault, load: SeededLoad, part: str, step: str, *, thread: str = ""
) -> None:
    """Kill a part at a step; posting goes on, and nothing is lost."""
    after = random.Random(fault.seed).randrange(AFTER_MAX)
    with load:
        load.wait_for_more(100)
        scene.kill_at(step, part, after=after, thread=thread)
        load.wait_for_more(100)
    assert_nothing_lost(scene.database_url, load)
    assert scene.words[-1].startswith(f"{part} ended by itself (SIGKILL)")
    fault.recovered("the supervisor started another one")


@pytest.mark.parametrize("step", ENGINE_STEPS)
def test_an_engine_killed_at_any_step_loses_nothing(scene: Scene, fault: Fault, step: str) -> None:
    fault.name = f"kill -9: engine, {ENGINE_STEPS[step]}"
    load = SeededLoad(scene, seed=fault.seed, prefix=step)
    kill_under_load(scene, fault, load, "api-1", step)


@pytest.mark.parametrize("step", CONSUMER_STEPS)
def test_a_consumer_killed_at_any_step_loses_nothing(scene: Scene, fault: Fault, step: str) -> None:
    fault.name = f"kill -9: consumer, {CONSUMER_STEPS[step]}"
    load = SeededLoad(scene, seed=fault.seed, prefix=step)
    kill_under_load(scene, fault, load, "consumer", step)


@pytest.mark.parametrize("step", ENGINE_STEPS)
def test_an_engine_killed_while_it_decides_ahead_loses_nothing(
    scene: Scene, fault: Fault, step: str
) -> None:
    fault.name = f"kill -9: engine that decides ahead, {ENGINE_STEPS[step]}"
    load = BatchLoad(scene, seed=fault.seed, prefix=f"ahead.{step}", callers=3, size=COPIED)
    kill_under_load(scene, fault, load, "api-1", step, thread="engine-writer")


@pytest.mark.kafka
@pytest.mark.parametrize("step", RELAY_STEPS)
def test_a_relay_killed_at_any_step_loses_nothing(
    kafka_scene: Scene, fault: Fault, step: str
) -> None:
    fault.name = f"kill -9: relay, {RELAY_STEPS[step]}"
    load = SeededLoad(kafka_scene, seed=fault.seed, prefix=step)
    kill_under_load(kafka_scene, fault, load, "relay", step)
