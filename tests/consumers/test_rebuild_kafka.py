"""Books from the topic alone, and the topic from the store alone, on a real broker."""

from __future__ import annotations

import psycopg
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from consumers.rebuild import rebuild
from consumers.rebuild_rows import RebuildRefused, Topic
from infra.kafka.topics import delete_topics
from infra.relay import Fenced, RelayRefused, republish, select_relay
from projections.positions import select_head, select_lanes
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
from tests.consumers.test_buses import a_day
from tests.consumers.test_outcomes import identity_of
from tests.consumers.test_rebuild_beside import a_history_with_every_decision
from tests.consumers.written_log import WrittenLog
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka


def forget_the_operations(database_url: str) -> None:
    """Leave nothing of any operation in the store but its place."""
    with psycopg.connect(database_url) as conn:
        conn.execute("ALTER TABLE ledger.stored_events DISABLE TRIGGER USER")
        conn.execute(
            "UPDATE ledger.stored_events SET state = '{}' "
            "WHERE topic = 'ledger.recorded:OperationBooked'"
        )


def test_books_are_rebuilt_from_the_topic_alone_without_any_row_of_the_store(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_day(WrittenLog(database_url))
    relay_all(database_url, kafka_bootstrap, topic_name)
    with connect_to(database_url) as conn:
        republish(conn, topic_name, from_position=40)
    relay_all(database_url, kafka_bootstrap, topic_name)  # a part of it stands there twice
    consume_kafka(database_url, kafka_bootstrap, topic_name)
    before = books(database_url, lanes=True)
    forget_the_operations(database_url)

    report = rebuild(database_url, topic=Topic(kafka_bootstrap, topic_name))

    assert report.difference is None
    assert report.swapped
    assert report.operations == 82
    assert books(database_url, lanes=True) == before


def test_every_kind_of_decision_comes_by_the_topic_too(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_history_with_every_decision(WrittenLog(database_url))
    consume_log(database_url)
    relay_all(database_url, kafka_bootstrap, topic_name)
    before = books(database_url, lanes=True)

    report = rebuild(database_url, topic=Topic(kafka_bootstrap, topic_name))

    assert report.difference is None
    assert report.swapped
    assert books(database_url, lanes=True) == before


def test_a_topic_that_has_lost_its_beginning_or_is_behind_is_refused(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    topic = Topic(kafka_bootstrap, topic_name, silence_s=0.5)
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url)
    before = books(database_url)
    with pytest.raises(RebuildRefused, match="is not there: rebuild from the log"):
        rebuild(database_url, topic=topic)
    relay_all(database_url, kafka_bootstrap, topic_name)
    lost = written.commit(written.recharge("late"))
    consume_log(database_url)
    with pytest.raises(RebuildRefused, match=f"the books stand at {lost}: start the relay"):
        rebuild(database_url, topic=topic)

    relay_all(database_url, kafka_bootstrap, topic_name)
    lose_the_beginning(kafka_bootstrap, topic_name)

    with pytest.raises(RebuildRefused, match=r"has lost its beginning: positions 1 to \d+ are not"):
        rebuild(database_url, topic=topic)
    assert statuses(database_url).pop("late") == ("vouchered", None)
    assert books(database_url)["rulesets"] == before["rulesets"]
    assert rebuild(database_url).difference is None  # the log has everything


def topics_of(bootstrap: str) -> set[str]:
    """What the broker has."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
    try:
        return set(admin.list_topics())
    finally:
        admin.close()


def lose_the_beginning(bootstrap: str, topic: str) -> None:
    """Delete all but the last message of each partition, as retention would."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","))
    admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
    try:
        places = [TopicPartition(topic, each) for each in consumer.partitions_for_topic(topic)]
        ends = consumer.end_offsets(places)
        admin.delete_records({place: end - 1 for place, end in ends.items()})
    finally:
        admin.close()
        consumer.close()


def test_a_lost_topic_is_published_again_and_everything_is_vouchered_once(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    relay_all(database_url, kafka_bootstrap, topic_name)
    consume_kafka(database_url, kafka_bootstrap, topic_name)
    before = books(database_url)
    written.commit(written.recharge("unsent", "C-3"))

    with connect_to(database_url) as conn:
        delete_topics(kafka_bootstrap, (topic_name, f"{topic_name}.results"))
        wait_until(lambda: topic_name not in topics_of(kafka_bootstrap), "the topic is gone")
        was = select_relay(conn, topic_name)
        assert republish(conn, topic_name)
        now = select_relay(conn, topic_name)
        assert was is not None
        assert now is not None
        assert (now.position, now.epoch) == (0, was.epoch + 1)
    written.commit(written.recharge("after", "C-4"))
    relay_all(database_url, kafka_bootstrap, topic_name)
    with kafka_consumer(database_url, kafka_bootstrap, topic_name) as consumer:
        catch_up(consumer)
        written.commit(written.recharge("live", "C-5"))
        relay_all(database_url, kafka_bootstrap, topic_name)
        catch_up(consumer)
        heads = {lane.position for lane in select_lanes(consumer.conn)}
        assert heads == {select_head(consumer.conn)}

    found = statuses(database_url)
    assert {found.pop(each) for each in ("unsent", "after", "live")} == {("vouchered", None)}
    assert len(found) == len(before["outcomes"])
    with connect_to(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM vouchers").fetchone() == (48,)
    assert identity_of(database_url).holds
    whole = rebuild(database_url, topic=Topic(kafka_bootstrap, topic_name))
    assert whole.difference is None  # the topic holds the log from its beginning again


def test_an_active_relay_is_fenced_by_a_republication_and_sends_nothing_more(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    with connect_to(database_url) as conn:
        assert not republish(conn, topic_name)
        with active_relay(database_url, kafka_bootstrap, topic_name) as relay:
            while relay.step():
                pass
            with pytest.raises(RelayRefused, match="before"):
                republish(conn, topic_name, from_position=select_head(conn) + 1)
            republish(conn, topic_name)
            written.commit(written.recharge("one"))
            with pytest.raises(Fenced, match=r"epoch 1 of .* is over"):
                relay.step()
        state = select_relay(conn, topic_name)
        assert state is not None
        assert state.position == 0
