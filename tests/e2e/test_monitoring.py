"""The shipped dashboard and alarms name only metrics that the running processes really expose."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import infra
from infra.demo.system import System
from tests.e2e.conftest import Running
from tests.e2e.load import client_of, open_customer, recharge
from tests.waiting import wait_until

SHIPPED = Path(infra.__file__).parent / "monitoring"
METRIC = re.compile(r"\b((?:daybook|process)_[a-z0-9_]+)")
PORTS = {"consumer": 0, "relay": 1, "results": 2, "sweep": 3, "api": 10}


def expressions() -> list[str]:
    """Every PromQL expression of the two files."""
    rules = yaml.safe_load((SHIPPED / "alarms.yaml").read_text())
    board = json.loads((SHIPPED / "grafana.json").read_text())
    alarms = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(alarms) > 10
    assert len(panels) > 10
    return alarms + panels


def exposed(text: str) -> set[str]:
    """The names of an exposition's samples and families."""
    families = list(text_string_to_metric_families(text))
    return {sample.name for family in families for sample in family.samples} | {
        family.name for family in families
    }


def free_ports() -> int:
    """A port from which on the ports of all parts are free just now."""
    while True:
        base = random.randrange(20_000, 30_000)  # where the system gives nobody a port by itself
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for offset in PORTS.values():
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", base + offset))
            return base


def scraped(system: System, base: int) -> dict[str, str]:
    """What each process answers on its own port, and the API on its route."""
    texts = {
        part: httpx.get(f"http://127.0.0.1:{base + offset}/metrics", timeout=30).text
        for part, offset in PORTS.items()
    }
    with client_of(system) as client:
        texts["route"] = client.get("/metrics")
    return texts


@pytest.mark.kafka
def test_every_metric_of_dashboard_and_alarms_is_exposed_by_the_running_processes(
    running: Running, kafka_bootstrap: str
) -> None:
    base = free_ports()
    ports: dict[str, Any] = {"metrics_port": base, "bus": "kafka"}
    with running(**ports, kafka_bootstrap=kafka_bootstrap) as system:
        open_customer(system)
        with client_of(system) as client:
            client.post("/v1/operations", recharge("r-1"))
            client.post("/v1/operations", {**recharge("r-2"), "business_type": "account_note"})
            client.get("/v1/trial-balance", operation_id="r-1", wait_s=30)
        wait_until(
            lambda: "daybook_relay_lag_positions 0.0" in scraped(system, base)["relay"],
            "the relay has caught up",
        )
        texts = scraped(system, base)

    found = {part: exposed(text) for part, text in texts.items()}
    everything = set().union(*found.values())
    named = {name for each in expressions() for name in METRIC.findall(each)}
    assert named - everything == set()
    for part, names in found.items():
        assert {"daybook_lag_operations", "daybook_log_lines_total"} <= names, part
    assert "daybook_consumer_operations_total 1.0" not in texts["relay"]
    assert re.search(r"^daybook_consumer_operations_total [1-9]", texts["consumer"], re.MULTILINE)


def test_every_alarm_that_the_operator_s_page_names_is_shipped() -> None:
    rules = yaml.safe_load((SHIPPED / "alarms.yaml").read_text())
    shipped = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    page = (SHIPPED.parent / "operations.md").read_text()
    named = set(re.findall(r"\bDaybook[A-Z][A-Za-z]+", page))
    assert named
    assert named <= shipped


def test_every_alarm_says_what_it_means_and_what_to_do() -> None:
    rules = yaml.safe_load((SHIPPED / "alarms.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


def test_only_processes_that_run_on_the_default_bus_are_scraped(running: Running) -> None:
    """A target that is never there would keep DaybookProcessGone firing."""
    jobs = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text())["scrape_configs"]
    groups = [group["targets"] for job in jobs for group in job["static_configs"]]
    offsets = [int(target.rpartition(":")[2]) - 9480 for group in groups for target in group]
    assert len(offsets) > 2
    base = free_ports()
    with running(metrics_port=base):
        for offset in offsets:  # the API is ready before the others have begun
            address = f"http://127.0.0.1:{base + offset}/metrics"
            wait_until(lambda: "daybook_lag_operations" in told_at(address), address)  # noqa: B023


def told_at(address: str) -> str:
    """What a process says of itself; nothing before it listens."""
    with contextlib.suppress(httpx.ConnectError):
        return httpx.get(address, timeout=30).text
    return ""
