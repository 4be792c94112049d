"""Messages come twice, in another order, cut, from a stranger, too large: no effect doubles or is
lost, and a lane that stands names the command with which it goes on."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import msgspec
import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from consumers.messages import Message, encode_message
from tests.faults.kafka_scene import PARTITIONS, KafkaScene, Operator
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.verdicts import Fault
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
Make = Callable[[random.Random, dict[int, list[bytes]]], list[bytes | None]]
COMMAND = re.compile(r"daybook (set-aside --topic \S+ --partition \d+ --offset \d+ --reason WHY)")
COUNT_SET_ASIDES = "SELECT count(*) FROM set_asides"
OVERSIZED = 1024 * 1024 - 512  # as much as the topic takes, and twice what a message may have


@pytest.fixture
def obey(operator: Operator) -> Operator:
    """An operator who runs the command that an alarm names."""

    def run(alarm: str) -> None:
        found = COMMAND.search(alarm)
        assert found is not None, alarm
        operator(found[1])

    return run


def test_messages_come_twice_under_load(on_kafka: KafkaScene, fault: Fault) -> None:
    fault.name = "Kafka: messages duplicated"
    rng = random.Random(fault.seed)
    with on_kafka.load(fault.seed, "twice") as load:
        load.wait_for_more(60)
        on_kafka.wait_for_books(on_kafka.head())
        for partition, values in on_kafka.messages().items():
            for value in rng.choices(values, k=20):
                on_kafka.send(value, partition)
        load.wait_for_more(20)
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the lanes knew the stretches they had passed")


def truncated(rng: random.Random, known: dict[int, list[bytes]]) -> list[bytes | None]:
    """A message of ours that lost its end."""
    value = rng.choice(known[0])
    return [value[: rng.randrange(1, len(value))]]


def foreign(rng: random.Random, known: dict[int, list[bytes]]) -> list[bytes | None]:
    """Noise, nothing, a message of another log, of a later schema, of another partition."""
    own = msgspec.json.decode(rng.choice(known[0]), type=Message)
    replace = msgspec.structs.replace
    return [
        rng.randbytes(300),
        None,
        encode_message(replace(own, log_id="another")),
        encode_message(replace(own, schema=99)),
        encode_message(replace(own, partition=PARTITIONS)),
    ]


def oversized(rng: random.Random, known: dict[int, list[bytes]]) -> list[bytes | None]:
    """As large as the topic takes, and of no sense."""
    return [rng.randbytes(OVERSIZED)]


@pytest.mark.parametrize("make", [truncated, foreign, oversized])
def test_a_message_that_nobody_can_read_stops_its_lane_until_the_named_command_is_run(
    on_kafka: KafkaScene, fault: Fault, obey: Operator, make: Make
) -> None:
    fault.name = f"Kafka: {make.__name__} message"
    rng = random.Random(fault.seed)
    ((before,),) = on_kafka.rows(COUNT_SET_ASIDES)
    stopped = rng.randrange(PARTITIONS)
    with on_kafka.load(fault.seed, make.__name__) as load:
        load.wait_for_more(30)
        on_kafka.wait_for_books(on_kafka.head())
        strange = make(rng, on_kafka.messages())
        for value in strange:
            alarm = on_kafka.alarm_at(stopped, on_kafka.send(value, stopped))
            on_kafka.wait_for_lane((stopped + 1) % PARTITIONS, on_kafka.head())  # others flow
            obey(alarm)
    assert_nothing_lost(on_kafka.system.database_url, load)
    assert on_kafka.rows(COUNT_SET_ASIDES) == [(before + len(strange),)]
    fault.recovered("the lane stood and named the command; what it missed came from the store")


def test_a_stranger_in_the_results_topic_stops_its_partition_until_the_named_command_is_run(
    on_kafka: KafkaScene, fault: Fault, obey: Operator
) -> None:
    fault.name = "Kafka: foreign message among the results"
    partition = fault.seed % PARTITIONS
    with on_kafka.load(fault.seed, "stranger") as load:
        load.wait_for_more(30)
        offset = on_kafka.send(b"{}", partition, on_kafka.results_topic)
        place = f"{on_kafka.results_topic}/{partition}/{offset}: "
        wait_until(lambda: place in on_kafka.system.log, "the results say where they stand")
        obey(on_kafka.system.log.split(place)[-1])
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the other partitions went on; the log named the command")


def test_a_topic_that_takes_less_than_a_message_is_named_until_it_takes_it(
    on_kafka: KafkaScene, fault: Fault
) -> None:
    fault.name = "Kafka: our message oversized for the topic"
    before = on_kafka.system.log.count("relay_refused")
    with on_kafka.load(fault.seed, "limit") as load:
        load.wait_for_more(30)
        limit_messages(on_kafka, 100)
        wait_until(lambda: on_kafka.system.log.count("relay_refused") > before, "relay refuses")
        limit_messages(on_kafka, 1024 * 1024)
    assert f"topic {on_kafka.topic} takes 100 bytes, messages may have" in on_kafka.system.log
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the relay said what the topic takes, and went on when it was raised")


def limit_messages(scene: KafkaScene, bytes_max: int) -> None:
    """Set the topic's limit, as an administrator may."""
    configs = {"max.message.bytes": str(bytes_max)}
    with scene.admin() as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, scene.topic, configs)])
