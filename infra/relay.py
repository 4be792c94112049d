"""The relay: publishes the log to Kafka, whole operations in log order, packed per partition.

One is active: it holds an advisory lock, and its epoch is on the position row, so that one
that was thought dead cannot save a position. Invariant: the position is saved only after
every message of its stretch was acknowledged; each message says which stretch of its
partition it covers, so that a repetition is recognised and a loss is seen, at the latest by
the watermark that is sent again while the log is quiet.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psycopg
import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError
from psycopg import Connection

from consumers.group import RECONNECT_MS_MAX
from consumers.log_rows import Stretch, select_stretch
from consumers.messages import (
    MESSAGE_BYTES_MAX,
    LogRow,
    decode_key,
    is_decision,
    lane_of,
    pack,
)
from infra.kafka.topics import TopicRefused, ensure_topics
from ledger.deadlines import DEADLINES
from ledger.errors import LogCorrupt
from ledger.failover import CommittingConnection
from ledger.hops import hops, now_ns, tell
from ledger.log import LOG_CHANNEL, READ_COMMITTED
from projections.positions import LogName, select_log

RELAY_LOCK = 1_145_393_478
ACKNOWLEDGE_TIMEOUT_S = 12  # a little more than the producer tries
TOPICS_LOOK_S = 10.0
LOCK_TIMEOUT_S = 5

TRY_LOCK = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
INSERT_RELAY = """
    INSERT INTO ledger.relays (topic, partitions, log_id, log_incarnation, epoch, position)
    VALUES (%s, %s, %s, %s, 0, 0) ON CONFLICT ON CONSTRAINT relays_pkey DO NOTHING
"""
RAISE_EPOCH = """
    UPDATE ledger.relays SET epoch = epoch + 1 WHERE topic = %s
    RETURNING partitions, log_id, log_incarnation, epoch, position
"""
BOUND_SILENCE = "SELECT set_config('idle_session_timeout', %s, false)"
SAVE_POSITION = "UPDATE ledger.relays SET position = %s WHERE topic = %s AND epoch = %s"
REPUBLISH = "UPDATE ledger.relays SET position = %s, epoch = epoch + 1 WHERE topic = %s"
LOCK_RELAY = "SELECT position FROM ledger.relays WHERE topic = %s FOR UPDATE"
SELECT_RELAY = "SELECT epoch, position FROM ledger.relays WHERE topic = %s"
FORGET = "DELETE FROM ledger.relays WHERE topic = %s"

log = structlog.get_logger("infra.relay")


class NamedOperation(msgspec.Struct, frozen=True):
    """What a log line or a trace needs of a row: whose operation it is."""

    book_id: str
    operation_id: str


decode_named = msgspec.json.Decoder(NamedOperation).decode


class RelayRefused(Exception):
    """The topic or the position row belongs to something else; nothing was sent."""


class Fenced(Exception):
    """Another relay has taken over: this one sends nothing more."""


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay process needs to know."""

    database_url: str
    bootstrap: str
    topic: str = "ledger.operations"
    results_topic: str = "accounting.results"
    partitions: int = 4
    replication: int = 1
    rows_max: int = 10_000
    pause_s: float = 0.05
    gather_s: float = 0.01  # least time between two small stretches: fewer, fuller messages
    retry_pause_s_max: float = 5.0
    beat_s: float = 5.0  # the watermark is sent again when nothing else was for so long
    silence_s: float = 15.0  # a relay that is silent for so long is no longer the active one


class RelayCounts(msgspec.Struct):
    """What a relay did since it started; `takeovers` is how often it became the active one."""

    positions: int = 0
    takeovers: int = 0
    failures: int = 0


