"""The scheduled sweep of a running system finds what its consumer passed over, and heals it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from infra import audit
from infra.demo.system import System
from infra.serve import children_of
from infra.settings import load_settings, with_overrides
from tests.e2e.conftest import Running
from tests.e2e.load import client_of, open_customer, recharge
from tests.waiting import wait_until

LOCK_LANES = "SELECT position FROM projections.positions FOR UPDATE"
PASS_OVER = """
    UPDATE projections.positions
    SET position = (SELECT max(notification_id) FROM ledger.stored_events)
"""


@contextmanager
def passed_over(system: System) -> Iterator[None]:
    """Let the consumer believe that what is booked in the block has been handled."""
    url = system.settings.database_url
    assert url is not None
    with psycopg.connect(url) as conn:
        conn.execute(LOCK_LANES)
        yield
        conn.execute(PASS_OVER)


def sweeps_of(system: System) -> list[dict[str, Any]]:
    with client_of(system) as client:
        items: list[dict[str, Any]] = client.get("/v1/sweeps")["data"]["items"]
        return items


def healed_of(system: System) -> list[str]:
    """The operations that sweeps have healed, by the record."""
    return [
        each["operation_id"]
        for sweep in sweeps_of(system)
        for each in sweep["differences"]
        if each.get("healed")
    ]


def test_what_the_consumer_passed_over_is_healed_by_schedule_also_after_a_kill(
    running: Running,
) -> None:
    with running(sweep_interval_s=1) as system:
        open_customer(system)
        with client_of(system) as client:
            with passed_over(system):
                client.post("/v1/operations", recharge("lost"))
            client.post("/v1/operations", recharge("after"))
            wait_until(lambda: healed_of(system) == ["lost"], "the sweep heals it")
            victim = system.children["sweep"]
            os.kill(victim, signal.SIGKILL)
            with passed_over(system):
                client.post("/v1/operations", recharge("lost too"))
            wait_until(lambda: "lost too" in healed_of(system), "another sweep heals that")

            assert system.children["sweep"] != victim
            assert client.get("/v1/identity")["data"]["holds"]
            for name in ("lost", "lost too"):
                told = client.get(f"/v1/operations/{name}")["accounting_status"]
                assert told == "vouchered"
        assert system.log.count("missing_healed") == 2
        url = system.settings.database_url
        assert url is not None
        with psycopg.connect(url, autocommit=True) as conn:
            verdict = audit.verify(conn)
        assert verdict.passed, str(verdict.difference)


def test_no_sweep_runs_where_it_is_switched_off() -> None:
    switched = with_overrides(load_settings(), sweep_interval_s=0)
    assert "sweep" in {spec.name for spec in children_of(load_settings(), 0)}
    assert "sweep" not in {spec.name for spec in children_of(switched, 0)}
