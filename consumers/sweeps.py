"""The sweep as it is run: slice by slice, recorded, healed if asked, by command or by schedule.

One sweep runs at a time, under an advisory lock that ends with the connection. Invariant: a
slice's findings and what was healed of it are recorded in the transactions that heal it and
that pass over it, so that a sweep killed anywhere is gone on with and counts nothing twice.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
import psycopg
import structlog
from psycopg import Connection

from consumers.completeness import EVERYTHING, POSITIONS_PER_SLICE, Comparison, Selection, compare
from consumers.consumer import DeliverInTx, never
from consumers.healing import heal, incarnation_of
from consumers.lost_decisions import heal_decisions
from consumers.lost_results import Lost, select_lost, select_lost_open, slices_with_lost
from consumers.renumbering import Healing, Renumbered
from consumers.results import insert_outbox_in_tx
from ledger.errors import LogCorrupt
from ledger.priority import server_goes_after_postings
from ledger.statuses import apply_results_in_tx
from projections.positions import LanesChanged, select_head, select_visible
from projections.sweeps import (
    Difference,
    Sweep,
    Swept,
    add_swept_in_tx,
    begin_sweep,
    finish_sweep,
    select_clock,
    select_finished,
    select_scheduled,
)
from projections.tables import connect_to

HEALABLE = ("missing", "unmet")
SWEEP_LOCK = 1_145_393_490
LOCK = "SELECT pg_advisory_lock(%s)"
TRY_LOCK = "SELECT pg_try_advisory_lock(%s)"
UNLOCK = "SELECT pg_advisory_unlock(%s)"
LOOK_S_MAX = 30.0
FULL_EVERY_S = 86_400.0

log = structlog.get_logger("consumers.sweeps")


class SweeperSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a scheduled sweeper needs to know; in between full sweeps only what is new."""

    database_url: str
    bus: Literal["log", "kafka"] = "log"
    interval_s: float = 300.0
    full_every_s: float = FULL_EVERY_S
    retry_pause_s_max: float = 5.0


class SweepCounts(msgspec.Struct):
    """What a scheduled sweeper did since it started."""

    sweeps: int = 0
    operations: int = 0
    found: int = 0
    healed: int = 0
    results_resent: int = 0

    def add(self, sweep: Sweep) -> None:
        """Count a finished sweep."""
        self.sweeps += 1
        self.operations += sweep.operations
        self.found += sweep.found
        self.healed += sweep.healed
        self.results_resent += sweep.results_resent


class Stopped(Exception):
    """The sweep was asked to stop between two slices; the next one goes on from there."""


