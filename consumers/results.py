"""Results: each outcome travels back to the ledger as the operation's accounting status.

On the log bus the status is written in the consumer's own transaction. On Kafka the result
waits in an outbox row of that transaction, is sent to `accounting.results` after the commit
and applied by `run_results`. Invariant: sending, applying and re-sending repeat safely,
because a revision only grows; a message that nobody can read stops its partition alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError
from psycopg import Connection, Error

from consumers.group import (
    RECONNECT_MS_MAX,
    SILENCE_S,
    HeldPartitions,
    Membership,
    group_consumer,
)
from consumers.messages import Unreadable
from consumers.set_aside import is_set_aside, words_of
from ledger.hops import hops, now_ns, tell
from ledger.statuses import AccountingResult, apply_results_in_tx
from projections.positions import LogName, select_log
from projections.tables import connect_to

RESULTS_SCHEMA = 1
RESULTS_PER_MESSAGE_MAX = 1500
SEND_TIMEOUT_S = 10  # a little more than the producer tries

INSERT_OUTBOX = "INSERT INTO ledger.results_outbox (payload) VALUES (%s)"
LOCK_OUTBOX = """
    SELECT outbox_id, payload FROM ledger.results_outbox
    ORDER BY outbox_id LIMIT 50 FOR UPDATE SKIP LOCKED
