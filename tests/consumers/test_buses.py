"""Both buses give the same books for the same log, whatever is repeated, cut or lost."""

from __future__ import annotations

import datetime as dt
import threading

import msgspec
import psycopg
import pytest
from kafka import KafkaProducer

from accounting import periods
from accounting.decided import DayCut
from accounting.ruleset import Ruleset
from accounting.ruleset_files import shipped_ruleset
from consumers.bus import Poll
from consumers.results import ResultsCounts, results_producer, run_results, send_outbox
from infra.relay import Relay, RelayRefused, RelaySettings, forget_topic, republish
from ledger.books import open_day
from ledger.events import OrderNumbers
from projections.positions import select_lanes
from projections.tables import connect_to
from tests.consumers.caught_up import (
    active_relay,
    books,
    catch_up,
    consume_kafka,
    consume_log,
    kafka_consumer,
    relay_all,
    statuses,
)
from tests.consumers.test_order import changed, open_first_day
from tests.consumers.written_log import CUSTOMER, DAY, MERCHANT, WrittenLog, leg
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka
NEXT = "2026-02-02"


def without(business_type: str) -> Ruleset:
    """The shipped rules without those of one business type."""
    shipped = shipped_ruleset()
    rules = [rule for rule in shipped.rules if rule.business_type != business_type]
    return Ruleset("reduced", shipped.chart, rules)


def a_day(written: WrittenLog) -> None:
    """Recharges, payments, refunds behind parked ones, a new ruleset and a repair."""
    written.publish(without("payment"))
    for number in range(40):
        written.commit(
            written.recharge(f"r-{number}", f"C-{number % 7}", fee_minor=60),
            written.operation(
                f"p-{number}",
                [
                    leg("debit", f"C-{number % 7}", 500),
                    leg("credit", "M-1", 490, MERCHANT),
                ],
                business_type="payment",
                fee_minor=10,
                orders=OrderNumbers(f"T{number}", None, (f"X{number}", f"Y{number}")),
            ),
        )
    written.commit(
        written.operation(
            "f-1",
            [leg("debit", "M-1", 100, MERCHANT), leg("credit", "C-1", 100, CUSTOMER)],
            business_type="refund",
            original="p-1",
        )
    )
    written.publish(shipped_ruleset())
    written.decide(
        lambda decisions: decisions.request_repair(
            written.book_id, ["p-1", "p-2", "p-3"], maker="alice"
        )
    )
    written.commit(written.recharge("last", "C-9"))


