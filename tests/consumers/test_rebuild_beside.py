"""A long log is rebuilt by processes beside each other; the books are those of the log in order."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psycopg
import pytest

from accounting.decisions import GivenLine
from consumers.comparison import first_difference
from consumers.rebuild import rebuild
from consumers.shadow import Shadow
from consumers.stretch_processes import StretchFailed, StretchProcesses
from projections.positions import select_visible
from projections.tables import LIVE_SCHEMA, SHADOW_SCHEMA, connect_to
from tests.consumers.caught_up import books, consume_log, statuses
from tests.consumers.test_order import a_random_history
from tests.consumers.test_outcomes import payment, refund_of, rules_without
from tests.consumers.written_log import BOOK, DAY, WrittenLog

LINES = [
    GivenLine("debit", "2001.01", "CNY", 500, "C-1"),
    GivenLine("credit", "2002.01", "CNY", 490, "M-1"),
    GivenLine("credit", "5001.01", "CNY", 10),
]


def a_history_with_every_decision(written: WrittenLog) -> None:
    """A repair, an override, a row set aside, waiters in a chain, refunds of what is final."""
    written.publish(rules_without("payment"))
    written.commit(payment(written, "over"), payment(written, "late"))  # type: ignore[arg-type]
    written.commit(refund_of(written, "f-late", "late"))  # type: ignore[arg-type]
    written.commit(refund_of(written, "f-f-late", "f-late"))  # type: ignore[arg-type]
    broken = written.commit(written.recharge("broken"))
    with psycopg.connect(written.database_url) as conn:
        conn.execute("ALTER TABLE ledger.stored_events DISABLE TRIGGER USER")
        conn.execute(
            "UPDATE ledger.stored_events SET state = '{}' WHERE notification_id = %s", (broken,)
        )
    written.decide(lambda made: made.set_aside("log", 0, broken, b"{}", reason="?", maker="olga"))
    given = {"accounting_date": DAY, "maker": "alice"}
    override = written.decide(lambda made: made.propose_override(BOOK, "over", LINES, **given))
    written.decide(lambda made: made.approve_override(override, checker="bob"))
    written.commit(refund_of(written, "f-over", "over"))  # type: ignore[arg-type]
    written.publish()
    written.decide(lambda made: made.request_repair(BOOK, ["late"], maker="alice"))
    for number in range(30):
        written.commit(
            written.recharge(f"r-{number}", f"C-{number % 5}", fee_minor=60),
            refund_of(written, f"f-r-{number}", f"r-{number}"),  # type: ignore[arg-type]
        )
    written.commit(refund_of(written, "f-of-old", "r-1"))  # type: ignore[arg-type]
    written.commit(refund_of(written, "f-of-none", "nobody"))  # type: ignore[arg-type]


def test_every_kind_of_decision_gives_the_same_books_beside_each_other(database_url: str) -> None:
    a_history_with_every_decision(WrittenLog(database_url))
    consume_log(database_url)
    before = books(database_url, lanes=True)
    assert statuses(database_url)["over"] == ("vouchered", None)
    assert statuses(database_url)["f-f-late"] == ("vouchered", None)
    assert statuses(database_url)["f-of-none"] == ("waiting", "behind_original")

    report = rebuild(database_url, processes=2, rows_per_stretch=13)

    assert report.difference is None
    assert report.swapped
    assert report.operations == len(before["outcomes"])
    assert books(database_url, lanes=True) == before


@pytest.mark.parametrize("seed", range(20, 26))
def test_a_random_history_gives_the_same_books_beside_each_other(
    database_url: str, seed: int
) -> None:
    chance = random.Random(seed)
    a_random_history(WrittenLog(database_url), chance)
    consume_log(database_url, operations_max=chance.randint(1, 30))

    report = rebuild(database_url, processes=2, rows_per_stretch=chance.randint(5, 60))

    assert report.difference is None
    assert report.swapped


def test_what_names_an_original_of_another_stretch_is_left_to_the_processes_too(
    database_url: str,
) -> None:
    """A tenth of the log were refunds that one ordinary handler made alone, slower by far."""
    written = WrittenLog(database_url)
    written.publish()
    written.commit(*(written.recharge(f"r-{number}") for number in range(20)))
    for prefix, of in (("f-", "r-"), ("f-f-", "f-r-")):
        refunds = [refund_of(written, f"{prefix}{of}{n}", f"{of}{n}") for n in range(20)]
        written.commit(*refunds)  # type: ignore[arg-type]
    consume_log(database_url)
    steps: set[str] = set()

    report = rebuild(
        database_url,
        processes=2,
        rows_per_stretch=7,
        progress=lambda step, _done, _total: steps.add(step),
    )

    assert report.difference is None
    assert report.operations == 60
    assert "what depends" in steps
    assert "what waits" not in steps


def test_what_the_database_refuses_in_a_stretch_is_parked_alone(database_url: str) -> None:
    poison = "ALTER TABLE {}.voucher_lines ADD CONSTRAINT no_poison CHECK (account <> 'C-POISON')"
    written = WrittenLog(database_url)
    written.publish()
    with connect_to(database_url) as live, connect_to(database_url) as conn:
        live.execute(poison.format(LIVE_SCHEMA).encode())
        written.commit(*(written.recharge(f"r-{number}") for number in range(5)))
        written.commit(written.recharge("guilty", "C-POISON"), written.recharge("beside"))
        written.commit(*(written.recharge(f"s-{number}") for number in range(5)))
        consume_log(database_url)
        assert statuses(database_url)["guilty"] == ("parked", "refused_by_database")

        shadow = Shadow(conn)
        conn.execute(poison.format(SHADOW_SCHEMA).encode())
        with StretchProcesses(database_url, 2, rows_per_stretch=9) as processes:
            shadow.fill_beside(processes, select_visible(live), lambda *_: None)

        assert shadow.operations == 12
        assert first_difference(live, LIVE_SCHEMA, SHADOW_SCHEMA) is None


def test_a_row_that_a_process_cannot_read_ends_the_rebuild_and_is_named(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))
    broken = written.commit(written.recharge("two"))
    consume_log(database_url)
    before = books(database_url)
    with psycopg.connect(database_url) as conn:
        conn.execute("ALTER TABLE ledger.stored_events DISABLE TRIGGER USER")
        conn.execute(
            "UPDATE ledger.stored_events SET state = '{}' WHERE notification_id = %s", (broken,)
        )

    with pytest.raises(StretchFailed, match=f"log/0/{broken}: "):
        rebuild(database_url, processes=2, rows_per_stretch=2)

    assert books(database_url) == before


def test_a_process_that_dies_ends_the_rebuild_and_the_others_with_it(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(*(written.recharge(f"r-{number}") for number in range(40)))
    consume_log(database_url)
    before = books(database_url)
    forked: list[int] = []

    def kill_one(step: str, _done: int, _total: int) -> None:
        if step == "filling" and not forked:
            forked.extend(each for child in children(os.getpid()) for each in children(child))
            os.kill(forked[0], signal.SIGKILL)

    with pytest.raises(StretchFailed):
        rebuild(database_url, processes=2, rows_per_stretch=1, progress=kill_one)

    assert len(forked) == 2
    deadline = time.monotonic() + 20
    while (living := [pid for pid in forked if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not living
    assert books(database_url) == before


def children(pid: int) -> list[int]:
    """Name the processes that a rebuild of this or that process has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    return [one for one in found if b"consumers.stretches" in command_of(one)]


def command_of(pid: int) -> bytes:
    """Read a process's command line; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet has no command line."""
    return bool(command_of(pid))
