"""The loop around a consumer: open, step, and after a failure of infrastructure open again.

Invariant: a failure is written down and retried with growing pauses; only `stop` ends the
loop, and it ends it between transactions.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import psycopg
import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError
from psycopg import Connection

from consumers.bus import Bus, KafkaBus, LogBus
from consumers.consumer import Consumer, Counts, never
from consumers.group import SILENCE_S
from consumers.results import insert_outbox_in_tx, results_producer, send_outbox
from ledger.errors import LogCorrupt
from ledger.interpreter import suit_batches
from ledger.priority import BOOKS, Waits, server_goes_after_postings
from ledger.statuses import apply_results_in_tx
from projections.positions import LanesChanged, select_lanes, select_log, stop_lane
from projections.tables import connect_to

BOUND_SILENCE = """
    SELECT set_config('idle_in_transaction_session_timeout', %s, false),
           set_config('lock_timeout', %s, false)
"""

log = structlog.get_logger("consumers.loop")


class ConsumerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer process needs to know."""

    database_url: str
    bus: Literal["log", "kafka"] = "log"
    bootstrap: str = "127.0.0.1:9092"
    operations_topic: str = "ledger.operations"
    results_topic: str = "accounting.results"
    group: str = "daybook.vouchers"
    operations_max: int = 2000
    pause_s: float = 0.05
    gather_s: float = 0.02  # least time between two small polls: fewer, fuller transactions
    gather_crowded_s: float = 0.1  # the same while it waits for processors longer than it has them
    retry_pause_s_max: float = 5.0
    silence_s: float = SILENCE_S  # what a silent consumer holds goes to others after so long


def open_bus(settings: ConsumerSettings) -> Bus:
    """Open the bus that the settings name, with a connection of its own."""
    conn = connect_to(settings.database_url)
    server_goes_after_postings(conn, BOOKS)
    if settings.bus == "log":
        return LogBus(conn, operations_max=settings.operations_max)
    with conn:
        name = select_log(conn)
    return KafkaBus(
        settings.bootstrap,
        topic=settings.operations_topic,
        group=settings.group,
        log=name,
        operations_max=settings.operations_max,
        silence_s=settings.silence_s,
    )


def run_consumer(
    settings: ConsumerSettings,
    stop: threading.Event,
    *,
    failpoint: Callable[[str], None] = never,
    counts: Counts | None = None,
) -> None:
    """Consume until `stop` is set. `counts` (shared with metrics) grows as it goes."""
    pause_s = 0.1
    while not stop.is_set():
        before = 0 if counts is None else counts.polls
        try:
            _consume(settings, stop, failpoint, counts or Counts())
        except LanesChanged as change:
            log.warning("lanes_changed", detail=str(change))
            pause_s = 0.1
        except LogCorrupt as error:
            _count_failure(counts)
            log.critical("consumer_stopped", error=str(error), retry_s=settings.retry_pause_s_max)
            _write_down(settings, str(error))
            stop.wait(settings.retry_pause_s_max)
        except (psycopg.Error, KafkaError, OSError) as error:
            _count_failure(counts)
            log.error("consumer_failed", error=str(error), retry_s=pause_s)
            stop.wait(pause_s)
            progressed = counts is not None and counts.polls > before
            pause_s = 0.1 if progressed else min(pause_s * 2, settings.retry_pause_s_max)


def _count_failure(counts: Counts | None) -> None:
    if counts is not None:
        counts.failures += 1


def _write_down(settings: ConsumerSettings, reason: str) -> None:
    """Show on every lane why nothing moves, if the database can take it."""
    with contextlib.suppress(psycopg.Error), connect_to(settings.database_url) as conn:
        for lane in select_lanes(conn):
            stop_lane(conn, lane.lane, reason)


def _bound_silence(conn: Connection[Any], silence_s: float) -> None:
    """Let the database end a transaction in which this process falls silent, with its locks."""
    conn.execute(BOUND_SILENCE, (f"{silence_s:g}s", f"{silence_s:g}s"))


def _consume(
    settings: ConsumerSettings,
    stop: threading.Event,
    failpoint: Callable[[str], None],
    counts: Counts,
) -> None:
    """Open everything, step until stopped or something fails, close everything."""
    on_kafka = settings.bus == "kafka"
    suit_batches()
    bus = open_bus(settings)
    producer: KafkaProducer | None = None
    try:
        with connect_to(settings.database_url) as conn:
            server_goes_after_postings(conn, BOOKS)
            _bound_silence(conn, settings.silence_s)
            deliver = insert_outbox_in_tx if on_kafka else apply_results_in_tx
            producer = results_producer(settings.bootstrap) if on_kafka else None
            consumer = Consumer(conn, bus, deliver_in_tx=deliver, failpoint=failpoint)
            consumer.counts = counts
            waits = Waits()
            with contextlib.closing(consumer):
                while not stop.is_set():
                    began, done = time.monotonic(), counts.operations
                    consumer.step(settings.pause_s)
                    if producer is not None:
                        send_outbox(conn, producer, settings.results_topic)
                    crowded = waits.longer_than_it_runs()
                    if counts.operations - done < settings.operations_max // 4:
                        gather_s = settings.gather_crowded_s if crowded else settings.gather_s
                        stop.wait(max(0.0, began + gather_s - time.monotonic()))
    finally:
        bus.close()
        if producer is not None:
            producer.close(timeout=5)
