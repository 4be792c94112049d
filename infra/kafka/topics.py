"""The two topics, made once and checked at every start.

Invariant: the partition count of a topic never changes within its life, as the partition decides
which consumer sees an account; and a message Daybook may send always fits the topic's limit.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

OPERATIONS_TOPIC = "ledger.operations"
RESULTS_TOPIC = "accounting.results"
TOPIC_BYTES_MAX = 1024 * 1024
MESSAGE_BYTES_MAX = 512 * 1024
RECORD_OVERHEAD_BYTES = 4096  # batch header, key and headers around a message


class TopicRefused(Exception):
    """A topic exists with other partitions or too small a limit; nothing was changed."""


def ensure_topics(
    bootstrap: str,
    partitions: int,
    *,
    topics: tuple[str, ...] = (OPERATIONS_TOPIC, RESULTS_TOPIC),
    message_bytes_max: int = MESSAGE_BYTES_MAX,
    replication: int = 1,
) -> None:
    """Create the topics that are missing and prove that each fits; safe to run side by side."""
    limit = max(TOPIC_BYTES_MAX, message_bytes_max + RECORD_OVERHEAD_BYTES)
    shape = {
        "num_partitions": partitions,
        "replication_factor": replication,
        "configs": {
            "max.message.bytes": str(limit),
            # An acknowledged message is on more than one node wherever there are more than two.
            "min.insync.replicas": str(max(1, replication - 1)),
        },
    }
    with _admin(bootstrap) as admin:
        missing = sorted(set(topics) - set(admin.list_topics()))
        for topic in missing:
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics({topic: shape})
        admin.wait_for_topics(list(topics), timeout_ms=30_000)
        for topic in topics:
            _refuse_other_shape(admin, topic, partitions, message_bytes_max)


def delete_topics(bootstrap: str, topics: tuple[str, ...]) -> None:
    """Delete those of the topics that exist, with all that is in them."""
    with _admin(bootstrap) as admin:
        found = sorted(set(topics) & set(admin.list_topics()))
        if found:
            admin.delete_topics(found)


def wait_until_ready(bootstrap: str, *, patience_s: float) -> bool:
    """Whether a broker answered an administrator's question within the patience."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            _knock(bootstrap)
            with _admin(bootstrap, patience_s=2) as admin:
                admin.list_topics()
        except (KafkaError, OSError):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        else:
            return True


def _knock(bootstrap: str) -> None:
    """Connect and hang up: while nobody listens, the client library would leak a socket a try."""
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    socket.create_connection((host, int(port)), timeout=2).close()


def _refuse_other_shape(admin: Any, topic: str, partitions: int, message_bytes_max: int) -> None:
    (description,) = admin.describe_topics([topic])
    found = len(description["partitions"])
    if found != partitions:
        msg = (
            f"topic {topic} has {found} partitions, the setting says {partitions}; "
            "the count is fixed for the life of a topic"
        )
        raise TopicRefused(msg)
    asked = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None})
    configs = admin.describe_configs([asked], config_filter="all")["topic"][topic]
    limit = int(configs["max.message.bytes"]["value"])
    if limit < message_bytes_max + RECORD_OVERHEAD_BYTES:
        msg = f"topic {topic} takes {limit} bytes, messages may have {message_bytes_max}"
        raise TopicRefused(msg)


@contextlib.contextmanager
def _admin(bootstrap: str, *, patience_s: float = 30) -> Iterator[Any]:
    admin = KafkaAdminClient(
        bootstrap_servers=bootstrap.split(","),
        client_id="daybook-admin",
        bootstrap_timeout_ms=int(patience_s * 1000),
    )
    try:
        yield admin
    finally:
        admin.close()