class Sweeper:
    """Runs sweeps on two connections, half of each slice on either (or all of it on one).

    `deliver_in_tx` says results to the ledger; None: nothing is healed or sent, only counted.
    """

    def __init__(
        self,
        conn: Connection[Any],
        *,
        deliver_in_tx: DeliverInTx | None,
        beside: Connection[Any] | None = None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        stop: threading.Event | None = None,
        failpoint: Callable[[str], None] = never,
    ) -> None:
        self.conn = conn
        self._beside = beside
        self._deliver_in_tx = deliver_in_tx
        self._progress = progress
        self._stop = stop or threading.Event()
        self._failpoint = failpoint
        for each in filter(None, (conn, beside)):
            server_goes_after_postings(each)

    def by_command(
        self, *, after: int = 0, through: int | None = None, selection: Selection = EVERYTHING
    ) -> Sweep:
        """Sweep a stretch now (default: the whole log); waits for a sweep that runs."""
        with _only_sweep(self.conn, wait=True):
            head = select_head(self.conn)
            end = head if through is None else min(through, head)
            begun = begin_sweep(
                self.conn,
                "command",
                incarnation=incarnation_of(self.conn),
                span=(after, max(after, end)),
                book_id=selection.book_id,
                business_date=selection.business_date,
            )
            return self._run(begun, selection, (after, min(end, select_visible(self.conn))))

    def by_schedule(self, *, interval_s: float, full_every_s: float = FULL_EVERY_S) -> Sweep | None:
        """Sweep what is new, or all of it when a full sweep is due; go on with one that was cut.

        None when none is due, or another process sweeps.
        """
        with _only_sweep(self.conn, wait=False) as alone:
            if not alone or due_in_s(self.conn, interval_s) > 0:
                return None
            incarnation = incarnation_of(self.conn)
            before = select_finished(self.conn, incarnation)
            full = select_finished(self.conn, incarnation, full=True)
            if full is None or _age_s(self.conn, full) >= full_every_s:
                before_results = 0
                after = 0
            else:
                assert before is not None
                before_results, after = before.results_through, before.through
            told = 0 if before is None else before.through  # what came since is still on its way
            last = select_scheduled(self.conn)
            if last is None or last.finished_at is not None or last.incarnation != incarnation:
                span = (after, max(after, select_visible(self.conn)))
                last = begin_sweep(
                    self.conn,
                    "schedule",
                    incarnation=incarnation,
                    span=span,
                    results_through=before_results,
                )
            return self._run(last, EVERYTHING, (last.results_through, told))

    def _run(self, begun: Sweep, selection: Selection, results: tuple[int, int]) -> Sweep:
        self._failpoint("begun")
        after, total = begun.reached, begun.through - begun.after
        while after < begun.through:
            until = min(begun.through, after + POSITIONS_PER_SLICE)
            compared = compare(self.conn, after, until, selection=selection, beside=self._beside)
            self._failpoint("compared")
            healed, left = self._healed(begun, compared)
            self._record(begun, until, compared, healed, left)
            self._failpoint("recorded")
            self._progress(until - begun.after, total)
            after = until
            if self._stop.is_set():
                raise Stopped
        told = self._resend(begun, *results)
        finished = finish_sweep(self.conn, begun.sweep_id, told)
        _say(finished)
        return finished

    def _healed(self, begun: Sweep, compared: Comparison) -> tuple[set[int], dict[int, str]]:
        """Heal what can be; each transaction records what it heals.

        Return the positions, and those that are left with the reason.
        """
        deliver_in_tx = self._deliver_in_tx
        if deliver_in_tx is None or not (compared.missing or compared.unmet):
            return set(), {}
        named = {each.position: each for each in compared.differences}
        healed: set[int] = set()

        def record_in_tx(
            conn: Connection[Any], positions: Sequence[int], renumbered: Sequence[Renumbered]
        ) -> None:
            moved = {each.book_id: _renumbered_words(each) for each in renumbered}
            done = [_as_healed(named[at], moved) for at in positions]
            swept = Swept(found=len(done), healed=len(done), differences=tuple(done))
            add_swept_in_tx(conn, begun.sweep_id, swept)
            healed.update(positions)

        healing = Healing(begun.incarnation, deliver_in_tx, record_in_tx, self._failpoint)
        left = heal(self.conn, compared.missing, healing)
        heal_decisions(self.conn, compared.unmet, healing)
        return healed, left

    def _record(
        self,
        begun: Sweep,
        until: int,
        compared: Comparison,
        healed: set[int],
        left: Mapping[int, str],
    ) -> None:
        rest: list[Difference] = [
            _as_left(each, left.get(each.position))
            for each in compared.differences
            if not (each.kind in HEALABLE and each.position in healed)
        ]
        swept = Swept(
            reached=until,
            operations=compared.operations,
            waiting=compared.waiting,
            found=len(rest),
            differences=tuple(rest),
        )
        with self.conn.transaction():
            add_swept_in_tx(self.conn, begun.sweep_id, swept)

    def _resend(self, begun: Sweep, after: int, through: int) -> int:
        """Send results that the ledger does not know; return up to where it knows all."""
        known = max(after, through)
        self._resend_slice(begun, lambda: select_lost_open(self.conn, after, through))
        for start, until in slices_with_lost(self.conn, after, through):
            lost = self._resend_slice(
                begun,
                lambda start=start, until=until: select_lost(self.conn, start, until),  # type: ignore[misc]
            )
            if lost:
                known = min(known, lost[0].position - 1)
        return known

    def _resend_slice(self, begun: Sweep, select: Callable[[], list[Lost]]) -> list[Lost]:
        with self.conn.transaction():
            lost = select()
            if lost:
                sent = 0
                if self._deliver_in_tx is not None:
                    self._deliver_in_tx(self.conn, [each.result for each in lost])
                    sent = len(lost)
                swept = Swept(results_lost=len(lost), results_resent=sent)
                add_swept_in_tx(self.conn, begun.sweep_id, swept)
                self._failpoint("resent")
        return lost


