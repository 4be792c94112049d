"""Sweeps heal what is missing by the live handler, record it, and go on after any end."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from consumers.completeness import Selection, sweep
from consumers.rebuild import rebuild
from consumers.results import insert_outbox_in_tx
from consumers.sweeps import SWEEP_LOCK, Sweeper, SweeperSettings, run_sweeper
from ledger.statuses import apply_results_in_tx
from projections.sweeps import Sweep, select_sweep_totals, select_sweeps
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log, statuses
from tests.consumers.lossy_books import consume_losing, tell_repairs
from tests.consumers.test_completeness import broken, passed_over, two_recharges
from tests.consumers.test_order import a_random_history, override
from tests.consumers.test_outcomes import identity_of, payment, refund_of, rules_without
from tests.consumers.written_log import BOOK, DAY, WrittenLog
from tests.waiting import wait_until

SELECT_TOLD = "SELECT operation_id, status FROM ledger.accounting_statuses ORDER BY operation_id"


@contextmanager
def sweeper(database_url: str, **more: Any) -> Iterator[Sweeper]:
    """A sweeper that heals, on the log bus unless told otherwise."""
    given = {"deliver_in_tx": apply_results_in_tx, **more}
    with connect_to(database_url) as conn, connect_to(database_url) as beside:
        yield Sweeper(conn, beside=beside, **given)


def healed(database_url: str, **more: Any) -> Sweep:
    """Sweep everything by command, with healing."""
    with sweeper(database_url, **more) as each:
        return each.by_command()


def by_schedule(database_url: str, *, interval_s: float = 0.0, **more: Any) -> Sweep | None:
    """Sweep by schedule, as the process does."""
    full_every_s = more.pop("full_every_s", 3600.0)
    with sweeper(database_url, **more) as each:
        return each.by_schedule(interval_s=interval_s, full_every_s=full_every_s)


def recorded(database_url: str) -> tuple[Sweep, ...]:
    """The sweeps on record, the last one first."""
    with connect_to(database_url) as conn:
        return select_sweeps(conn, BOOK).items


def told(database_url: str) -> dict[str, str]:
    """The accounting statuses that the ledger knows."""
    with connect_to(database_url) as conn:
        return dict(conn.execute(SELECT_TOLD).fetchall())


def one_lost_between(database_url: str) -> WrittenLog:
    """Operations `one`, `lost` (nobody handled it) and `after` it."""
    written = two_recharges(database_url)
    written.commit(written.recharge("lost"))
    passed_over(database_url)
    written.commit(written.recharge("after"))
    consume_log(database_url)
    return written


def test_whatever_was_lost_the_healed_books_are_those_of_a_rebuild(
    database_url: str, subtests: pytest.Subtests
) -> None:
    """Repairs, overrides and wake-ups that passed while it was missing are made up for."""
    names = tell_repairs(WrittenLog(database_url))
    consume_log(database_url)
    assert rebuild(database_url, swap=False).difference is None
    whole = books(database_url)
    losses: list[tuple[str, ...]] = [(name,) for name in names]
    losses += [*itertools.combinations(("p-1", "f-1", "f-2", "f-3", "w-2"), 2)]
    losses += [("p-3", "w-1", "w-2"), tuple(names)]
    for lost in losses:
        with subtests.test(lost=lost):
            consume_losing(database_url, lost)
            report = healed(database_url)
            assert report.found == report.healed > 0
            assert books(database_url) == whole
            with connect_to(database_url) as conn:
                assert sweep(conn).is_complete
            expected = {name: status for name, (status, _) in statuses(database_url).items()}
            assert told(database_url) == expected


@pytest.mark.parametrize("seed", [31, 32, 237])
def test_whatever_a_random_history_lost_the_healed_books_are_those_of_the_log(
    database_url: str, seed: int
) -> None:
    """Operations that follow several others find each of them final where the log made it so."""
    chance = random.Random(seed)
    ids = a_random_history(WrittenLog(database_url), chance, pages=0.0)
    consume_log(database_url)
    whole = books(database_url)
    for _ in range(3):
        lost = chance.sample(ids, chance.randint(1, len(ids) // 2))
        consume_losing(database_url, lost)
        assert healed(database_url).healed == len(lost)
        found = books(database_url)
        for table, rows in whole.items():
            assert found[table] == rows, (table, lost)


@pytest.mark.parametrize("seed", [501, 508])
def test_what_an_override_of_its_follower_has_overtaken_is_left_for_a_rebuild(
    database_url: str, seed: int
) -> None:
    """Among random overrides: the books are healed to those of the log, or name what they lack."""
    chance = random.Random(seed)
    ids = a_random_history(WrittenLog(database_url), chance, pages=0.0, overrides=0.35)
    consume_log(database_url)
    whole = books(database_url)
    while True:
        lost = chance.sample(ids, chance.randint(1, len(ids) // 2))
        consume_losing(database_url, lost)
        left = [each for each in healed(database_url).differences if not each.healed]
        if left:
            break
        assert books(database_url) == whole, lost
    assert {each.kind for each in left} == {"missing"}
    assert all("was overridden at" in each.detail for each in left)
    rebuild(database_url, compare=False)
    assert books(database_url) == whole


def test_an_original_is_missing_while_its_follower_is_overridden(database_url: str) -> None:
    """By the log the refund was vouchered at once, and the override found it so: with the payment
    healed it would stand by the override, and by its rule in a rebuild."""
    written = WrittenLog(database_url)
    written.publish()
    lost = payment(written, "p-1")
    follower = refund_of(written, "f-1", "p-1")
    written.commit(lost, follower, payment(written, "p-2"))
    override(written, follower, random.Random(1))
    consume_log(database_url)
    whole = books(database_url)
    consume_losing(database_url, ("p-1", "p-2"))
    assert statuses(database_url)["f-1"] == ("vouchered", None), "by the override"

    first, again = healed(database_url), healed(database_url)

    named = {each.operation_id: each.healed for each in first.differences}
    assert named == {"p-1": False, "p-2": True}, "the others are healed"
    (difference,) = again.differences
    assert (difference.operation_id, difference.healed) == ("p-1", False)
    assert "f-1, which follows it, was overridden at" in difference.detail
    assert rebuild(database_url).difference is not None, "not swapped before somebody has looked"
    rebuild(database_url, compare=False)
    assert books(database_url) == whole
    assert healed(database_url).found == 0


def test_a_healed_operation_is_named_on_the_record_and_counted(database_url: str) -> None:
    one_lost_between(database_url)

    report = healed(database_url)

    assert (report.found, report.healed, report.operations) == (1, 1, 4)
    (difference,) = report.differences
    assert (difference.operation_id, difference.kind, difference.healed) == (
        "lost",
        "missing",
        True,
    )
    assert recorded(database_url) == (report,)
    with connect_to(database_url) as conn:
        totals = select_sweep_totals(conn)
    assert (totals.found, totals.healed, totals.finished_at) == (1, 1, report.finished_at)


def test_a_decision_that_was_lost_is_said_again_until_the_books_are_rebuilt(
    database_url: str,
) -> None:
    """To keep it now would not mend what was handled without it."""
    tell_repairs(WrittenLog(database_url))
    consume_losing(database_url, ("RulesetPublished",))

    for _ in range(2):
        report = healed(database_url)
        assert [each.kind for each in report.differences] == ["unmet", "unmet"]
        assert (report.found, report.healed) == (2, 0)
    rebuild(database_url, compare=False)

    assert healed(database_url).found == 0


def test_what_differs_is_named_and_left_alone(database_url: str) -> None:
    two_recharges(database_url)
    broken(database_url, "UPDATE outcomes SET amounts = '{\"CNY\":1}' WHERE position = 4")
    before = books(database_url)

    report = healed(database_url)

    assert (report.found, report.healed) == (1, 0)
    assert not report.is_complete
    assert books(database_url) == before


def test_an_operation_with_vouchers_and_no_outcome_is_not_posted_again(database_url: str) -> None:
    two_recharges(database_url)
    broken(database_url, "DELETE FROM outcomes WHERE position = 4")
    before = books(database_url)

    report = healed(database_url)

    assert (report.found, report.healed) == (1, 0)
    assert books(database_url) == before


def test_a_sweep_that_does_not_heal_writes_nothing_but_its_record(database_url: str) -> None:
    one_lost_between(database_url)
    before = books(database_url)

    report = healed(database_url, deliver_in_tx=None)

    assert (report.found, report.healed, report.results_resent) == (1, 0, 0)
    assert books(database_url) == before
    assert "lost" not in told(database_url)


def test_an_original_that_was_missing_wakes_what_waits_for_it(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    consume_log(database_url)
    written.commit(payment(written, "p-1"))
    passed_over(database_url)
    written.commit(refund_of(written, "f-1", "p-1"))
    consume_log(database_url)
    assert statuses(database_url)["f-1"] == ("waiting", "behind_original")

    healed(database_url)

    assert statuses(database_url) == {"p-1": ("vouchered", None), "f-1": ("vouchered", None)}
    assert told(database_url) == {"p-1": "vouchered", "f-1": "vouchered"}


def test_a_missing_refund_of_a_parked_payment_waits(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    consume_log(database_url)
    written.commit(refund_of(written, "f-1", "p-1"))
    passed_over(database_url)

    healed(database_url)

    assert statuses(database_url)["f-1"] == ("waiting", "behind_original")


def test_on_kafka_the_result_of_what_is_healed_goes_by_the_outbox(database_url: str) -> None:
    one_lost_between(database_url)

    report = healed(database_url, deliver_in_tx=insert_outbox_in_tx)

    assert report.healed == 1
    with connect_to(database_url) as conn:
        (payload,) = conn.execute("SELECT payload FROM ledger.results_outbox").fetchone() or (b"",)
    assert b'"lost","status":"vouchered"' in bytes(payload).replace(b'"operation_id":', b"")


def test_books_swapped_since_they_were_compared_are_not_healed(database_url: str) -> None:
    one_lost_between(database_url)

    def swap(point: str) -> None:
        if point == "compared":
            rebuild(database_url, compare=False)

    settings = SweeperSettings(database_url=database_url, interval_s=0.1)
    stop = threading.Event()
    thread = threading.Thread(
        target=run_sweeper, args=(settings, stop), kwargs={"failpoint": once(swap)}
    )
    thread.start()
    try:
        wait_until(
            lambda: any(s.finished_at for s in recorded(database_url)), "the new ones are swept"
        )
    finally:
        stop.set()
        thread.join(timeout=60)

    assert sum(each.healed for each in recorded(database_url)) == 0
    assert rebuild(database_url, swap=False).difference is None


def once(act: Callable[[str], None]) -> Callable[[str], None]:
    """Do it at the first point that is `compared`, then never again."""
    done: list[str] = []

    def reach(point: str) -> None:
        if point == "compared" and not done:
            done.append(point)
            act(point)

    return reach


@pytest.mark.parametrize("step", ["begun", "compared", "healed", "recorded", "resent"])
def test_a_scheduled_sweep_killed_anywhere_leaves_nothing_half_done_and_is_gone_on_with(
    database_url: str, step: str
) -> None:
    written = one_lost_between(database_url)
    by_schedule(database_url)
    written.commit(written.recharge("lost too", "C-5"))
    passed_over(database_url)
    with connect_to(database_url) as conn:
        conn.execute("DELETE FROM ledger.accounting_statuses WHERE operation_id = 'two'")

    command = [sys.executable, "-m", "tests.consumers.killed_sweep", database_url, step]
    killed = subprocess.run(command, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not others_of(database_url), "its sessions have ended")
    cut_off = recorded(database_url)[0]
    assert cut_off.finished_at is None
    assert cut_off.healed == cut_off.found == ("lost too" in statuses(database_url))

    again = by_schedule(database_url)

    assert again is not None
    assert again.sweep_id == cut_off.sweep_id
    assert (again.found, again.healed, again.operations) == (1, 1, 1)
    assert again.results_resent == 1
    assert told(database_url).keys() == statuses(database_url).keys()
    assert rebuild(database_url, swap=False).difference is None


def others_of(database_url: str) -> list[int]:
    """The server's processes that serve others in this database."""
    with connect_to(database_url) as conn:
        rows = conn.execute(
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return [pid for (pid,) in rows]


def test_a_scheduled_sweep_reads_only_what_is_new_until_a_full_one_is_due(
    database_url: str,
) -> None:
    written = two_recharges(database_url)
    first = by_schedule(database_url)
    written.commit(written.recharge("three"))
    consume_log(database_url)
    second = by_schedule(database_url)
    full = by_schedule(database_url, full_every_s=0.0)

    assert first is not None
    assert second is not None
    assert full is not None
    assert (first.after, first.operations) == (0, 2)
    assert (second.after, second.operations) == (first.through, 1)
    assert (full.after, full.operations) == (0, 3)


def test_after_a_rebuild_the_new_books_are_swept_from_the_start(database_url: str) -> None:
    two_recharges(database_url)
    by_schedule(database_url)
    rebuild(database_url)

    again = by_schedule(database_url)

    assert again is not None
    assert (again.after, again.operations) == (0, 2)


def test_a_sweep_is_not_due_before_its_time(database_url: str) -> None:
    two_recharges(database_url)

    assert by_schedule(database_url, interval_s=3600) is not None
    assert by_schedule(database_url, interval_s=3600) is None


def test_two_sweepers_at_once_do_not_sweep_twice(database_url: str) -> None:
    one_lost_between(database_url)
    with connect_to(database_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (SWEEP_LOCK,))
        assert by_schedule(database_url) is None
        assert recorded(database_url) == ()
    report = by_schedule(database_url)
    assert report is not None
    assert report.healed == 1


def test_many_sweepers_beside_a_live_consumer_heal_each_loss_once(database_url: str) -> None:
    written = one_lost_between(database_url)
    settings = SweeperSettings(database_url=database_url, interval_s=0.05)
    stop = threading.Event()
    threads = [threading.Thread(target=run_sweeper, args=(settings, stop)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(5):
        written.commit(written.recharge(f"more-{number}"))
        consume_log(database_url)
        written.commit(written.recharge(f"gone-{number}"))
        passed_over(database_url)
        wait_until(lambda: f"gone-{number}" in statuses(database_url), "it is healed")  # noqa: B023
    stop.set()
    for thread in threads:
        thread.join(timeout=60)

    with connect_to(database_url) as conn:
        assert select_sweep_totals(conn).healed == 6
    assert rebuild(database_url, swap=False).difference is None
    assert identity_of(database_url).holds


def test_a_sweeper_asked_to_stop_stops_between_slices_and_the_next_one_goes_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.sweeps.POSITIONS_PER_SLICE", 3)
    two_recharges(database_url)
    stop = threading.Event()
    settings = SweeperSettings(database_url=database_url)
    run_sweeper(settings, stop, failpoint=lambda point: stop.set() if point == "compared" else None)
    (cut,) = recorded(database_url)
    assert (cut.reached, cut.finished_at) == (3, None)

    again = by_schedule(database_url)

    assert again is not None
    assert (again.sweep_id, again.operations) == (cut.sweep_id, 2)


def test_a_day_of_one_book_is_swept_and_healed(database_url: str) -> None:
    one_lost_between(database_url)
    with sweeper(database_url) as each:
        other = each.by_command(selection=Selection(DAY, "other"))
        report = each.by_command(selection=Selection(DAY, BOOK))

    assert (other.operations, other.found) == (0, 0)
    assert (report.operations, report.found, report.healed) == (4, 1, 1)
    assert (report.book_id, report.business_date) == (BOOK, DAY)