class Relay:
    """The active relay of a topic. Make it with `open_relay`; not thread-safe."""

    def __init__(
        self,
        conn: Connection[Any],
        producer: KafkaProducer,
        *,
        settings: RelaySettings,
        listener: Connection[Any] | None = None,
        failpoint: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.conn = conn
        self._listener = listener or conn
        self.producer = producer
        self.settings = settings
        self._failpoint = failpoint
        self._log: LogName = select_log(conn)
        self.partitions, self.epoch, self.position = self._take_over()
        self._published_at = time.monotonic()
        self._listener.execute(f"LISTEN {LOG_CHANNEL}")

    def step(self, timeout_s: float = 0.0) -> int:
        """Publish the next stretch of the log; return how many positions it covered.

        In a long silence the last watermark is sent again: a consumer whose topic has lost its
        end (made anew, past its retention) learns so what it lacks.
        """
        stretch = select_stretch(self.conn, self.position, rows_max=self.settings.rows_max)
        if stretch.through == self.position:
            for _ in self._listener.notifies(timeout=timeout_s, stop_after=1):
                break
            if time.monotonic() - self._published_at < self.settings.beat_s:
                return 0
        self._failpoint("selected")
        self._publish(stretch)
        self._failpoint("sent")
        self._save(stretch.through)
        self._published_at = time.monotonic()
        return stretch.through - stretch.after

    def _publish(self, stretch: Stretch) -> None:
        """Send a stretch to every partition, if only as a watermark; wait until all have it."""
        rows: list[list[LogRow]] = [[] for _ in range(self.partitions)]
        for row in stretch.rows:
            partition = lane_of(row, self.partitions)
            for of_partition in rows if partition is None else [rows[partition]]:
                of_partition.append(row)
        began_ns = now_ns()
        futures = []
        for partition, of_partition in enumerate(rows):
            for value in pack(
                of_partition,
                log_id=str(self._log.log_id),
                incarnation=self._log.incarnation,
                partition=partition,
                span=(stretch.after, stretch.through),
            ):
                key = key_of(of_partition)
                futures.append(
                    self.producer.send(
                        self.settings.topic, value=value, key=key, partition=partition
                    )
                )
        self._failpoint("sending")
        self.producer.flush(timeout=ACKNOWLEDGE_TIMEOUT_S)
        for future in futures:
            future.get(timeout=ACKNOWLEDGE_TIMEOUT_S)
        if hops.on:
            self._tell(stretch, began_ns)

    def _tell(self, stretch: Stretch, began_ns: int) -> None:
        for row in stretch.rows:
            if not is_decision(row.topic):
                named = decode_named(row.state)
                ids = (named.book_id, named.operation_id)
                tell("relay", began_ns, *ids, position=row.position, topic=self.settings.topic)

    def _save(self, position: int) -> None:
        values = (position, self.settings.topic, self.epoch)
        if self.conn.execute(SAVE_POSITION, values).rowcount != 1:
            raise Fenced(f"epoch {self.epoch} of {self.settings.topic} is over")
        self.position = position

    def _take_over(self) -> tuple[int, int, int]:
        """Raise the epoch of the position row; refuse a row of another log or topic shape."""
        wanted = self.settings.partitions
        first = (self.settings.topic, wanted, self._log.log_id, self._log.incarnation)
        with self.conn.transaction():
            self.conn.execute(INSERT_RELAY, first)
            row = self.conn.execute(RAISE_EPOCH, (self.settings.topic,)).fetchone()
            assert row is not None
            partitions, log_id, incarnation, epoch, position = row
            if partitions != wanted:
                msg = f"the topic was begun with {partitions} partitions, not {wanted}"
                raise RelayRefused(msg)
            if (log_id, incarnation) != self._log:
                raise RelayRefused(f"the topic carries log {log_id}/{incarnation}")
        return partitions, epoch, position


def run_relay(
    settings: RelaySettings,
    stop: threading.Event,
    *,
    failpoint: Callable[[str], None] = lambda _: None,
    counts: RelayCounts | None = None,
) -> None:
    """Publish until stopped; stands by while another relay is active."""
    counts = counts or RelayCounts()
    pause_s = 0.1
    while not stop.is_set():
        try:
            if not _relay_until(settings, stop, failpoint, counts):
                stop.wait(0.5)  # another one is active
            pause_s = 0.1
        except (RelayRefused, TopicRefused, LogCorrupt) as error:
            counts.failures += 1
            log.critical("relay_refused", error=str(error), retry_s=settings.retry_pause_s_max)
            stop.wait(settings.retry_pause_s_max)
        except (psycopg.Error, KafkaError, OSError, Fenced) as error:
            counts.failures += 1
            log.error("relay_failed", error=str(error), retry_s=pause_s)
            stop.wait(pause_s)
            pause_s = min(pause_s * 2, settings.retry_pause_s_max)


class TopicsLook:
    """Makes the topics that are missing: at first, and now and then, as one can be deleted."""

    def __init__(self, settings: RelaySettings) -> None:
        self._settings = settings
        self._look()

    def __call__(self) -> None:
        if time.monotonic() - self._looked_at >= TOPICS_LOOK_S:
            self._look()

    def _look(self) -> None:
        settings = self._settings
        ensure_topics(
            settings.bootstrap,
            settings.partitions,
            topics=(settings.topic, settings.results_topic),
            replication=settings.replication,
        )
        self._looked_at = time.monotonic()


class RelayState(msgspec.Struct, frozen=True):
    """Where the relay of a topic stands; its epoch is raised whenever somebody takes over."""

    epoch: int
    position: int


def select_relay(conn: Connection[Any], topic: str) -> RelayState | None:
    """Read the position row of a topic; None before its first relay."""
    row = conn.execute(SELECT_RELAY, (topic,)).fetchone()
    return None if row is None else RelayState(*row)


def republish(conn: Connection[Any], topic: str, *, from_position: int = 0) -> bool:
    """Send the log again from a position: Kafka was lost, or its topic made anew.

    The active relay is fenced and starts again there; what consumers have is recognised.
    False when no relay has published the topic yet. Raises RelayRefused for a position that
    the relay has not reached: what lies between would never be sent.
    """
    with conn.transaction():
        row = conn.execute(LOCK_RELAY, (topic,)).fetchone()
        if row is None:
            return False
        if from_position > row[0]:
            raise RelayRefused(f"the relay of {topic} is at {row[0]}, before {from_position}")
        conn.execute(REPUBLISH, (from_position, topic))
    return True


def forget_topic(conn: Connection[Any], topic: str) -> None:
    """Forget a topic's position, so that it may begin again with other partitions."""
    conn.execute(FORGET, (topic,))


def relay_connection(url: str) -> Connection[Any]:
    """Open a connection that reads committed and notices a peer that is gone."""
    return CommittingConnection.connect(
        url,
        autocommit=True,
        application_name="daybook-relay",
        options=f"-c lock_timeout={LOCK_TIMEOUT_S}s {READ_COMMITTED}",
        **DEADLINES,
    )


def relay_producer(bootstrap: str) -> KafkaProducer:
    """Make the idempotent producer: one message is one batch of many operations."""
    return KafkaProducer(
        bootstrap_servers=bootstrap.split(","),
        acks="all",
        enable_idempotence=True,
        allow_auto_create_topics=False,
        compression_type="lz4",
        max_request_size=MESSAGE_BYTES_MAX * 2,
        batch_size=MESSAGE_BYTES_MAX,
        max_block_ms=5_000,
        request_timeout_ms=5_000,
        delivery_timeout_ms=10_000,
        reconnect_backoff_max_ms=RECONNECT_MS_MAX,
        client_id="daybook-relay",
    )


def key_of(rows: Sequence[LogRow]) -> bytes | None:
    """Give the key of a message: book and first account of its first operation."""
    for row in rows:
        if not is_decision(row.topic):
            with contextlib.suppress(msgspec.MsgspecError):
                return decode_key(row.state).text.encode()
    return None


def _relay_until(
    settings: RelaySettings,
    stop: threading.Event,
    failpoint: Callable[[str], None],
    counts: RelayCounts,
) -> bool:
    """Be the active relay until stopped or failed; False when another one is."""
    with (
        relay_connection(settings.database_url) as conn,
        relay_connection(settings.database_url) as listener,
    ):
        locked = conn.execute(TRY_LOCK, (RELAY_LOCK, settings.topic)).fetchone()
        if locked is None or not locked[0]:
            return False
        # The lock is on a connection of its own: one that listens is not ended for its silence
        # while the server waits for it to take its notifications.
        conn.execute(BOUND_SILENCE, (f"{settings.silence_s:g}s",))
        look = TopicsLook(settings)
        producer = relay_producer(settings.bootstrap)
        try:
            relay = Relay(conn, producer, settings=settings, listener=listener, failpoint=failpoint)
            log.info("relay_active", topic=settings.topic, position=relay.position)
            counts.takeovers += 1
            while not stop.is_set():
                look()
                began = time.monotonic()
                sent = relay.step(settings.pause_s)
                counts.positions += sent
                if sent < settings.rows_max // 4:
                    stop.wait(max(0.0, began + settings.gather_s - time.monotonic()))
        finally:
            producer.close(timeout=5)
    return True