def run_sweeper(
    settings: SweeperSettings,
    stop: threading.Event,
    *,
    failpoint: Callable[[str], None] = never,
    counts: SweepCounts | None = None,
) -> None:
    """Sweep and heal by schedule until stopped; failures of infrastructure are retried.

    `counts` (shared with metrics) grows as it goes.
    """
    pause_s = 0.1
    while not stop.is_set():
        try:
            stop.wait(_sweep_when_due(settings, stop, failpoint, counts or SweepCounts()))
            pause_s = 0.1
        except Stopped:
            break
        except LanesChanged as change:
            log.warning("lanes_changed", detail=str(change))
            stop.wait(pause_s)
        except (psycopg.Error, OSError, LogCorrupt) as error:
            log.error("sweep_failed", error=str(error), retry_s=pause_s)
            stop.wait(pause_s)
            pause_s = min(pause_s * 2, settings.retry_pause_s_max)


def deliver_on(bus: str) -> DeliverInTx:
    """Return how results travel on a bus: at once, or by the outbox."""
    return insert_outbox_in_tx if bus == "kafka" else apply_results_in_tx


def due_in_s(conn: Connection[Any], interval_s: float) -> float:
    """Say in how many seconds the next scheduled sweep is due; one that was cut is due now."""
    last = select_scheduled(conn)
    if last is None or last.finished_at is None:
        return 0.0
    return min(interval_s, max(0.0, interval_s - _age_s(conn, last)))


def _sweep_when_due(
    settings: SweeperSettings,
    stop: threading.Event,
    failpoint: Callable[[str], None],
    counts: SweepCounts,
) -> float:
    """Sweep if it is time; return after how many seconds to look again."""
    with connect_to(settings.database_url) as conn:
        if due_in_s(conn, settings.interval_s) == 0:
            with connect_to(settings.database_url) as beside:
                sweeper = Sweeper(
                    conn,
                    deliver_in_tx=deliver_on(settings.bus),
                    beside=beside,
                    stop=stop,
                    failpoint=failpoint,
                )
                finished = sweeper.by_schedule(
                    interval_s=settings.interval_s, full_every_s=settings.full_every_s
                )
                if finished is not None:
                    counts.add(finished)
        return min(max(due_in_s(conn, settings.interval_s), 0.05), LOOK_S_MAX)


@contextmanager
def _only_sweep(conn: Connection[Any], *, wait: bool) -> Iterator[bool]:
    """Hold the sweeps' lock; gives False when another has it and `wait` is off."""
    row = conn.execute(LOCK if wait else TRY_LOCK, (SWEEP_LOCK,)).fetchone()
    alone = wait or bool(row and row[0])
    try:
        yield alone
    finally:
        if alone and not conn.closed:
            conn.execute(UNLOCK, (SWEEP_LOCK,))


def _age_s(conn: Connection[Any], sweep: Sweep) -> float:
    age: dt.timedelta = select_clock(conn) - sweep.started_at
    return age.total_seconds()


def _renumbered_words(renumbered: Renumbered) -> str:
    return (
        f"healed behind a cut: {renumbered.moved} later vouchers, from {renumbered.from_date} on, "
        "have other numbers now"
    )


def _as_healed(difference: Difference, renumbered: Mapping[str, str]) -> Difference:
    """Say that a difference is healed, and what in its book had to be numbered anew for that."""
    words = renumbered.get(difference.book_id)
    if difference.kind == "unmet":  # of an order, which has no book of its own here
        words = next(iter(renumbered.values()), None)
    detail = difference.detail if words is None else f"{difference.detail}; {words}"
    return msgspec.structs.replace(difference, healed=True, detail=detail)


def _as_left(difference: Difference, words: str | None) -> Difference:
    """Say why a missing one was left alone, if it was."""
    if words is None or difference.kind != "missing":
        return difference
    return msgspec.structs.replace(difference, detail=f"{difference.detail}; {words}")


def _say(sweep: Sweep) -> None:
    """Raise the alarm when something was found: each difference on a line of its own."""
    facts = {
        "sweep_id": sweep.sweep_id,
        "trigger": sweep.trigger,
        "through": sweep.through,
        "operations": sweep.operations,
        "results_resent": sweep.results_resent,
    }
    if not sweep.found:
        worth_a_line = sweep.trigger == "schedule" and sweep.operations
        (log.info if worth_a_line else log.debug)("sweep_complete", **facts)
        return
    for each in sweep.differences:
        log.error(
            "operation_differs",
            kind=each.kind,
            position=each.position,
            book_id=each.book_id,
            operation_id=each.operation_id,
            detail=each.detail,
            healed=each.healed,
        )
    log.error("sweep_found_differences", found=sweep.found, healed=sweep.healed, **facts)
