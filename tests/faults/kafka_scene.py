"""The scene of the Kafka faults: a whole Daybook on a cluster of three nodes of its own.

What a test does to the topics it does through an administrator's or a stranger's client. Invariant:
nothing here knows what a message means; bytes are kept, cut, repeated and sent.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from infra.cli import app, main
from infra.http_load import Request
from infra.kafka import KafkaCluster
from infra.postgres import EmbeddedPostgres
from infra.settings import load_settings
from projections.positions import Lane, select_head, select_lanes, select_visible
from projections.tables import connect_to
from tests.faults.load import SeededLoad
from tests.faults.scene import Scene, environment_of_parts, free_topics, running_scene
from tests.fix_postgres import fresh_database
from tests.waiting import wait_until

Operator = Callable[[str], None]
PARTITIONS = 3
SILENCE_S = 6  # the shortest that a broker allows


class PacedLoad(SeededLoad):
    """At most a hundred operations a second: a rebalance takes its time, and the audit after it
    looks at all that was posted meanwhile."""

    def _requests(self) -> Iterator[Request]:
        for request in super()._requests():
            time.sleep(0.01)
            yield request


@dataclass
class KafkaScene:
    """A running system and its cluster."""

    system: Scene
    cluster: KafkaCluster

    @property
    def topic(self) -> str:
        """The topic of operations."""
        return self.system.settings.operations_topic

    @property
    def results_topic(self) -> str:
        """The topic of results."""
        return self.system.settings.results_topic

    @property
    def group(self) -> str:
        """The group of the consumers."""
        return self.system.settings.consumer_group

    def load(self, seed: int, prefix: str) -> PacedLoad:
        """Post seeded operations while the block runs."""
        return PacedLoad(self.system, seed=seed, prefix=prefix)

    @contextlib.contextmanager
    def admin(self) -> Iterator[Any]:
        """Be the cluster's administrator."""
        client = KafkaAdminClient(bootstrap_servers=self.cluster.bootstrap.split(","))
        try:
            yield client
        finally:
            client.close()

    def send(self, value: bytes | None, partition: int, topic: str | None = None) -> int:
        """Send bytes as a stranger; return the offset."""
        producer = KafkaProducer(
            bootstrap_servers=self.cluster.bootstrap.split(","),
            acks="all",
            max_request_size=4 * 1024 * 1024,
        )
        try:
            sent = producer.send(
                topic or self.topic, key=b"stranger", value=value, partition=partition
            )
            offset: int = sent.get(timeout=30).offset
            return offset
        finally:
            producer.close()

    def messages(self, topic: str | None = None) -> dict[int, list[bytes]]:
        """Everything that is in a topic now, by partition."""
        return read_topic(self.cluster.bootstrap, topic or self.topic)

    def lanes(self) -> list[Lane]:
        """Where the lanes are."""
        with connect_to(self.system.database_url) as conn:
            return select_lanes(conn)

    def head(self) -> int:
        """Where the log is."""
        with connect_to(self.system.database_url) as conn:
            return select_head(conn)

    def wait_for_books(self, position: int) -> None:
        """Wait until everything up to a position is in the books."""
        with connect_to(self.system.database_url) as conn:
            wait_until(lambda: select_visible(conn) >= position, "the books come so far")

    def wait_for_lane(self, lane: int, position: int) -> None:
        """Wait until one lane has come so far."""
        wait_until(
            lambda: any(each.lane == lane and each.position >= position for each in self.lanes()),
            f"lane {lane} comes so far",
        )

    def alarm_at(self, lane: int, offset: int) -> str:
        """Wait until a lane stands before a message, and return why."""
        place = f"{self.topic}/{lane}/{offset}: "

        def alarms() -> list[str]:
            found = (each.stopped or "" for each in self.lanes() if each.lane == lane)
            return [alarm for alarm in found if alarm.startswith(place)]

        wait_until(alarms, f"lane {lane} stands before offset {offset}")
        return alarms()[0]

    def members(self) -> list[str]:
        """The members of the consumers' group that have partitions; empty while it rebalances."""
        with self.admin() as admin:
            found = admin.describe_groups([self.group])[self.group]
        if found["group_state"] != "Stable":
            return []
        return [each["member_id"] for each in found["members"]]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read from the database."""
        with connect_to(self.system.database_url) as conn:
            return conn.execute(query.encode(), values).fetchall()

    def freeze(self, part: str) -> int:
        """Stop a part in its tracks; return its process id, for `thaw`."""
        pid = self.system.children[part]
        os.kill(pid, signal.SIGSTOP)
        return pid

    def thaw(self, pid: int) -> None:
        """Let a frozen part go on as if nothing had happened."""
        os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def another(self, command: str) -> Iterator[int]:
        """Run one more process of a kind beside the supervisor's; gives its process id."""
        home = self.system.settings.home / f"another-{command}"
        home.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.part", command, "--parent-pid", str(os.getpid())],
            env=environment_of_parts(self.system.settings, home),
            stdin=subprocess.DEVNULL,
        )
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)


def read_topic(bootstrap: str, topic: str) -> dict[int, list[bytes]]:
    """Read every partition of a topic from its beginning to its present end."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","))
    try:
        return _read_all(consumer, topic)
    finally:
        consumer.close()


def _read_all(consumer: KafkaConsumer, topic: str) -> dict[int, list[bytes]]:
    places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    consumer.assign(places)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(places)
    found: dict[int, list[bytes]] = {place.partition: [] for place in places}
    while any(consumer.position(place) < ends[place] for place in places):
        for place, records in consumer.poll(timeout_ms=500).items():
            found[place.partition] += [
                record.value for record in records if record.offset < ends[place]
            ]
    return found


@pytest.fixture(scope="package")
def on_kafka(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[KafkaScene]:
    """One system and one cluster for all Kafka faults: each starts from what was left to it."""
    jars = load_settings().kafka_dir.absolute() / "libs"
    folder: Path = tmp_path_factory.mktemp("kafka")
    with (
        KafkaCluster(folder, jars=jars) as cluster,
        fresh_database(postgres_server, template_database) as url,
        running_scene(
            folder / "home",
            url,
            bus="kafka",
            kafka_bootstrap=cluster.bootstrap,
            kafka_partitions=PARTITIONS,
            kafka_replication=3,
            silence_s=SILENCE_S,
            **free_topics(),
        ) as system,
    ):
        yield KafkaScene(system, cluster)
    assert not [words for words in system.words if "did not end in time" in words], system.log


@pytest.fixture
def operator(on_kafka: KafkaScene, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Somebody who runs commands on the system's machine; each must succeed."""
    settings = on_kafka.system.settings
    for name, value in environment_of_parts(settings, settings.home).items():
        monkeypatch.setenv(name, value)

    def run(command: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(lambda: app(shlex.split(command)))
        assert not ended.value.code, command

    return run
