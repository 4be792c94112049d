"""Fixtures: one real Kafka broker for the whole run. A machine that cannot run one fails the tests
that need it: they never skip, as nothing else proves the Kafka bus."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.kafka import QUICK_JAVA, KafkaBroker, free_port
from infra.settings import load_settings

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """The run's own broker on a free port, with the jars that `make kafka` uses too."""
    settings = load_settings()
    folder = Path(tempfile.mkdtemp(prefix="daybook-kafka-"))
    broker = KafkaBroker(
        folder,
        free_port(),
        engines=("java", "docker"),  # Java first: that broker ends with the run
        jars=settings.kafka_dir.absolute() / "libs",
        image=settings.kafka_image,
        java_options=QUICK_JAVA,
    )
    try:
        yield broker.start()
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka_broker: KafkaBroker) -> str:
    """The address of the run's broker; tests use topics of their own names."""
    return kafka_broker.bootstrap


@pytest.fixture
def topic_name() -> str:
    """A topic name that no other test uses."""
    return f"test.topic.{next(_numbers)}"
