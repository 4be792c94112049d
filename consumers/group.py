"""Members of a Kafka group: what the operations' and the results' consumers have in common.

Invariant: a consumer that is no member of its group does not go on reading; a partition that
stands before a message stands alone.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import MemberState

HOLD_S = 1.0
SILENCE_S = 15.0
JOIN_SILENCES = 5  # how long a join may take: others are given up after one silence
QUIET_SILENCES = 5  # after so many the broker is asked whether there really is nothing
LOOK_TIMEOUT_MS = 5_000
TOPIC_PATIENCE_S, TOPIC_LOOK_S = 5.0, 0.25
METADATA_AGE_MS = 5_000  # how late a topic that was made anew is noticed
RECONNECT_MS_MAX = 1_000  # a broker that is back is found again so soon


def group_consumer(
    bootstrap: str, topic: str, group: str, silence_s: float, **more: Any
) -> KafkaConsumer:
    """Make a member of a group that reads a topic, from its beginning at first.

    A topic that is not there yet is waited for a little, as everything starts at once and the relay
    makes it. Raises KafkaError when it does not come: a member that asked for it too early was seen
    to poll for ever without joining its group.
    """
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap.split(","),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        fetch_max_wait_ms=50,
        metadata_max_age_ms=METADATA_AGE_MS,
        reconnect_backoff_max_ms=RECONNECT_MS_MAX,
        session_timeout_ms=int(silence_s * 1000),
        heartbeat_interval_ms=int(silence_s * 1000 / 6),
        **more,
    )
    last_look = time.monotonic() + TOPIC_PATIENCE_S
    while not (found := consumer.partitions_for_topic(topic)) and time.monotonic() < last_look:
        time.sleep(TOPIC_LOOK_S)
    if not found:
        consumer.close(autocommit=False)
        raise KafkaError(f"topic {topic} is not there yet")
    consumer.subscribe([topic])
    return consumer


class Membership:
    """Finds out when a consumer has fallen out of its group and does not join again by itself.

    The client library can lose its wish to rejoin (a join that ends while a heartbeat is told
    that the member is unknown), was seen to think itself a member of a group that the broker
    says is empty, without beating, and to join for ever a group that the broker does not know
    (its topic was deleted while it joined): it would read on with partitions of another, or
    with none.
    """

    def __init__(self, consumer: KafkaConsumer, silence_s: float) -> None:
        self._consumer = consumer
        self._silence_s = silence_s
        self._seen_at = self._beat_at = time.monotonic()

    def prove(self) -> None:
        """Raise KafkaError when the consumer neither is nor becomes a member."""
        found = self._consumer.group_metadata()
        heartbeat = self._consumer._coordinator.heartbeat  # noqa: SLF001 - its metric mixes clocks
        now = time.monotonic()
        beats = found.generation_id >= 0 and not heartbeat.session_timeout_expired()
        if beats or found.state == MemberState.REBALANCING:
            self._seen_at = now
        if beats:
            self._beat_at = now
        if now - self._seen_at > self._silence_s:
            raise KafkaError(f"not a member of group {found.group_id} any more")
        if now - self._beat_at > JOIN_SILENCES * self._silence_s:
            raise KafkaError(f"not a member of group {found.group_id}: its join does not end")


class Flow:
    """Finds out when a partition gives nothing although the broker has more of it.

    The client library was seen to read on in two partitions of three, as a good member of its
    group, and never again to ask for the third, which had been held and let go under heavy load.
    The relay sends to each now and then, so the broker is asked only about one quiet for long.
    """

    def __init__(self, consumer: KafkaConsumer, silence_s: float) -> None:
        self._consumer = consumer
        self._quiet_s_max = QUIET_SILENCES * silence_s
        self._given_at: dict[TopicPartition, float] = {}

    def note(self, places: Iterable[TopicPartition]) -> None:
        """Take note of partitions that gave something."""
        self._given_at.update(dict.fromkeys(places, time.monotonic()))

    def prove(self, held: Container[TopicPartition]) -> None:
        """Raise KafkaError when a partition that nobody holds has more than it gives."""
        now = time.monotonic()
        quiet = [
            place
            for place in self._consumer.assignment()
            if now - self._given_at.setdefault(place, now) > self._quiet_s_max
        ]
        if not quiet:
            return
        self.note(quiet)  # looked at; again after as long
        ends = self._consumer.end_offsets(quiet, timeout_ms=LOOK_TIMEOUT_MS)
        for place in quiet:
            at = self._consumer.committed(place, timeout_ms=LOOK_TIMEOUT_MS) or 0
            if place not in held and at < ends[place]:
                raise KafkaError(f"{place.topic}/{place.partition} gives nothing behind {at}")


class HeldPartitions:
    """Partitions that stand before a message, each until it is given again after a while."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer
        self._until: dict[TopicPartition, float] = {}

    def hold(self, place: TopicPartition, offset: int) -> None:
        """Pause a partition before the message at an offset; others flow on."""
        if seek(self._consumer, place, offset):
            self._consumer.pause(place)
            self._until[place] = time.monotonic() + HOLD_S

    def __contains__(self, place: object) -> bool:
        """Tell whether a partition is held now."""
        return place in self._until

    def release(self) -> None:
        """Let those go on that have stood long enough."""
        now = time.monotonic()
        for place in [place for place, until in self._until.items() if until <= now]:
            del self._until[place]
            if place in self._consumer.assignment():
                self._consumer.resume(place)


def seek(consumer: KafkaConsumer, place: TopicPartition, offset: int) -> bool:
    """Give the message at an offset next; False when the partition is another's by now."""
    if place not in consumer.assignment():
        return False
    consumer.seek(place, offset)
    return True
