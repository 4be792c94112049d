"""The loops around consumer and relay: they stop when asked and survive what is away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from consumers.consumer import Counts
from consumers.loop import ConsumerSettings, run_consumer
from infra.relay import RelaySettings, run_relay
from ledger.priority import Waits
from projections.positions import (
    assign_lanes,
    lock_lane_in_tx,
    move_lane_in_tx,
    select_lanes,
    select_log,
)
from projections.tables import connect_to
from tests.consumers.caught_up import statuses
from tests.consumers.written_log import WrittenLog
from tests.waiting import wait_until


@contextmanager
def running(target: Callable[..., Any], *args: Any, **more: Any) -> Iterator[threading.Event]:
    """Run a loop in a thread until the block ends; fail if it does not stop."""
    stop = threading.Event()
    thread = threading.Thread(target=target, args=(*args, stop), kwargs=more)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(timeout=60)
        assert not thread.is_alive()


def cut_connections(database_url: str) -> None:
    """Kill every other session of the database."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_running_consumer_follows_the_log_through_cut_connections(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    counts = Counts()

    with running(run_consumer, ConsumerSettings(database_url=database_url), counts=counts):
        for number in range(4):
            written.commit(written.recharge(f"r-{number}"))
            wait_until(lambda: len(statuses(database_url)) > number, "the books follow")  # noqa: B023
            cut_connections(database_url)

    assert counts.operations == 4


def test_a_failing_transaction_is_tried_again_until_it_passes(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    failures = iter(range(3))

    def fail_thrice(point: str) -> None:
        if point == "handled" and next(failures, None) is not None:
            raise psycopg.OperationalError("the disk is full")

    settings = ConsumerSettings(database_url=database_url, retry_pause_s_max=0.1)
    with running(run_consumer, settings, failpoint=fail_thrice):
        written.commit(written.recharge("one"))
        wait_until(lambda: statuses(database_url), "the fourth try passes")


class Turns(threading.Event):
    """Ends after some turns; a pause is noted, not made."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.left = turns
        self.pauses_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses_s.append(timeout or 0.0)
        self.left -= 1
        if self.left == 0:
            self.set()
        return self.is_set()


@pytest.mark.parametrize("crowded", [False, True])
def test_a_consumer_that_waits_for_processors_makes_fewer_and_fuller_transactions(
    database_url: str, monkeypatch: pytest.MonkeyPatch, crowded: bool
) -> None:
    monkeypatch.setattr(Waits, "longer_than_it_runs", lambda _self: crowded)
    WrittenLog(database_url).publish()
    turns = Turns(3)
    settings = ConsumerSettings(
        database_url=database_url, pause_s=0.001, gather_s=0.0, gather_crowded_s=1_000.0
    )
    run_consumer(settings, turns)
    assert [pause_s > 900 for pause_s in turns.pauses_s] == [crowded] * 3


def test_a_consumer_of_a_corrupt_log_says_so_on_its_lane(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    settings = ConsumerSettings(database_url=database_url, retry_pause_s_max=0.1)

    def lane() -> tuple[int, str]:
        with connect_to(database_url) as conn:
            (found,) = select_lanes(conn) or [None]
            return (0, "") if found is None else (found.position, found.stopped or "")

    with running(run_consumer, settings):
        wait_until(lambda: lane()[0] == 2, "the ruleset has arrived")
        with connect_to(database_url) as conn:
            conn.execute("UPDATE positions SET position = 99")
        cut_connections(database_url)
        wait_until(lambda: "beyond the head" in lane()[1], "the lane says why it stands")


@pytest.mark.kafka
def test_relay_and_consumers_follow_each_other_over_kafka_and_a_second_relay_stands_by(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    relay = RelaySettings(
        database_url=database_url,
        bootstrap=kafka_bootstrap,
        topic=topic_name,
        results_topic=f"{topic_name}.results",
        partitions=2,
        retry_pause_s_max=0.5,
    )
    consumer = ConsumerSettings(
        database_url=database_url,
        bus="kafka",
        bootstrap=kafka_bootstrap,
        operations_topic=topic_name,
        results_topic=f"{topic_name}.results",
        group=f"{topic_name}.group",
        retry_pause_s_max=0.5,
    )
    with (
        running(run_relay, relay) as first,
        running(run_consumer, consumer),
        running(run_consumer, consumer),
    ):
        written.commit(*(written.recharge(f"a-{number}", f"C-{number}") for number in range(9)))
        wait_until(lambda: len(statuses(database_url)) == 9, "the first relay has published")
        with running(run_relay, relay):
            first.set()
            written.commit(*(written.recharge(f"b-{number}", f"C-{number}") for number in range(9)))
            wait_until(lambda: len(statuses(database_url)) == 18, "the second one took over")

    assert set(statuses(database_url).values()) == {("vouchered", None)}
    with psycopg.connect(database_url) as conn:
        row = conn.execute("SELECT count(*) FROM projections.vouchers").fetchone()
        assert row == (18,)
        (epoch,) = conn.execute("SELECT epoch FROM ledger.relays").fetchone() or (0,)
        assert epoch >= 2


def test_a_consumer_starts_beside_one_that_is_inside_its_transaction(database_url: str) -> None:
    """To look whether the lanes are there it locked the table, and both waited for each other."""
    with connect_to(database_url) as first, connect_to(database_url) as second:
        assign_lanes(first, 1)
        log = select_log(first)
        second.execute("SET lock_timeout = '5s'")
        with first.transaction():
            lane = lock_lane_in_tx(first, 0, log)
            assign_lanes(second, 1)
            move_lane_in_tx(first, lane, 0)
