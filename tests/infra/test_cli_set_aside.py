"""`daybook set-aside`: a lane that stands before a message nobody can read goes on by command."""

from __future__ import annotations

import base64
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import structlog
from kafka import KafkaProducer

from consumers.loop import ConsumerSettings, run_consumer
from consumers.set_aside import Place, place_of, select_standing
from infra.cli.exit_codes import ExitCode
from ledger.books import open_book
from ledger.principals import create_key
from projections.tables import connect_to
from tests.consumers.caught_up import relay_all, statuses
from tests.consumers.written_log import BOOK, DAY, WrittenLog
from tests.infra.commands import Daybook, in_this_process
from tests.waiting import wait_until

FOREIGN = b'{"hello":1}'


@pytest.fixture
def operator(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Daybook:
    """Run commands as olga, whose key may repair, against this test's database."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        monkeypatch.setenv("DAYBOOK_KEY", create_key(conn, "olga", ["repair"]))
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", database_url)
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    return in_this_process(capsys)


@contextmanager
def consuming(settings: ConsumerSettings) -> Iterator[None]:
    """A live consumer beside the block; what it logs is kept out of the commands' output."""
    stop = threading.Event()
    thread = threading.Thread(target=run_consumer, args=(settings, stop))
    with structlog.testing.capture_logs():
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)


def standing(database_url: str) -> list[Place | None]:
    """The messages before which lanes stand."""
    with connect_to(database_url) as conn:
        return [each.place for each in select_standing(conn)]


def broken_row(database_url: str, written: WrittenLog) -> int:
    """A row of the log that nobody can read, and one behind it."""
    broken = written.commit(written.recharge("broken"))
    written.commit(written.recharge("behind"))
    with psycopg.connect(database_url) as conn:
        conn.execute("ALTER TABLE ledger.stored_events DISABLE TRIGGER USER")
        conn.execute(
            "UPDATE ledger.stored_events SET state = '{}' WHERE notification_id = %s", (broken,)
        )
    return broken


def test_on_the_log_bus_the_lane_goes_on_and_the_bytes_are_kept(
    database_url: str, operator: Daybook
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        open_book(conn, BOOK, "Main", dt.date.fromisoformat(DAY), principal="alice")
    written = WrittenLog(database_url)
    written.publish()
    broken = broken_row(database_url, written)
    assert operator("set-aside", "--reason", "nothing stands yet").code == ExitCode.OK

    with consuming(ConsumerSettings(database_url=database_url)):
        wait_until(lambda: standing(database_url), "the lane stands")
        done = operator("set-aside", "--reason", "broken by hand")
        assert done.code == ExitCode.OK, done.err
        assert f"log/0/{broken}" in done.out
        assert "the lane has moved on" in done.err
        wait_until(lambda: "behind" in statuses(database_url), "what is behind is posted")
        place = ("--topic", "log", "--partition", "0", "--offset", str(broken))
        assert "set aside before" in operator("set-aside", *place, "--reason", "again").out
        wait_until(lambda: operator("repair", "set-asides", "--json").json, "it is in the list")

    (kept,) = operator("repair", "set-asides", "--json").json
    assert base64.b64decode(kept["raw"]) == b"{}"
    assert (kept["maker"], kept["reason"], kept["at_offset"]) == ("olga", "broken by hand", broken)
    listed = operator("repair", "list")
    assert listed.code == ExitCode.OK  # nothing is parked: a message waits for nobody
    assert "Messages set aside" in listed.out


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_message_is_not_set_aside_without_a_reason(
    database_url: str, operator: Daybook, reason: str
) -> None:
    place = ("--topic", "log", "--partition", "0", "--offset", "1")
    refused = operator("set-aside", *place, "--reason", reason)
    assert (refused.code, "say why" in refused.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("--topic", "log", "--partition", "0", "--offset", "1"), "readable"),
        (("--topic", "log", "--partition", "0", "--offset", "999"), "not_found"),
        (("--topic", "log", "--partition", "0"), "or none of them"),
    ],
)
def test_what_can_be_read_or_is_not_there_is_never_passed_over(
    database_url: str, operator: Daybook, place: tuple[str, ...], words: str
) -> None:
    WrittenLog(database_url).publish()

    refused = operator("set-aside", *place, "--reason", "impatience")

    assert refused.code in (ExitCode.REFUSED, ExitCode.USAGE)
    assert words in refused.err
    with psycopg.connect(database_url) as conn:
        row = conn.execute("SELECT count(*) FROM ledger.stored_events").fetchone()
    assert row == (2,)


