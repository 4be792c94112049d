"""A retry of thousands is killed midway and run again, by two people at once: each once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from consumers.loop import ConsumerSettings, run_consumer
from consumers.rebuild import rebuild
from ledger.principals import create_key
from projections.repair_orders import exists_due
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log, log_consumer, statuses
from tests.consumers.test_outcomes import identity_of, payment, rules_without
from tests.consumers.written_log import WrittenLog
from tests.ledger.booking import open_test_book
from tests.waiting import wait_until

OPERATIONS = 2_500  # three orders
COUNT_ORDERS = """
    SELECT count(*) FROM ledger.stored_events
    WHERE topic = 'accounting.decisions:RepairOrder.Requested'
"""


def orders(database_url: str) -> int:
    """How many orders are in the log."""
    with psycopg.connect(database_url) as conn:
        row = conn.execute(COUNT_ORDERS).fetchone()
    return int(row[0]) if row else 0


def begin_retry(database_url: str, home: Path) -> subprocess.Popen[str]:
    """Start `daybook repair retry` as a process of its own."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        key = create_key(conn, "olga", ["repair"])
    given = {"DAYBOOK_DATABASE_URL": database_url, "DAYBOOK_HOME": str(home), "DAYBOOK_KEY": key}
    return subprocess.Popen(
        [sys.executable, "-m", "infra", "repair", "retry", "--note", "rule added"],
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_retry_killed_midway_is_resumed_beside_another_and_everything_is_repaired_once(
    database_url: str, tmp_path: Path
) -> None:
    # given thousands parked, their rule published since
    open_test_book(database_url)
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(*(payment(written, f"p-{number}") for number in range(OPERATIONS)))
    consume_log(database_url)
    written.publish()

    # when the retry is killed after one order is performed and a second one written
    killed = begin_retry(database_url, tmp_path)
    with log_consumer(database_url) as consumer:
        wait_until(lambda: orders(database_url) == 1, "the first order is in the log")
        while consumer.step() or exists_due(consumer.conn):
            pass
        wait_until(lambda: orders(database_url) == 2, "the second one follows")
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=60)
    done = sum(status == "vouchered" for status, _ in statuses(database_url).values())
    assert done == 1_000

    # and run again, twice at once, beside a live consumer and fresh postings
    stop = threading.Event()
    settings = ConsumerSettings(database_url=database_url)
    live = threading.Thread(target=run_consumer, args=(settings, stop))
    live.start()
    try:
        again = [begin_retry(database_url, tmp_path) for _ in range(2)]
        last = written.commit(*(written.recharge(f"r-{number}") for number in range(50)))
        said = [process.communicate(timeout=300) for process in again]
        wait_until(lambda: identity_of(database_url).position >= last, "the books have come")
    finally:
        stop.set()
        live.join(60)

    # then everything is repaired, each once, and a rebuild repeats it
    assert [process.returncode for process in again] == [0, 0], said
    found = statuses(database_url)
    assert len(found) == OPERATIONS + 50
    assert set(found.values()) == {("vouchered", None)}
    with connect_to(database_url) as conn:
        vouchers = conn.execute("SELECT count(*), count(DISTINCT source_id) FROM vouchers")
        assert vouchers.fetchone() == (OPERATIONS + 50, OPERATIONS + 50)
        makers = conn.execute("SELECT DISTINCT maker, note, performed FROM repair_orders")
        assert makers.fetchall() == [("olga", "rule added", True)]
    assert identity_of(database_url).holds
    assert rebuild(database_url).difference is None
