"""Results set each operation's status: lost ones come again, late ones change nothing."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from psycopg import OperationalError

from consumers.lost_results import resend_results
from consumers.results import (
    ResultsCounts,
    insert_outbox_in_tx,
    pack_results,
    results_producer,
    run_results,
    send_outbox,
)
from ledger.statuses import AccountingResult, apply_results_in_tx
from projections.positions import LogName, select_log
from projections.tables import connect_to
from tests.consumers.caught_up import catch_up, consume_log, kafka_consumer, relay_all
from tests.consumers.test_outcomes import payment, refund_of, rules_without
from tests.consumers.test_sweeps import by_schedule, told
from tests.consumers.written_log import BOOK, WrittenLog
from tests.waiting import wait_until

HISTORY = (("waiting", 4 * 4), ("parked", 9 * 4 + 1), ("parked", 12 * 4 + 1), ("vouchered", 63))


def said(*which: int, operation_id: str = "one") -> list[AccountingResult]:
    """Results of an operation's history, by their place in it."""
    return [
        AccountingResult(BOOK, operation_id, HISTORY[each][0], None, HISTORY[each][1])
        for each in which
    ]


def log_of(database_url: str) -> LogName:
    with connect_to(database_url) as conn:
        return select_log(conn)


def revision_of(database_url: str) -> int:
    with connect_to(database_url) as conn:
        row = conn.execute("SELECT revision FROM ledger.accounting_statuses").fetchone()
        return 0 if row is None else int(row[0])


def a_repaired_day(database_url: str) -> None:
    """A parked payment with a refund behind it, repaired afterwards; all vouchered."""
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(
        written.recharge("r-1"), payment(written, "p-1"), refund_of(written, "f-1", "p-1")
    )
    consume_log(database_url)
    by_schedule(database_url)
    written.publish()
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))
    consume_log(database_url)


def forget(database_url: str, *statements: str) -> None:
    """Change what the ledger was told."""
    with connect_to(database_url) as conn:
        for statement in statements:
            conn.execute(f"UPDATE ledger.accounting_statuses {statement}".encode())


@contextmanager
def results_running(
    database_url: str, bootstrap: str, topic: str, **more: Any
) -> Iterator[threading.Thread]:
    """The results consumer in a thread, until the block ends."""
    stop = threading.Event()
    given = {"topic": topic, "group": f"{topic}.group", "stop": stop, "retry_pause_s": 0.1, **more}
    thread = threading.Thread(target=run_results, args=(database_url, bootstrap), kwargs=given)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_in_any_order_and_twice_the_status_never_goes_backwards(database_url: str) -> None:
    for order in itertools.permutations(range(len(HISTORY))):
        with connect_to(database_url) as conn:
            conn.execute("DELETE FROM ledger.accounting_statuses")
            last = 0
            for result in [*said(*order), *said(*reversed(order))]:
                apply_results_in_tx(conn, [result])
                assert revision_of(database_url) >= last
                last = revision_of(database_url)
        assert told(database_url) == {"one": "vouchered"}


def test_many_of_one_operation_in_one_message_leave_the_latest(database_url: str) -> None:
    with connect_to(database_url) as conn:
        apply_results_in_tx(conn, said(3, 0, 2, 1, 3))

    assert told(database_url) == {"one": "vouchered"}


@pytest.mark.parametrize(
    "loss",
    [
        "SET status = 'parked', revision = 1 WHERE operation_id = 'p-1'",
        "SET status = 'waiting', revision = 0 WHERE operation_id = 'f-1'",
    ],
)
def test_a_lost_change_of_an_operation_swept_long_ago_is_sent_again(
    database_url: str, loss: str
) -> None:
    """The range of a scheduled sweep does not reach it: what the ledger takes for open is asked."""
    a_repaired_day(database_url)
    by_schedule(database_url)
    forget(database_url, loss)

    report = by_schedule(database_url)

    assert report is not None
    assert (report.operations, report.results_lost, report.results_resent) == (0, 1, 1)
    assert set(told(database_url).values()) == {"vouchered"}


