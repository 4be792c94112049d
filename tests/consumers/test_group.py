"""A member of a Kafka group, against the real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import MemberState, OffsetAndMetadata

from consumers.group import Flow, Membership, group_consumer
from infra.kafka import ensure_topics
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka


def lose_the_wish_to_rejoin(coordinator: Any) -> None:
    """What a join leaves behind that ends while a heartbeat is told: unknown member."""
    coordinator.reset_generation()
    coordinator.rejoin_needed = False


def stop_beating(coordinator: Any) -> None:
    """What was seen: a stable member, by its own account, of a group that was empty."""
    coordinator._heartbeat_enabled = False


def join_for_ever(coordinator: Any) -> None:
    """What was seen after the topic was deleted in mid-join: a join whose answer never comes."""
    if coordinator.state is MemberState.REBALANCING:
        return

    async def hang() -> None:
        await coordinator._manager._net.sleep(3_600)

    coordinator.reset_generation()
    coordinator.rejoin_needed = coordinator.rejoining = True
    coordinator.state = MemberState.REBALANCING
    coordinator._join_task = coordinator._manager.call_soon(hang)


@pytest.mark.parametrize("fall_out", [lose_the_wish_to_rejoin, stop_beating, join_for_ever])
def test_a_consumer_that_fell_out_of_its_group_unawares_is_found_out(
    kafka_bootstrap: str, topic_name: str, fall_out: Callable[[Any], None]
) -> None:
    """The client library was seen to read on, for ever, in a group that had no member."""
    ensure_topics(kafka_bootstrap, 1, topics=(topic_name,))
    consumer = group_consumer(kafka_bootstrap, topic_name, topic_name, silence_s=6)
    try:
        membership = Membership(consumer, silence_s=0.2)
        wait_until(lambda: [consumer.poll(100), consumer.assignment()][1], "it has joined")
        membership.prove()

        with pytest.raises(KafkaError, match=f"not a member of group {topic_name}"):
            wait_until(
                lambda: [fall_out(consumer._coordinator), consumer.poll(100), membership.prove()][
                    2
                ],
                "it is found out",
            )
    finally:
        consumer.close(autocommit=False)


def test_a_partition_that_gives_nothing_of_what_the_broker_has_is_found_out(
    kafka_bootstrap: str, topic_name: str
) -> None:
    """The client library was seen never to ask again for one partition of three."""
    ensure_topics(kafka_bootstrap, 2, topics=(topic_name,))
    consumer = group_consumer(kafka_bootstrap, topic_name, topic_name, silence_s=6)
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    silent, other = (TopicPartition(topic_name, number) for number in (0, 1))

    def poll_and_prove() -> None:
        flow.note(consumer.poll(100))
        flow.prove(held)

    try:
        flow = Flow(consumer, silence_s=0.1)
        held: set[TopicPartition] = set()
        wait_until(lambda: [consumer.poll(100), consumer.assignment()][1], "it has joined")
        until = time.monotonic() + 2
        while time.monotonic() < until:
            poll_and_prove()  # quiet, but there is nothing
        consumer.pause(silent)
        producer.send(topic_name, b"for the other", partition=other.partition).get(30)
        producer.send(topic_name, b"for the silent one", partition=silent.partition).get(30)
        consumer.commit({other: OffsetAndMetadata(1, "", -1)})
        held.add(silent)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            poll_and_prove()  # quiet, but somebody holds it
        held.clear()

        with pytest.raises(KafkaError, match=f"{topic_name}/0 gives nothing behind 0"):
            wait_until(poll_and_prove, "it is found out")
    finally:
        producer.close()
        consumer.close(autocommit=False)


def test_a_topic_that_comes_a_little_later_is_waited_for(
    kafka_bootstrap: str, topic_name: str
) -> None:
    """The relay makes it, and all processes of a server start at once."""
    later = threading.Timer(1.0, ensure_topics, (kafka_bootstrap, 1), {"topics": (topic_name,)})
    later.start()
    consumer = group_consumer(kafka_bootstrap, topic_name, topic_name, silence_s=6)
    try:
        wait_until(lambda: [consumer.poll(100), consumer.assignment()][1], "it has joined")
    finally:
        consumer.close(autocommit=False)
        later.join()


def test_a_topic_that_does_not_come_is_said(
    kafka_bootstrap: str, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.group.TOPIC_PATIENCE_S", 0.5)
    with pytest.raises(KafkaError, match=f"topic {topic_name} is not there yet"):
        group_consumer(kafka_bootstrap, topic_name, topic_name, silence_s=6)
