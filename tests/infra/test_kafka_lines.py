"""While a broker is away the library's errors are one line a kind, and counted when it is over."""

from __future__ import annotations

import logging
import time

from kafka import KafkaProducer

from infra.demo.system import free_port
from infra.kafka_lines import OutageLines, kind_of
from tests.waiting import wait_until


class Kept(logging.Handler):
    """Keeps the lines that a filter lets through, as the process's own handler would write them."""

    def __init__(self, *filters: logging.Filter) -> None:
        super().__init__()
        self.lines: list[str] = []
        for each in filters:
            self.addFilter(each)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(kind_of(record))


def record(words: str, *values: object, name: str = "kafka.net") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, words, values, None)


def test_each_kind_is_written_once_in_an_outage_and_again_in_the_next() -> None:
    now = [0.0]
    said: list[dict[str, int]] = []
    lines = OutageLines(said.append, quiet_s=3600, clock=lambda: now[0])
    cut = record("Connection failed: %s", "refused")
    other = record("Not authorized to commit to topics %s for group %s", "a", "b")
    assert [lines.filter(each) for each in (cut, cut, other, cut, other)] == [
        *(True, False, True, False, False)
    ]
    now[0] = 3599
    lines.look()
    assert said == []
    now[0] = 3601
    lines.look()
    assert said == [{kind_of(cut): 3, kind_of(other): 2}]
    assert lines.filter(cut)


def test_what_is_not_kafkas_is_never_held_back() -> None:
    lines = OutageLines(quiet_s=3600)
    assert all(lines.filter(record("Connection failed", name="psycopg.pool")) for _ in range(9))


def test_kinds_do_not_depend_on_values() -> None:
    one = record("Bootstrap attempt to 1 failed: NoBrokers (backoff 0.10 secs)")
    two = record("Bootstrap attempt to 2 failed: NoBrokers (backoff 1.07 secs)")
    other = record("Fatal Error handling request 'InitProducerId': denied")
    assert kind_of(one) == kind_of(two) != kind_of(other)


def test_a_client_without_its_broker_says_it_once_and_the_end_says_how_often() -> None:
    said: list[dict[str, int]] = []
    counted = Kept()
    kept = Kept(OutageLines(said.append, quiet_s=1.5))
    library = logging.getLogger("kafka")
    before = library.level
    library.addHandler(kept)
    library.addHandler(counted)
    library.setLevel(logging.ERROR)
    try:
        producer = KafkaProducer(
            bootstrap_servers=f"127.0.0.1:{free_port()}",
            reconnect_backoff_max_ms=100,
            max_block_ms=100,
            api_version=(3, 0),
        )
        time.sleep(0.5)
        wait_until(lambda: len(counted.lines) > 5, "the library tries again and again")
        producer.close(timeout=0)
        wait_until(lambda: said, "it is over")
    finally:
        library.removeHandler(kept)
        library.removeHandler(counted)
        library.setLevel(before)
    assert len(kept.lines) == len(set(kept.lines)) < len(counted.lines)
    assert sum(said[0].values()) == len(counted.lines)