"""
DELETE_OUTBOX = "DELETE FROM ledger.results_outbox WHERE outbox_id = ANY(%s)"

log = structlog.get_logger("consumers.results")


class ResultsMessage(msgspec.Struct, frozen=True):
    """A message of topic accounting.results. Older ones do not name their log."""

    schema: int
    results: tuple[AccountingResult, ...]
    log_id: str | None = None
    incarnation: int | None = None


class ResultsCounts(msgspec.Struct):
    """What a results consumer did since it started; `applied` were news to the ledger."""

    messages: int = 0
    applied: int = 0
    failures: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ResultsMessage).decode


def pack_results(results: Sequence[AccountingResult], of: LogName) -> list[bytes]:
    """Pack results of a log into messages of bounded size."""
    name = (str(of.log_id), of.incarnation)
    return [
        _encode(
            ResultsMessage(RESULTS_SCHEMA, tuple(results[at : at + RESULTS_PER_MESSAGE_MAX]), *name)
        )
        for at in range(0, len(results), RESULTS_PER_MESSAGE_MAX)
    ]


def insert_outbox_in_tx(conn: Connection[Any], results: Sequence[AccountingResult]) -> None:
    """Keep results until they are sent."""
    if not results:
        return
    for payload in pack_results(results, select_log(conn)):
        conn.execute(INSERT_OUTBOX, (payload,))


def send_outbox(conn: Connection[Any], producer: KafkaProducer, topic: str) -> int:
    """Send waiting results and forget them once acknowledged; return how many messages."""
    with conn.transaction():
        rows = conn.execute(LOCK_OUTBOX).fetchall()
        if not rows:
            return 0
        futures = [producer.send(topic, value=bytes(payload)) for _, payload in rows]
        producer.flush(timeout=SEND_TIMEOUT_S)
        for future in futures:
            future.get(timeout=SEND_TIMEOUT_S)
        conn.execute(DELETE_OUTBOX, ([outbox_id for outbox_id, _ in rows],))
    return len(rows)


def read_results(
    conn: Connection[Any], records: Sequence[Any], of: LogName
) -> tuple[list[AccountingResult], Unreadable | None]:
    """Decode a partition's messages as far as they can be read, without those set aside.

    Results of another log, or of what this one was before it was restored, are passed over:
    the sweep sends again what the ledger should have known.
    """
    name = (str(of.log_id), of.incarnation)
    results: list[AccountingResult] = []
    for record in records:
        try:
            message = _read(record)
            if message.log_id is None or (message.log_id, message.incarnation) == name:
                results += message.results
            else:
                log.warning(
                    "results_of_another_log",
                    at=f"{record.topic}/{record.partition}/{record.offset}",
                )
        except Unreadable as error:
            if not is_set_aside(conn, error):
                return results, error
    return results, None


def _read(record: Any) -> ResultsMessage:
    place = {"topic": record.topic, "partition": record.partition, "at_offset": record.offset}
    raw = record.value or b""
    try:
        message = _decode(raw)
    except msgspec.MsgspecError as error:
        raise Unreadable(str(error), raw=raw, **place) from error
    if message.schema != RESULTS_SCHEMA:
        raise Unreadable(f"schema {message.schema}", raw=raw, **place)
    return message


def run_results(
    database_url: str,
    bootstrap: str,
    *,
    topic: str,
    group: str,
    stop: threading.Event,
    retry_pause_s: float = 1.0,
    silence_s: float = SILENCE_S,
    counts: ResultsCounts | None = None,
    failpoint: Callable[[str], None] = lambda _: None,
) -> None:
    """Apply results from Kafka until stopped; failures of infrastructure are retried."""
    counts = counts or ResultsCounts()
    while not stop.is_set():
        try:
            consumer = group_consumer(bootstrap, topic, group, silence_s)
            try:
                with connect_to(database_url) as conn:
                    reader = ResultsReader(conn, consumer, counts, failpoint)
                    membership = Membership(consumer, silence_s)
                    while not stop.is_set():
                        membership.prove()
                        reader.step(timeout_ms=200)
            finally:
                consumer.close(autocommit=False)
        except (KafkaError, Error, OSError) as error:
            counts.failures += 1
            log.error("results_stopped", error=str(error), retry_s=retry_pause_s)
            stop.wait(retry_pause_s)


class ResultsReader:
    """Applies the results topic's messages. Not thread-safe."""

    def __init__(
        self,
        conn: Connection[Any],
        consumer: KafkaConsumer,
        counts: ResultsCounts,
        failpoint: Callable[[str], None],
    ) -> None:
        self._conn = conn
        self._consumer = consumer
        self._counts = counts
        self._failpoint = failpoint
        self._held = HeldPartitions(consumer)
        self._log = select_log(conn)

    def step(self, timeout_ms: int) -> None:
        """Apply what arrived, as far as it can be read, then move the offsets."""
        self._held.release()
        results: list[AccountingResult] = []
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        stuck: dict[TopicPartition, Unreadable] = {}
        for place, records in self._consumer.poll(timeout_ms=timeout_ms).items():
            readable, error = read_results(self._conn, records, self._log)
            results += readable
            offset = records[-1].offset + 1
            if error is not None:
                stuck[place] = error
                offset = error.at_offset
            offsets[place] = OffsetAndMetadata(offset, "", -1)
            self._counts.messages += len(records)
        if offsets:
            self._apply(results, offsets)
        for place, error in stuck.items():
            self._counts.failures += 1  # again at each look: the alarm lasts as long as it stands
            log.error("results_partition_stopped", error=words_of(error))
            self._held.hold(place, error.at_offset)

    def _apply(
        self,
        results: Sequence[AccountingResult],
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
    ) -> None:
        began_ns = now_ns()
        with self._conn.transaction():
            self._counts.applied += apply_results_in_tx(self._conn, results)
        if hops.on:
            for each in results:
                tell("results", began_ns, each.book_id, each.operation_id, status=each.status)
        self._failpoint("applied")
        self._consumer.commit(offsets)


def results_producer(bootstrap: str) -> KafkaProducer:
    """Make the idempotent producer of results."""
    return KafkaProducer(
        bootstrap_servers=bootstrap.split(","),
        acks="all",
        enable_idempotence=True,
        allow_auto_create_topics=False,
        max_block_ms=5_000,
        request_timeout_ms=5_000,
        delivery_timeout_ms=8_000,
        reconnect_backoff_max_ms=RECONNECT_MS_MAX,
        client_id=f"daybook-results-{int(time.time())}",
    )
