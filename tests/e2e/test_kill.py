"""kill -9 of any part under load: every acknowledged operation is there exactly once."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from infra import audit
from infra.demo.system import System
from tests.e2e.conftest import Running
from tests.e2e.load import Load, client_of, open_customer, times_booked
from tests.waiting import wait_until

KILLS_EACH = 2


def kill_under_load(system: System, load: Load, part: str) -> None:
    """Kill a part, wait for its successor, and for work that was done after that."""
    victim = system.children[part]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: system.children.get(part, victim) != victim, f"another {part} is started")
    done = len(load.acknowledged)
    wait_until(lambda: load.error or len(load.acknowledged) > done + 50, "posting goes on")


def assert_all_there_once(system: System, load: Load) -> None:
    """What was acknowledged is booked once, in the books, and the audit passes."""
    assert load.error is None
    assert load.other == []
    url = system.settings.database_url
    assert url is not None
    booked = times_booked(url)
    assert set(load.acknowledged) <= set(booked)
    assert set(booked.values()) == {1}
    with client_of(system) as client:
        head = client.get("/v1/status")["log"]["position"]
        identity = client.get("/v1/identity", min_position=head, wait_s=30)["data"]
    assert identity["holds"]
    [line] = [line for line in identity["currencies"] if line["currency"] == "CNY"]
    assert line["vouchered"]["count"] == len(booked)
    with psycopg.connect(url, autocommit=True) as conn:
        verdict = audit.verify(conn)
    assert verdict.passed, str(verdict.difference)


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
        wait_for_statuses(system)
        assert_all_there_once(system, load)
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
        wait_for_statuses(system)
        assert_all_there_once(system, load)


def test_two_api_processes_share_the_load_and_one_may_die(running: Running) -> None:
    with running(processes=2) as system:
        assert {"api-1", "api-2"} <= set(system.children)
        open_customer(system)
        with Load(system) as load:
            wait_until(lambda: len(load.acknowledged) > 100, "posting has begun")
            kill_under_load(system, load, "api-1")
            kill_under_load(system, load, "api-2")
        wait_for_statuses(system)
        assert_all_there_once(system, load)


def wait_for_statuses(system: System) -> None:
    """The audit compares statuses too, and they come back last."""
    with client_of(system) as client, psycopg.connect(system.settings.database_url or "") as conn:
        conn.autocommit = True
        head = client.get("/v1/status")["log"]["position"]
        client.get("/v1/identity", min_position=head, wait_s=30)
        wait_until(
            lambda: (
                conn.execute(
                    "SELECT (SELECT count(*) FROM projections.outcomes)"
                    " = (SELECT count(*) FROM ledger.accounting_statuses)"
                ).fetchone()
                == (True,)
            ),
            "every status has come back",
        )
