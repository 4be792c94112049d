"""Run consumers in a test until they have caught up, and read what they made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from consumers.bus import KafkaBus, LogBus
from consumers.consumer import Consumer, never
from consumers.results import insert_outbox_in_tx
from infra.kafka.topics import ensure_topics
from infra.relay import Relay, RelaySettings, relay_producer
from ledger.statuses import apply_results_in_tx
from projections.positions import select_head, select_log, select_visible
from projections.tables import COMPARED, COMPARED_SUMS, LIVE_SCHEMA, connect_to
from tests.waiting import wait_until


@contextmanager
def log_consumer(
    database_url: str, *, operations_max: int = 2000, failpoint: Callable[[str], None] = never
) -> Iterator[Consumer]:
    """A consumer on the log bus."""
    with connect_to(database_url) as conn:
        bus = LogBus(connect_to(database_url), operations_max=operations_max)
        try:
            yield Consumer(conn, bus, deliver_in_tx=apply_results_in_tx, failpoint=failpoint)
        finally:
            bus.close()


def consume_log(database_url: str, *, operations_max: int = 2000) -> None:
    """Consume the log bus until its head."""
    with log_consumer(database_url, operations_max=operations_max) as consumer:
        while consumer.step():
            pass
        consumer.perform_due()


@contextmanager
def kafka_consumer(
    database_url: str,
    bootstrap: str,
    topic: str,
    *,
    group: str | None = None,
    failpoint: Callable[[str], None] = never,
) -> Iterator[Consumer]:
    """A consumer on the Kafka bus; results go to the outbox."""
    with connect_to(database_url) as conn:
        name = select_log(conn)
        bus = KafkaBus(bootstrap, topic=topic, group=group or f"{topic}.group", log=name)
        try:
            yield Consumer(conn, bus, deliver_in_tx=insert_outbox_in_tx, failpoint=failpoint)
        finally:
            bus.close()


@contextmanager
def active_relay(
    database_url: str,
    bootstrap: str,
    topic: str,
    *,
    partitions: int = 3,
    failpoint: Callable[[str], None] = never,
) -> Iterator[Relay]:
    """The relay of a topic of this test's own, which is made if it is not there."""
    settings = RelaySettings(
        database_url=database_url,
        bootstrap=bootstrap,
        topic=topic,
        results_topic=f"{topic}.results",
        partitions=partitions,
    )
    ensure_topics(bootstrap, partitions, topics=(topic, settings.results_topic))
    producer = relay_producer(bootstrap)
    try:
        with psycopg.connect(database_url, autocommit=True) as conn:
            yield Relay(conn, producer, settings=settings, failpoint=failpoint)
    finally:
        producer.close(timeout=5)


def relay_all(database_url: str, bootstrap: str, topic: str, *, partitions: int = 3) -> None:
    """Publish everything there is."""
    with active_relay(database_url, bootstrap, topic, partitions=partitions) as relay:
        while relay.step():
            pass


def consume_kafka(database_url: str, bootstrap: str, topic: str) -> None:
    """Consume the topic until the log's head is visible."""
    with kafka_consumer(database_url, bootstrap, topic) as consumer:
        catch_up(consumer)


def catch_up(*consumers: Consumer) -> None:
    """Step consumers until the head of the log is visible and nothing is due."""
    conn = consumers[0].conn

    def done() -> bool:
        for consumer in consumers:
            consumer.step(0.05)
        return select_visible(conn) >= select_head(conn)

    wait_until(done, "the books have caught up with the log")
    for consumer in consumers:
        consumer.perform_due()


def books(database_url: str, *, lanes: bool = False) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the compared tables, lanes as sums (without positions unless asked)."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    with connect_to(database_url) as conn:
        for table, (key, others) in COMPARED.items():
            if table == "positions" and not lanes:
                continue
            columns = sql.SQL(", ").join(map(sql.Identifier, (*key, *others)))
            order = sql.SQL(", ").join(map(sql.Identifier, key))
            query = sql.SQL("SELECT {} FROM {} ORDER BY {}")
            found[table] = conn.execute(
                query.format(columns, sql.Identifier(table), order)
            ).fetchall()
        for table, summed in COMPARED_SUMS.items():
            query = sql.SQL(summed).format(sql.Identifier(LIVE_SCHEMA))
            found[table] = sorted(conn.execute(query).fetchall())
    return found


def statuses(database_url: str) -> dict[str, tuple[str, str | None]]:
    """Status and reason of every outcome by operation id."""
    with connect_to(database_url) as conn:
        rows = conn.execute("SELECT operation_id, status, reason FROM outcomes")
        return {operation_id: (status, reason) for operation_id, status, reason in rows}
