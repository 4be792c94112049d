"""Clocks that are wrong under load: no clock orders anything, chooses a day, or books far ahead."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from infra.demo.payment_day import BUSINESS_DATE
from tests.faults.load import SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.probe import open_probe, probe
from tests.faults.scene import Scene, running_scene
from tests.faults.verdicts import Fault
from tests.waiting import wait_until

DAY_S = 86_400
SELECT_UNORDERED = """
    SELECT count(*) FROM (
        SELECT booked_at < lag(booked_at) OVER (ORDER BY first_id) AS goes_back FROM ledger.seals
    ) AS seals WHERE goes_back
"""
SELECT_DATES = """
    SELECT DISTINCT convert_from(state, 'UTF8')::json ->> 'business_date'
    FROM ledger.stored_events WHERE topic = 'ledger.recorded:OperationBooked'
"""


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[Scene]:
    """A system with two API processes, as on two hosts."""
    with running_scene(tmp_path, database_url, processes=2) as running:
        yield running


def assert_clocks_decided_nothing(database_url: str) -> None:
    """Instants never go back along the log, and every operation is of the open day."""
    with psycopg.connect(database_url) as conn:
        assert conn.execute(SELECT_UNORDERED).fetchone() == (0,)
        assert conn.execute(SELECT_DATES).fetchall() == [(BUSINESS_DATE.isoformat(),)]


def test_a_clock_that_jumps_back(scene: Scene, fault: Fault) -> None:
    fault.name = "clock: jumps back by a day, and again"
    with SeededLoad(scene, seed=fault.seed) as load:
        for days in (0, 1, 2):
            scene.set_clock(-days * DAY_S)
            load.wait_for_more(60)
    assert_nothing_lost(scene.database_url, load)
    assert_clocks_decided_nothing(scene.database_url)
    fault.recovered("booked at the last booked instant until the clock caught up")


def test_two_hosts_whose_clocks_are_minutes_apart(scene: Scene, fault: Fault) -> None:
    fault.name = "clock: two hosts apart by four minutes"
    with SeededLoad(scene, seed=fault.seed) as load:
        load.wait_for_more(30)
        scene.set_clock(120, "api-1")
        scene.set_clock(-120, "api-2")
        load.wait_for_more(200)
    assert_nothing_lost(scene.database_url, load)
    assert_clocks_decided_nothing(scene.database_url)
    fault.recovered("both booked at the later instant: the log's, under its lock")


def test_a_clock_that_jumps_over_midnight(scene: Scene, fault: Fault) -> None:
    fault.name = "clock: jumps forward over midnight"
    open_probe(scene)
    stopped = dict(scene.children)
    with SeededLoad(scene, seed=fault.seed) as load:
        load.wait_for_more(60)
        scene.set_clock(DAY_S)
        # An engine reads its clock when it books: each must be given something.
        wait_until(
            lambda: [probe(scene), not is_ready(scene)][1], "no engine books with such a clock"
        )
        refused = probe(scene)
        assert refused.status_code == 503
        assert "jumped forward by 86400 s" in refused.json()["detail"]
        assert "set it right and restart this process" in refused.json()["detail"]
        wait_until(lambda: "engine stopped" in scene.log, "the alarm")
        scene.set_clock(0)  # what the alarm asks for
        for part in ("api-1", "api-2"):
            os.kill(stopped[part], signal.SIGTERM)
            scene.wait_for_successor(part, stopped[part])
        load.wait_for_more(60)
    assert_nothing_lost(scene.database_url, load)
    assert_clocks_decided_nothing(scene.database_url)
    fault.recovered("the engine stopped; the alarm says: set the clock right and restart")


def is_ready(scene: Scene) -> bool:
    """Ask the processes often enough that each has answered."""
    asked = [httpx.get(f"{scene.url}/health/ready").status_code for _ in range(4)]
    return 200 in asked
