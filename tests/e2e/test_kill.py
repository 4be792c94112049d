"""kill -9 of any part under load: every acknowledged operation is there exactly once."""

from __future__ import annotations

import os
import signal

import pytest

from infra.demo.system import System
from tests.e2e.conftest import Running
from tests.e2e.load import Load, open_customer
from tests.faults.nothing_lost import assert_nothing_lost
from tests.waiting import wait_until

KILLS_EACH = 2


def kill_under_load(system: System, load: Load, part: str) -> None:
    """Kill a part, wait for its successor, and for work that was done after that."""
    victim = system.children[part]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: system.children.get(part, victim) != victim, f"another {part} is started")
    done = len(load.acknowledged)
    wait_until(lambda: load.error or len(load.acknowledged) > done + 50, "posting goes on")


def database_of(system: System) -> str:
    assert system.settings.database_url is not None
    return system.settings.database_url


def test_kill_9_of_api_and_consumer_in_mid_load_loses_and_doubles_nothing(
    running: Running,
) -> None:
    with running() as system:
        open_customer(system)
        with Load(system) as load:
            wait_until(lambda: len(load.acknowledged) > 100, "posting has begun")
            for _ in range(KILLS_EACH):
                for part in ("api-1", "consumer"):
                    kill_under_load(system, load, part)
        assert_nothing_lost(database_of(system), load)
        assert system.log.count("SIGKILL") == 2 * KILLS_EACH  # nothing dies in silence


@pytest.mark.kafka
def test_kill_9_of_every_part_on_kafka_loses_and_doubles_nothing(
    running: Running, kafka_bootstrap: str
) -> None:
    with running(bus="kafka", kafka_bootstrap=kafka_bootstrap) as system:
        open_customer(system)
        with Load(system) as load:
            wait_until(lambda: len(load.acknowledged) > 100, "posting has begun")
            for part in ("relay", "consumer", "results", "api-1", "relay", "consumer"):
                kill_under_load(system, load, part)
        assert_nothing_lost(database_of(system), load)


def test_two_api_processes_share_the_load_and_one_may_die(running: Running) -> None:
    with running(processes=2) as system:
        assert {"api-1", "api-2"} <= set(system.children)
        open_customer(system)
        with Load(system) as load:
            wait_until(lambda: len(load.acknowledged) > 100, "posting has begun")
            kill_under_load(system, load, "api-1")
            kill_under_load(system, load, "api-2")
        assert_nothing_lost(database_of(system), load)
