"""Messages arrive in another order than they were sent, across partitions and within one, some
twice: the books are those of the right order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import msgspec
import pytest
from kafka import KafkaProducer

from infra.postgres import EmbeddedPostgres
from tests.consumers.caught_up import (
    active_relay,
    books,
    catch_up,
    consume_log,
    kafka_consumer,
)
from tests.consumers.test_buses import a_day
from tests.consumers.written_log import WrittenLog
from tests.faults.kafka_scene import read_topic
from tests.faults.verdicts import Fault
from tests.fix_postgres import fresh_database

pytestmark = pytest.mark.kafka
Placed = tuple[int, bytes]
Reorder = Callable[[random.Random, dict[int, list[bytes]]], list[Placed]]
ROWS_MAX = 12  # of a message: many small ones have many orders


@pytest.fixture
def straight_database_url(
    postgres_server: EmbeddedPostgres, template_database: str
) -> Iterator[str]:
    """The database of the same history in its right order."""
    with fresh_database(postgres_server, template_database) as url:
        yield url


def across(rng: random.Random, messages: dict[int, list[bytes]]) -> list[Placed]:
    """Any partition may be far ahead of any other; within one the order is kept."""
    turns = [partition for partition, values in messages.items() for _ in values]
    rng.shuffle(turns)
    last = turns[0]
    turns.sort(key=lambda partition: partition == last)  # one comes after all others
    left = {partition: iter(values) for partition, values in messages.items()}
    return [(partition, next(left[partition])) for partition in turns]


def within(rng: random.Random, messages: dict[int, list[bytes]]) -> list[Placed]:
    """Any message may come before any other, and one in three comes twice."""
    placed = [(partition, value) for partition, values in messages.items() for value in values]
    placed += rng.sample(placed, len(placed) // 3)
    rng.shuffle(placed)
    return placed


@pytest.mark.parametrize("reorder", [across, within])
def test_messages_in_another_order_give_the_same_books(
    database_url: str,
    straight_database_url: str,
    kafka_bootstrap: str,
    topic_name: str,
    fault: Fault,
    reorder: Reorder,
) -> None:
    fault.name = f"Kafka: messages reordered {reorder.__name__} partitions"
    rng = random.Random(fault.seed)
    a_day(WrittenLog(database_url))
    a_day(WrittenLog(straight_database_url))
    consume_log(straight_database_url)
    with active_relay(database_url, kafka_bootstrap, f"{topic_name}.straight") as relay:
        relay.settings = msgspec.structs.replace(relay.settings, rows_max=ROWS_MAX)
        while relay.step():
            pass
    placed = reorder(rng, read_topic(kafka_bootstrap, f"{topic_name}.straight"))
    assert len(placed) > 40

    with active_relay(database_url, kafka_bootstrap, topic_name):
        pass  # the topic is there, and empty
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap, acks="all")
    with kafka_consumer(database_url, kafka_bootstrap, topic_name) as consumer:
        for partition, value in placed:
            producer.send(topic_name, value=value, partition=partition).get(timeout=30)
            if rng.random() < 0.5:
                consumer.step(0.05)
        catch_up(consumer)
    producer.close()

    straight = books(straight_database_url)
    for table, rows in books(database_url).items():
        assert rows == straight[table], table
    fault.recovered("what depends waits; what a lane lacks comes from the store")
