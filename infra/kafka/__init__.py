"""Apache Kafka: a broker for this machine, and the topics that Daybook needs on any broker.

Invariant: the broker is a real one (KRaft), the same version wherever it runs; only
loopback reaches it.
"""

from __future__ import annotations

from infra.kafka.broker import QUICK_JAVA, BrokerUnavailable, KafkaBroker, free_port, prepare
from infra.kafka.cluster import KafkaCluster
from infra.kafka.topics import TopicRefused, delete_topics, ensure_topics, wait_until_ready

__all__ = [
    "QUICK_JAVA",
    "BrokerUnavailable",
    "KafkaBroker",
    "KafkaCluster",
    "TopicRefused",
    "delete_topics",
    "ensure_topics",
    "free_port",
    "prepare",
    "wait_until_ready",
]