def test_a_lost_first_result_is_sent_again(database_url: str) -> None:
    a_repaired_day(database_url)
    with connect_to(database_url) as conn:
        conn.execute("DELETE FROM ledger.accounting_statuses")
        sent = resend_results(conn, deliver_in_tx=apply_results_in_tx)
        assert len(sent) == 3
        assert resend_results(conn, deliver_in_tx=apply_results_in_tx) == []

    assert set(told(database_url).values()) == {"vouchered"}


def test_lost_results_are_found_wherever_they_are_in_a_long_log(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.lost_results.LOOK_POSITIONS", 7)
    monkeypatch.setattr("consumers.lost_results.SLICE_POSITIONS", 2)
    written = WrittenLog(database_url)
    written.publish()
    names = [f"r-{number}" for number in range(12)]
    written.commit(*(written.recharge(name) for name in names))
    consume_log(database_url)
    by_schedule(database_url)  # what came since the last sweep is still on its way
    for lost in (names[:1], names[-1:], names[3:9:2], names):
        with connect_to(database_url) as conn:
            conn.execute(
                "DELETE FROM ledger.accounting_statuses WHERE operation_id = ANY(%s)", (lost,)
            )

        report = by_schedule(database_url, full_every_s=0)

        assert report is not None
        assert (report.results_lost, report.results_resent) == (len(lost), len(lost))
        assert told(database_url) == dict.fromkeys(names, "vouchered")


def test_a_lost_outbox_row_comes_again_until_the_ledger_knows(database_url: str) -> None:
    """The sweep asks the ledger and not the outbox: sent is not yet told."""
    a_repaired_day(database_url)
    with connect_to(database_url) as conn:
        conn.execute("DELETE FROM ledger.accounting_statuses WHERE operation_id = 'r-1'")
    sent = []
    for _ in range(3):
        report = by_schedule(database_url, deliver_in_tx=insert_outbox_in_tx, full_every_s=0)
        assert report is not None
        sent.append(report.results_resent)
        with connect_to(database_url) as conn:
            conn.execute("DELETE FROM ledger.results_outbox")
    assert sent == [1, 1, 1]

    with connect_to(database_url) as conn:
        apply_results_in_tx(conn, [AccountingResult(BOOK, "r-1", "vouchered", None, 10**6)])
    report = by_schedule(database_url, deliver_in_tx=insert_outbox_in_tx, full_every_s=0)
    assert report is not None
    assert report.results_resent == 0


def test_without_full_sweeps_too_a_result_is_followed_until_the_ledger_knows(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    by_schedule(database_url)
    written.commit(written.recharge("one"))
    consume_log(database_url)
    with connect_to(database_url) as conn:
        conn.execute("DELETE FROM ledger.accounting_statuses")

    sent = []
    for _ in range(4):
        report = by_schedule(database_url, deliver_in_tx=insert_outbox_in_tx)
        assert report is not None
        sent.append(report.results_resent)
        with connect_to(database_url) as conn:
            conn.execute("DELETE FROM ledger.results_outbox")

    assert sent == [0, 1, 1, 1], "its first result had the time of one sweep to arrive"


@pytest.mark.kafka
def test_results_lost_by_the_topic_are_sent_again_by_the_sweep(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    topic = f"{topic_name}.results"
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"), written.recharge("two"))
    relay_all(database_url, kafka_bootstrap, topic_name)
    with kafka_consumer(database_url, kafka_bootstrap, topic_name) as consumer:
        catch_up(consumer)
    producer = results_producer(kafka_bootstrap)
    with connect_to(database_url) as conn:
        while send_outbox(conn, producer, topic):
            pass
    truncate(kafka_bootstrap, topic)

    with results_running(database_url, kafka_bootstrap, topic):
        for _ in range(2):  # the first one gives results time to arrive
            by_schedule(database_url, deliver_in_tx=insert_outbox_in_tx)
        with connect_to(database_url) as conn:
            while send_outbox(conn, producer, topic):
                pass
        wait_until(lambda: len(told(database_url)) == 2, "both are told")

    assert told(database_url) == {"one": "vouchered", "two": "vouchered"}
    producer.close()


@pytest.mark.kafka
def test_results_applied_and_not_committed_are_read_again_and_change_nothing(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    topic = f"{topic_name}.results"
    relay_all(database_url, kafka_bootstrap, topic_name)  # makes the topics
    producer = results_producer(kafka_bootstrap)
    for each in (3, 0, 3, 1, 2):  # late, and doubled
        (payload,) = pack_results(said(each), log_of(database_url))
        producer.send(topic, value=payload).get(timeout=30)
    deaths: list[int] = []

    with results_running(database_url, kafka_bootstrap, topic, failpoint=dying(deaths, 2)):
        wait_until(lambda: len(deaths) == 2, "it died twice after applying, before committing")
        (payload,) = pack_results(said(0, operation_id="last"), log_of(database_url))
        producer.send(topic, value=payload).get(timeout=30)
        wait_until(lambda: "last" in told(database_url), "it goes on")

    assert told(database_url) == {"one": "vouchered", "last": "waiting"}
    producer.close()


@pytest.mark.kafka
def test_results_of_another_log_or_of_a_lost_future_are_passed_over(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    """After a restore the topic still has what the log lost: it must not become a status."""
    topic, own = f"{topic_name}.results", log_of(database_url)
    relay_all(database_url, kafka_bootstrap, topic_name)  # makes the topics
    producer = results_producer(kafka_bootstrap)
    others = (own._replace(log_id=uuid4()), own._replace(incarnation=own.incarnation + 1))
    for number, other in enumerate(others):
        (payload,) = pack_results(said(3, operation_id=f"lost-{number}"), other)
        producer.send(topic, value=payload).get(timeout=30)
    unnamed = (
        b'{"schema":1,"results":' + msgspec.json.encode(said(3, operation_id="unnamed")) + b"}"
    )
    producer.send(topic, value=unnamed).get(timeout=30)
    (payload,) = pack_results(said(3), own)
    producer.send(topic, value=payload).get(timeout=30)

    with results_running(database_url, kafka_bootstrap, topic):
        wait_until(lambda: len(told(database_url)) == 2, "what is the log's own is applied")

    assert told(database_url) == {"one": "vouchered", "unnamed": "vouchered"}
    producer.close()


def dying(deaths: list[int], times: int) -> Callable[[str], None]:
    """A failpoint that cuts the results consumer after it has applied, a few times."""

    def reach(point: str) -> None:
        if point == "applied" and len(deaths) < times:
            deaths.append(1)
            raise OperationalError("cut after applying")

    return reach


def truncate(bootstrap: str, topic: str) -> None:
    """Let a topic lose all that it has."""
    reader = KafkaConsumer(bootstrap_servers=bootstrap.split(","))
    places = [TopicPartition(topic, each) for each in reader.partitions_for_topic(topic) or ()]
    ends = reader.end_offsets(places)
    assert sum(ends.values()) > 0
    reader.close()
    admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
    admin.delete_records(ends)
    admin.close()


def test_a_results_partition_that_stands_is_counted_as_failing_as_long_as_it_does(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    """Nothing but a line of the log said so: the alarm goes by this count."""
    written = WrittenLog(database_url)
    written.publish()
    relay_all(database_url, kafka_bootstrap, topic_name)
    topic, counts = f"{topic_name}.results", ResultsCounts()
    producer = results_producer(kafka_bootstrap)
    producer.send(topic, value=b"nobody can read it").get(10)
    producer.close()

    with results_running(database_url, kafka_bootstrap, topic, counts=counts):
        wait_until(lambda: counts.failures > 1, "it is counted again at each look")
