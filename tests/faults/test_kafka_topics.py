"""A topic is deleted, or has forgotten what the consumers had not read: the store has it."""

from __future__ import annotations

import random

import pytest
from kafka import TopicPartition

from tests.faults.kafka_scene import PARTITIONS, KafkaScene, Operator
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.verdicts import Fault
from tests.waiting import wait_until

COUNT_OUTBOX = "SELECT count(*) FROM ledger.results_outbox"
pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def test_the_operations_topic_is_deleted_under_load_and_made_again(
    on_kafka: KafkaScene, fault: Fault
) -> None:
    fault.name = "Kafka: topic deleted under load"
    with on_kafka.load(fault.seed, "deleted") as load:
        load.wait_for_more(60)
        with on_kafka.admin() as admin:
            admin.delete_topics([on_kafka.topic])
        load.wait_for_more(60)
        on_kafka.wait_for_books(on_kafka.head())
        load.wait_for_more(20)
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the relay made it again; what it had lost came from the store")


def test_the_operations_topic_is_deleted_with_what_nobody_had_read_and_silence_follows(
    on_kafka: KafkaScene, fault: Fault
) -> None:
    fault.name = "Kafka: topic deleted unread, then silence"
    with on_kafka.load(fault.seed, "unread") as load:
        load.wait_for_more(30)
        consumer = on_kafka.freeze("consumer")
        load.wait_for_more(60)
    wait_until(lambda: relayed(on_kafka) == on_kafka.head(), "the relay has sent everything")
    with on_kafka.admin() as admin:
        admin.delete_topics([on_kafka.topic])
    on_kafka.thaw(consumer)
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the watermark said again told the lanes what they lacked")


def test_retention_has_passed_the_consumers_position(on_kafka: KafkaScene, fault: Fault) -> None:
    fault.name = "Kafka: retention passed the consumer"
    rng = random.Random(fault.seed)
    with on_kafka.load(fault.seed, "retention") as load:
        load.wait_for_more(30)
        consumer = on_kafka.freeze("consumer")
        load.wait_for_more(60)
        with on_kafka.admin() as admin:
            places = [TopicPartition(on_kafka.topic, number) for number in range(PARTITIONS)]
            admin.delete_records(dict.fromkeys(places, -1))  # everything that is there
        if rng.random() < 0.5:
            load.wait_for_more(30)
        on_kafka.thaw(consumer)
        load.wait_for_more(10)
    assert_nothing_lost(on_kafka.system.database_url, load)
    assert "gap_filled" in on_kafka.system.log
    fault.recovered("the gap was filled from the store")


def test_the_results_topic_is_deleted_with_what_the_ledger_had_not_read(
    on_kafka: KafkaScene, fault: Fault, operator: Operator
) -> None:
    fault.name = "Kafka: results topic deleted unread"
    with on_kafka.load(fault.seed, "lost-results") as load:
        load.wait_for_more(30)
        results = on_kafka.freeze("results")
        load.wait_for_more(60)
        on_kafka.wait_for_books(on_kafka.head())
        with on_kafka.admin() as admin:
            admin.delete_topics([on_kafka.results_topic])
        on_kafka.thaw(results)
        load.wait_for_more(60)
    on_kafka.wait_for_books(on_kafka.head())
    wait_until(lambda: on_kafka.rows(COUNT_OUTBOX) == [(0,)], "every result is sent")
    operator("sweep --heal")  # what the schedule does, now
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the relay made it again; the sweep sent the lost results again")


def relayed(scene: KafkaScene) -> int:
    """How far the relay has come."""
    query = "SELECT position FROM ledger.relays WHERE topic = %s"
    ((position,),) = scene.rows(query, scene.topic)
    return int(position)
