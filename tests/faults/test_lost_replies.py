"""The reply to COMMIT is lost under load: the work is done, and whoever did it is never told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import BatchLoad, SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.scene import Scene, running_scene
from tests.faults.verdicts import Fault
from tests.ledger.cut_wire import CutWire, cut_wire
from tests.waiting import wait_until

CUTS = 5
ENGINE, CONSUMER = "daybook-engine", "daybook-accounting"


@pytest.fixture
def on_wire(database_url: str, tmp_path: Path) -> Iterator[tuple[Scene, CutWire]]:
    """A system whose parts reach the database over a wire that can be cut."""
    with (
        cut_wire(database_url) as (wire, url),
        running_scene(tmp_path, database_url, through=url) as scene,
    ):
        yield scene, wire


def cut_replies(wire: CutWire, load: SeededLoad, *, of: str) -> None:
    """Lose replies to COMMIT one after the other, while posting goes on."""
    for _ in range(CUTS):
        before = wire.cuts
        wire.cut_next_commit(of=of, under_lock=of == ENGINE)
        wait_until(lambda: wire.cuts > before, f"a COMMIT of {of}")  # noqa: B023
        load.wait_for_more(20)


@pytest.mark.parametrize(
    ("load_of", "whose"), [(SeededLoad, ""), (BatchLoad, " that decides ahead")]
)
def test_an_engine_that_never_hears_of_its_commit_answers_with_what_it_committed(
    on_wire: tuple[Scene, CutWire], fault: Fault, load_of: type[SeededLoad], whose: str
) -> None:
    fault.name = f"reply to COMMIT lost: engine{whose}"
    scene, wire = on_wire
    with load_of(scene, seed=fault.seed, callers=4) as load:
        load.wait_for_more(50)
        cut_replies(wire, load, of=ENGINE)
    assert_nothing_lost(scene.database_url, load)
    assert wire.cuts == CUTS
    fault.recovered("it looked under the lock and gave the first answer")


def test_a_consumer_that_never_hears_of_its_commit_finds_its_position_moved(
    on_wire: tuple[Scene, CutWire], fault: Fault
) -> None:
    fault.name = "reply to COMMIT lost: consumer"
    scene, wire = on_wire
    with SeededLoad(scene, seed=fault.seed) as load:
        load.wait_for_more(50)
        cut_replies(wire, load, of=CONSUMER)
    assert_nothing_lost(scene.database_url, load)
    assert wire.cuts == CUTS
    assert "consumer_failed" in scene.log
    fault.recovered("it opened again and read where the lane stands")