def test_a_key_without_the_scope_sets_nothing_aside(
    database_url: str, operator: Daybook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        monkeypatch.setenv("DAYBOOK_KEY", create_key(conn, "reader", ["read"]))
    refused = operator("set-aside", "--reason", "curiosity")
    assert refused.code == ExitCode.REFUSED
    assert "not_permitted" in refused.err


def test_a_key_for_one_book_sets_nothing_aside(
    database_url: str, operator: Daybook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message belongs to no book. Over HTTP it was refused, here it was not."""
    written = WrittenLog(database_url)
    written.publish()
    broken = broken_row(database_url, written)
    with psycopg.connect(database_url, autocommit=True) as conn:
        monkeypatch.setenv("DAYBOOK_KEY", create_key(conn, "olga", ["repair"], "main"))
    place = ("--topic", "log", "--partition", "0", "--offset", str(broken))

    refused = operator("set-aside", *place, "--reason", "broken by hand")

    assert refused.code == ExitCode.REFUSED
    assert "not_permitted" in refused.err
    assert operator("repair", "set-asides", "--json").json == []


@pytest.mark.kafka
def test_on_kafka_a_foreign_message_is_set_aside_lane_by_lane(
    database_url: str,
    operator: Daybook,
    kafka_bootstrap: str,
    topic_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAYBOOK_KAFKA_BOOTSTRAP", kafka_bootstrap)
    written = WrittenLog(database_url)
    written.publish()
    relay_all(database_url, kafka_bootstrap, topic_name)
    sent = {0: send(kafka_bootstrap, topic_name, 0), 2: send(kafka_bootstrap, topic_name, 2)}
    written.commit(*(written.recharge(f"r-{number}", f"C-{number}") for number in range(9)))
    relay_all(database_url, kafka_bootstrap, topic_name)
    settings = ConsumerSettings(
        database_url=database_url,
        bus="kafka",
        bootstrap=kafka_bootstrap,
        operations_topic=topic_name,
        results_topic=f"{topic_name}.results",
        group=f"{topic_name}.group",
    )

    with consuming(settings):
        wait_until(lambda: len(standing(database_url)) == 2, "two lanes stand")
        several = operator("set-aside", "--reason", "which")
        assert several.code == ExitCode.USAGE
        assert "name one of the lanes" in several.err
        for lane in (0, 2):
            done = operator("set-aside", str(lane), "--reason", "a test message", "--json")
            assert done.code == ExitCode.OK, done.err
            assert (done.json["at_offset"], done.json["moved_on"]) == (sent[lane], True)
        wait_until(lambda: len(statuses(database_url)) == 9, "everything is posted")
        relay_all(database_url, kafka_bootstrap, topic_name)
        wait_until(kept_by(operator, 2), "both messages are kept")

    assert {status for status, _ in statuses(database_url).values()} == {"vouchered"}
    found = operator("repair", "set-asides", "--json").json
    assert [base64.b64decode(each["raw"]) for each in found] == [FOREIGN, FOREIGN]


def send(bootstrap: str, topic: str, partition: int) -> int:
    """Put a message of somebody else's into a partition; return its offset."""
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    offset = producer.send(topic, value=FOREIGN, partition=partition).get(timeout=30).offset
    producer.close()
    return int(offset)


def kept_by(operator: Daybook, count: int) -> Callable[[], bool]:
    """Whether so many messages are in the list."""
    return lambda: len(operator("repair", "set-asides", "--json").json) == count


@pytest.mark.parametrize(
    ("stopped", "place"),
    [
        ("ledger.operations/2/17: schema 9", Place("ledger.operations", 2, 17)),
        ("log/0/5: bad", Place("log", 0, 5)),
        ("position 99 is beyond the head 3 of this log", None),
        ("2 rows are missing in (1, 5]", None),
    ],
)
def test_a_place_is_read_out_of_why_a_lane_stands(stopped: str, place: Place | None) -> None:
    assert place_of(stopped) == place
