"""Whole systems for the tests of this folder: `daybook serve` with real parts, then stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from infra.demo.payment_day import BUSINESS_DATE
from infra.demo.system import System, own_settings, own_topics, system
from infra.kafka import KafkaBroker
from infra.settings import Settings, load_settings, with_overrides

Running = Callable[..., AbstractContextManager[System]]


def system_settings(*, home: Path, **overrides: object) -> Settings:
    """Settings of a system in `home`, on its own port; overrides by name."""
    settings = own_settings(load_settings(), home=home)
    return with_overrides(settings, **{"log_level": "warning", **overrides})


@pytest.fixture
def running(tmp_path: Path, database_url: str) -> Running:
    """Start a system on this test's own database: `with running(bus=…) as system`."""

    @contextlib.contextmanager
    def start(**overrides: object) -> Iterator[System]:
        given = {"home": tmp_path / "home", "database_url": database_url, **overrides}
        settings = system_settings(**given)
        with own_topics(settings), system(settings, open_date=BUSINESS_DATE) as started:
            yield started

    return start


@pytest.fixture(params=["log", pytest.param("kafka", marks=pytest.mark.kafka)])
def on_each_bus(request: pytest.FixtureRequest, running: Running) -> Iterator[System]:
    """A system on the log bus, then one on a real Kafka broker."""
    overrides: dict[str, object] = {"bus": request.param}
    if request.param == "kafka":
        broker: KafkaBroker = request.getfixturevalue("kafka_broker")
        overrides["kafka_bootstrap"] = broker.bootstrap
    with running(**overrides) as started:
        yield started
