"""The broker and its topics, against the real one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.kafka import BrokerUnavailable, KafkaBroker, TopicRefused, ensure_topics, free_port
from infra.kafka.topics import MESSAGE_BYTES_MAX

pytestmark = pytest.mark.kafka


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="daybook-kafka-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_topics_are_made_once_and_kept(kafka_bootstrap: str, topic_name: str) -> None:
    ensure_topics(kafka_bootstrap, 3, topics=(topic_name,))
    ensure_topics(kafka_bootstrap, 3, topics=(topic_name,))


def test_other_partition_count_is_refused(kafka_bootstrap: str, topic_name: str) -> None:
    ensure_topics(kafka_bootstrap, 3, topics=(topic_name,))
    with pytest.raises(TopicRefused, match="has 3 partitions, the setting says 4"):
        ensure_topics(kafka_bootstrap, 4, topics=(topic_name,))


def test_limit_too_small_for_our_messages_is_refused(kafka_bootstrap: str, topic_name: str) -> None:
    ensure_topics(kafka_bootstrap, 1, topics=(topic_name,))
    with pytest.raises(TopicRefused, match="messages may have 2097152"):
        ensure_topics(kafka_bootstrap, 1, topics=(topic_name,), message_bytes_max=2 * 1024 * 1024)


def test_largest_message_travels(kafka_bootstrap: str, topic_name: str) -> None:
    ensure_topics(kafka_bootstrap, 1, topics=(topic_name,))
    body = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256)
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, acks="all", enable_idempotence=True)
    producer.send(topic_name, key=b"k" * 200, value=body).get(timeout=30)
    producer.close()
    consumer = KafkaConsumer(
        bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    consumer.assign([TopicPartition(topic_name, 0)])
    message = next(iter(consumer))
    consumer.close()
    assert message.value == body


def test_second_start_finds_the_running_broker(kafka_broker: KafkaBroker) -> None:
    twin = KafkaBroker(kafka_broker.folder, kafka_broker.port, jars=kafka_broker.jars)
    assert twin.start().bootstrap == kafka_broker.bootstrap


def test_second_port_for_one_folder_is_refused(kafka_broker: KafkaBroker) -> None:
    other = KafkaBroker(kafka_broker.folder, free_port(), jars=kafka_broker.jars)
    with pytest.raises(BrokerUnavailable, match="already runs on port"):
        other.start()


def test_taken_port_is_refused_in_plain_words(kafka_broker: KafkaBroker, folder: Path) -> None:
    other = KafkaBroker(folder, kafka_broker.port, jars=kafka_broker.jars)
    with pytest.raises(BrokerUnavailable, match="is taken by another program"):
        other.start()


def test_machine_without_any_engine_is_told_what_to_install(folder: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=r"needs a Docker engine .* or Java 17 and Maven"):
        KafkaBroker(folder, free_port(), engines=()).start()


def test_stop_without_a_broker_says_so(folder: Path) -> None:
    assert KafkaBroker(folder, free_port()).stop() is False


def test_removed_broker_leaves_no_data(kafka_broker: KafkaBroker, folder: Path) -> None:
    broker = KafkaBroker(folder, free_port(), engines=("java",), jars=kafka_broker.jars).start()
    ensure_topics(broker.bootstrap, 1)
    assert broker.remove() is True
    assert not (folder / "data").exists()
    assert broker.remove() is False


def test_killed_broker_starts_again_with_its_data(kafka_broker: KafkaBroker, folder: Path) -> None:
    broker = KafkaBroker(folder, free_port(), engines=("java",), jars=kafka_broker.jars).start()
    ensure_topics(broker.bootstrap, 3)
    broker.kill()
    with broker.start(), pytest.raises(TopicRefused, match="has 3 partitions"):
        ensure_topics(broker.bootstrap, 4)