def test_both_buses_give_identical_books_for_the_same_log(
    database_url: str, other_database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_day(WrittenLog(database_url))
    a_day(WrittenLog(other_database_url))

    consume_log(database_url, operations_max=7)
    relay_all(other_database_url, kafka_bootstrap, topic_name)
    consume_kafka(other_database_url, kafka_bootstrap, topic_name)

    on_log, on_kafka = books(database_url), books(other_database_url)
    assert len(on_log["vouchers"]) == 45
    for table, rows in on_log.items():
        assert on_kafka[table] == rows, table


def a_cut_day(written: WrittenLog) -> None:
    """A day that ends with parked payments, is cut and closed; repairs, late and new ones."""
    open_first_day(written, dt.date.fromisoformat(DAY))
    a_day(written)
    written.publish(without("fee"))
    for number in range(9):
        fees = [leg("debit", f"C-{number}", 3)]
        written.commit(written.operation(f"fee-{number}", fees, business_type="fee"))
    with psycopg.connect(written.database_url, autocommit=True) as conn:
        open_day(conn, written.book_id, dt.date.fromisoformat(NEXT), principal="alice")
    cut = DayCut(written.book_id, DAY, NEXT, (), 0, (), "alice")
    written.decide(lambda made: periods.cut_day(made, cut, lambda _cursor: None))
    changed(written, periods.CLOSE, "2026-01-30")
    written.publish(shipped_ruleset())
    ids = [f"fee-{number}" for number in range(6)]
    written.decide(lambda made: made.request_repair(written.book_id, ids, maker="alice"))
    for number in range(9):
        written.commit(written.recharge(f"late-{number}", f"C-{number}", day="2026-01-30"))
        written.commit(written.recharge(f"new-{number}", f"C-{number}", day=NEXT))


def test_both_buses_give_identical_vouchers_across_a_cut(
    database_url: str, other_database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    for url in (database_url, other_database_url):
        a_cut_day(WrittenLog(url))

    consume_log(database_url, operations_max=5)
    relay_all(other_database_url, kafka_bootstrap, topic_name)
    consume_kafka(other_database_url, kafka_bootstrap, topic_name)

    on_log, on_kafka = books(database_url), books(other_database_url)
    dated = [row for row in on_log["vouchers"] if row[-1] is not None]
    assert len(dated) == 15  # six repaired, nine late
    assert {str(row[4]) for row in dated} == {NEXT}
    # every voucher of the day that was cut has a number
    on_the_day = [row for row in on_log["vouchers"] if str(row[4]) == DAY]
    assert [row[2] for row in on_log["voucher_numbers"]] == list(range(1, len(on_the_day) + 1))
    # change ids are drawn by lot for each log; everything else is the same
    assert on_log.pop("period_changes") != on_kafka.pop("period_changes")
    for table, rows in on_log.items():
        assert on_kafka[table] == rows, table


def test_a_topic_published_again_changes_nothing(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_day(WrittenLog(database_url))
    relay_all(database_url, kafka_bootstrap, topic_name)
    consume_kafka(database_url, kafka_bootstrap, topic_name)
    before = books(database_url)

    with connect_to(database_url) as conn:
        republish(conn, topic_name)
    relay_all(database_url, kafka_bootstrap, topic_name)
    with kafka_consumer(database_url, kafka_bootstrap, topic_name, group="fresh") as consumer:
        catch_up(consumer)
        for _ in range(20):
            consumer.step(0.05)

    assert books(database_url) == before


def test_a_relay_killed_between_send_and_save_sends_again_and_nothing_doubles(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_day(WrittenLog(database_url))

    def die(point: str) -> None:
        if point == "sent":
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        active_relay(database_url, kafka_bootstrap, topic_name, failpoint=die) as relay,
    ):
        relay.step()
    relay_all(database_url, kafka_bootstrap, topic_name)

    consume_kafka(database_url, kafka_bootstrap, topic_name)

    with connect_to(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM outcomes").fetchone() == (82,)
        assert conn.execute("SELECT count(*) FROM vouchers").fetchone() == (45,)


def test_what_the_topic_has_lost_is_read_from_the_store(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    lost = written.commit(written.recharge("lost", "C-1"), written.recharge("lost-too", "C-2"))
    with active_relay(database_url, kafka_bootstrap, topic_name) as relay:
        relay.position = lost  # as if retention had passed these
        written.commit(written.recharge("kept", "C-3"))
        while relay.step():
            pass

    with kafka_consumer(database_url, kafka_bootstrap, topic_name) as consumer:
        catch_up(consumer)
        assert consumer.counts.filled_gaps == 3

    with connect_to(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM vouchers").fetchone() == (3,)


def test_a_foreign_message_stops_its_partition_loudly_until_it_is_set_aside(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    relay_all(database_url, kafka_bootstrap, topic_name)
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    sent = [
        producer.send(topic_name, value=b'{"hello":1}', partition=number).get(timeout=10)
        for number in range(3)
    ]
    producer.close()
    written.commit(written.recharge("behind", "C-1"))
    relay_all(database_url, kafka_bootstrap, topic_name)

    with kafka_consumer(database_url, kafka_bootstrap, topic_name) as consumer:
        for _ in range(20):
            consumer.step(0.05)
        stopped = [lane.stopped or "" for lane in select_lanes(consumer.conn)]
        assert all("missing required field" in reason for reason in stopped)
        assert consumer.conn.execute("SELECT count(*) FROM outcomes").fetchone() == (0,)
        for record in sent:
            written.decide(
                lambda decisions, record=record: decisions.set_aside(
                    topic_name,
                    record.partition,
                    record.offset,
                    b'{"hello":1}',
                    reason="foreign",
                    maker="olga",
                )
            )
        relay_all(database_url, kafka_bootstrap, topic_name)
        catch_up(consumer)
        assert all(lane.stopped is None for lane in select_lanes(consumer.conn))
        assert consumer.conn.execute("SELECT count(*) FROM outcomes").fetchone() == (1,)
        kept = consumer.conn.execute("SELECT raw FROM set_asides").fetchall()
        assert kept == [(b'{"hello":1}',)] * 3


def test_results_travel_back_through_the_outbox(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"), written.recharge("two"))
    relay_all(database_url, kafka_bootstrap, topic_name)
    consume_kafka(database_url, kafka_bootstrap, topic_name)
    producer = results_producer(kafka_bootstrap)

    with connect_to(database_url) as conn:
        while send_outbox(conn, producer, f"{topic_name}.results"):
            pass
        left = conn.execute("SELECT count(*) FROM ledger.results_outbox").fetchone()
    producer.close()

    assert left == (0,)
    applied = results_applied(database_url, kafka_bootstrap, f"{topic_name}.results")
    assert applied == {"one": "vouchered", "two": "vouchered"}


def test_a_results_consumer_that_comes_before_its_topic_says_so_and_waits(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    """It subscribed at once, and was seen to poll for ever without joining its group."""
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))
    counts, stop = ResultsCounts(), threading.Event()
    topic = f"{topic_name}.results"
    early = threading.Thread(
        target=run_results,
        args=(database_url, kafka_bootstrap),
        kwargs={
            "topic": topic,
            "group": f"{topic}.early",
            "stop": stop,
            "counts": counts,
            "retry_pause_s": 0.1,
        },
    )
    early.start()
    try:
        wait_until(lambda: counts.failures, "it has found no topic")
        relay_all(database_url, kafka_bootstrap, topic_name)
        consume_kafka(database_url, kafka_bootstrap, topic_name)
        producer = results_producer(kafka_bootstrap)
        with connect_to(database_url) as conn:
            send_outbox(conn, producer, topic)
            query = "SELECT status FROM ledger.accounting_statuses"
            wait_until(lambda: conn.execute(query).fetchall() == [("vouchered",)], "the status")
        producer.close()
    finally:
        stop.set()
        early.join()


def results_applied(database_url: str, bootstrap: str, topic: str) -> dict[str, str]:
    """Apply a results topic and read the ledger's statuses."""
    stop = threading.Event()
    thread = threading.Thread(
        target=run_results,
        args=(database_url, bootstrap),
        kwargs={"topic": topic, "group": f"{topic}.group", "stop": stop},
    )
    thread.start()
    with connect_to(database_url) as conn:
        query = "SELECT operation_id, status FROM ledger.accounting_statuses"
        try:
            wait_until(lambda: len(conn.execute(query).fetchall()) == 2, "both results")
            return dict(conn.execute(query).fetchall())
        finally:
            stop.set()
            thread.join()


def test_two_relays_at_once_leave_one_active_and_the_other_fenced(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    with (
        active_relay(database_url, kafka_bootstrap, topic_name) as zombie,
        active_relay(database_url, kafka_bootstrap, topic_name) as active,
    ):
        while active.step():
            pass
        written.commit(written.recharge("one"))
        with pytest.raises(Exception, match="epoch 1"):
            zombie.step()  # sends, but cannot save
        while active.step():
            pass

    consume_kafka(database_url, kafka_bootstrap, topic_name)

    with connect_to(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM vouchers").fetchone() == (1,)


def test_two_consumers_share_the_partitions_and_each_effect_happens_once(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_day(WrittenLog(database_url))
    relay_all(database_url, kafka_bootstrap, topic_name)

    with (
        kafka_consumer(database_url, kafka_bootstrap, topic_name) as first,
        kafka_consumer(database_url, kafka_bootstrap, topic_name) as second,
    ):
        catch_up(first, second)

    with connect_to(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM outcomes").fetchone() == (82,)
        assert conn.execute("SELECT count(*) FROM vouchers").fetchone() == (45,)


def test_a_consumer_killed_before_it_acknowledged_is_given_the_messages_again(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_day(WrittenLog(database_url))
    relay_all(database_url, kafka_bootstrap, topic_name)

    def die(point: str) -> None:
        if point == "committed":
            raise KeyboardInterrupt

    with (
        kafka_consumer(database_url, kafka_bootstrap, topic_name, failpoint=die) as consumer,
        pytest.raises(KeyboardInterrupt),
    ):
        catch_up(consumer)
    consume_kafka(database_url, kafka_bootstrap, topic_name)

    with connect_to(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM outcomes").fetchone() == (82,)
        assert conn.execute("SELECT count(*) FROM vouchers").fetchone() == (45,)


def test_the_bus_can_be_changed_both_ways_and_the_books_go_on(
    database_url: str, other_database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    switched, steady = WrittenLog(database_url), WrittenLog(other_database_url)
    for written in (switched, steady):
        written.publish()
    for number, bus in enumerate(("log", "kafka", "log", "kafka")):
        for written in (switched, steady):
            written.commit(
                *(written.recharge(f"{number}-{no}", f"C-{no}", fee_minor=1) for no in range(5))
            )
        if bus == "log":
            consume_log(database_url)
        else:
            relay_all(database_url, kafka_bootstrap, topic_name)
            consume_kafka(database_url, kafka_bootstrap, topic_name)
    consume_log(other_database_url)

    assert books(database_url) == books(other_database_url)


def test_a_zombie_that_wakes_after_its_partition_moved_changes_nothing(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_day(WrittenLog(database_url))
    relay_all(database_url, kafka_bootstrap, topic_name)
    with kafka_consumer(database_url, kafka_bootstrap, topic_name, group="zombie") as zombie:
        asleep: list[Poll] = []

        def dozed_off() -> bool:
            asleep.extend(each for each in zombie.bus.poll(0.2) if isinstance(each, Poll))
            return len({poll.lane for poll in asleep}) == 3

        wait_until(dozed_off, "the zombie holds polls of every partition")
        consume_kafka(database_url, kafka_bootstrap, topic_name)
        before = books(database_url, lanes=True)

        for poll in asleep:
            zombie._handle(poll)

        assert books(database_url, lanes=True) == before


def test_a_topic_keeps_its_partitions_and_its_log(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    WrittenLog(database_url).publish()
    relay_all(database_url, kafka_bootstrap, topic_name, partitions=3)
    settings = RelaySettings(
        database_url=database_url, bootstrap=kafka_bootstrap, topic=topic_name, partitions=2
    )
    with connect_to(database_url) as conn:
        with pytest.raises(RelayRefused, match="begun with 3 partitions, not 2"):
            Relay(conn, None, settings=settings)
        conn.execute("UPDATE ledger.relays SET log_incarnation = 2")
        same = msgspec.structs.replace(settings, partitions=3)
        with pytest.raises(RelayRefused, match="carries log"):
            Relay(conn, None, settings=same)
        forget_topic(conn, topic_name)
        assert Relay(conn, None, settings=settings).position == 0


def test_an_undecodable_row_stops_its_partition_over_kafka_too(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("before", "C-1"))
    broken = written.commit(written.recharge("broken", "C-1"))
    written.commit(written.recharge("behind", "C-1"))
    with connect_to(database_url) as conn:
        conn.execute("ALTER TABLE ledger.stored_events DISABLE TRIGGER USER")
        conn.execute(
            "UPDATE ledger.stored_events SET state = "
            """'{"book_id":"main","operation_id":"x","legs":[{"account":"C-1"}]}' """
            "WHERE notification_id = %s",
            (broken,),
        )
    relay_all(database_url, kafka_bootstrap, topic_name)

    with kafka_consumer(database_url, kafka_bootstrap, topic_name) as consumer:
        wait_until(
            lambda: (
                consumer.step(0.05) and any(lane.stopped for lane in select_lanes(consumer.conn))
            ),
            "the lane has stopped",
        )
        assert list(statuses(database_url)) == ["before"]
        written.decide(
            lambda made: made.set_aside("log", 0, broken, b"?", reason="broken", maker="olga")
        )
        relay_all(database_url, kafka_bootstrap, topic_name)
        catch_up(consumer)

    assert sorted(statuses(database_url)) == ["before", "behind"]
