"""A member of a Kafka group, against the real broker."""

from __future__ import annotations

import pytest
from kafka.errors import KafkaError

from consumers.group import Membership, group_consumer
from infra.kafka import ensure_topics
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka


def test_a_consumer_that_has_lost_its_wish_to_rejoin_is_found_out(
    kafka_bootstrap: str, topic_name: str
) -> None:
    """The client library was seen to read on, for ever, in a group that had no member."""
    ensure_topics(kafka_bootstrap, 1, topics=(topic_name,))
    consumer = group_consumer(kafka_bootstrap, topic_name, topic_name, silence_s=6)
    try:
        membership = Membership(consumer, silence_s=0.2)
        wait_until(lambda: [consumer.poll(100), consumer.assignment()][1], "it has joined")
        membership.prove()

        consumer._coordinator.reset_generation()
        consumer._coordinator.rejoin_needed = False  # what the race leaves behind
        with pytest.raises(KafkaError, match=f"not a member of group {topic_name}"):
            wait_until(lambda: [consumer.poll(100), membership.prove()][1], "it is found out")
    finally:
        consumer.close(autocommit=False)
