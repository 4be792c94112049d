"""One consumer: a database connection, a bus, and the rulesets met so far.

`step` takes the bus's polls and writes each into the books in one transaction with the
lane's position and the results. Invariant: a transaction writes only what lies between the
lane's position, read under its lock, and the position it moves to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog
from psycopg import Connection
from psycopg.errors import UniqueViolation

from accounting.decisions import LOG_TOPIC
from consumers.ahead import Ahead, Ready
from consumers.bisection import Refusals, write_bisecting
from consumers.bus import Bus, Poll, Stuck
from consumers.log_rows import select_published
from consumers.messages import (
    Booked,
    Decided,
    LogRow,
    Unreadable,
    lane_of,
    read_row,
)
from consumers.packed import pack_first
from consumers.posting import results_of
from consumers.resolution import perform_order_in_tx, sweep_waiters_in_tx
from consumers.set_aside import is_set_aside, words_of
from consumers.vouchers import Batch, Claim, batch_beyond, handle_in_tx, prepare
from ledger.errors import LogCorrupt
from ledger.hops import hops, now_ns, tell
from ledger.statuses import (
    STATUSES_KEY,
    AccountingResult,
    apply_results_in_tx,
    insert_results_in_tx,
)
from projections.outcomes import Outcome, claim_all_in_tx, claim_in_tx, exists_waiter
from projections.positions import (
    Lane,
    LanesChanged,
    LogName,
    assign_lanes,
    lock_lane_in_tx,
    move_lane_in_tx,
    select_head,
    select_lanes,
    select_log,
    stop_lane,
)
from projections.repair_orders import exists_due
from projections.rulesets import PublishedRulesets, load_rulesets

WAITER_SWEEP_S = 1.0
DUE_PER_STEP = 1  # an order, or a chunk of a cut: between two of them postings are handled
FILL_ROWS_MAX = 8_000
DeliverInTx = Callable[[Connection[Any], Sequence[AccountingResult]], object]
Messages = list[Booked | Decided]

log = structlog.get_logger("consumers.consumer")


class Counts(msgspec.Struct):
    """What a consumer did since it started."""

    polls: int = 0
    operations: int = 0
    outcomes: int = 0
    orders: int = 0
    woken: int = 0
    refused_by_database: int = 0
    filled_gaps: int = 0
    failures: int = 0


def never(point: str) -> None:
    """Stand for no failpoint: tests pass a function that raises at a named step."""


def tell_outcomes(outcomes: Sequence[Outcome], lane: int, began_ns: int) -> None:
    """Tell the consumer's hop: what each operation became, and why."""
    for each in outcomes:
        tell(
            "consumer",
            began_ns,
            each.book_id,
            each.operation_id,
            status=each.status,
            reason=each.reason,
            position=each.position,
            lane=lane,
            rule=each.rule_id,
        )


class Consumer:
    """Not thread-safe: one thread steps it. `deliver_in_tx` says results to the ledger."""

    def __init__(
        self,
        conn: Connection[Any],
        bus: Bus,
        *,
        deliver_in_tx: DeliverInTx,
        failpoint: Callable[[str], None] = never,
    ) -> None:
        self.conn = conn
        self.bus = bus
        self.counts = Counts()
        self._deliver_in_tx = deliver_in_tx
        self._failpoint = failpoint
        self._swept_at = 0.0
        self._head = 0
        self._last_lane = 0
        self._more_due = False
        # As it nearly always is: nothing was claimed, and its results were not said, before.
        self._all_free, self._all_unsaid = True, deliver_in_tx is apply_results_in_tx
        self._left_at: dict[int, int] = {}  # where this consumer left each lane
        self.log: LogName = select_log(conn)
        self.rulesets = PublishedRulesets()
        self._ahead = Ahead(bus, self.rulesets, with_results=self._all_unsaid)
        assign_lanes(conn, bus.lanes)
        self._incarnation = max(lane.incarnation for lane in select_lanes(conn))
        load_rulesets(conn, self.rulesets)

    def step(self, timeout_s: float = 0.0) -> bool:
        """Handle what the bus gives, then what has become due; tell whether there was any.

        Raises psycopg.Error and KafkaError of infrastructure (nothing is half done: call
        `bus.rewind` and step again), LanesChanged (make a new Consumer) and LogCorrupt.
        """
        ready = self._ahead.take(self._left_at.get(self._last_lane))
        if ready is not None:
            given: Sequence[Poll | Stuck] = (ready.poll,)
        else:
            given = self.bus.poll(0.0 if self._more_due else timeout_s)
        if given:
            self._failpoint("polled")
        stuck: set[int] = set()
        for each in given:
            if isinstance(each, Stuck):
                self._stand_before(each)
            elif each.lane not in stuck and not self._handle(each, ready):
                stuck.add(each.lane)
        return self.perform_due(DUE_PER_STEP) or bool(given)

    def perform_due(self, most: int | None = None) -> bool:
        """Perform repair orders and chunks of cuts that every lane has passed, `most` or all.

        Now and then sweep waiters.
        """
        performed = 0
        while (due := exists_due(self.conn)) and performed != most:
            outcomes = self._in_lane(perform_order_in_tx)
            if outcomes is None:
                due = False
                break
            performed += 1
            self.counts.orders += 1
        self._more_due = due
        now = time.monotonic()
        if now - self._swept_at >= WAITER_SWEEP_S:
            self._swept_at = now
            if exists_waiter(self.conn):
                woken = self._in_lane(sweep_waiters_in_tx) or []
                self.counts.woken += len(woken)
        return performed > 0

    def close(self) -> None:
        """End what is being made ahead; then the bus may be closed."""
        self._ahead.close()

    # --- a poll ----------------------------------------------------------------------

    def _handle(self, poll: Poll, ready: Ready | None = None) -> bool:
        """Write a poll into the books; False when its lane is stuck at an unreadable row."""
        self._last_lane = poll.lane
        self._refuse_ahead(poll)
        try:
            self._meet_lane(poll)
            self._ahead.begin(poll)
            if ready is not None:
                self._write(poll.lane, ready.messages, poll.through, ready.batch)
            else:
                self._write_rows(poll.lane, poll.rows, poll.through)
        except Unreadable as error:
            self._stand_before(Stuck(poll.lane, error))
            self.bus.rewind()
            return False
        self._left_at[poll.lane] = poll.through
        self._failpoint("committed")
        self.bus.acknowledge(poll)
        self.counts.polls += 1
        return True

    def _write_rows(self, lane: int, rows: Sequence[LogRow], through: int) -> None:
        """Decode and write; what comes before an unreadable row is written first."""
        messages: Messages = []
        for row in rows:
            try:
                messages.append(read_row(row))
            except Unreadable as error:
                if is_set_aside(self.conn, error):
                    continue
                if messages:
                    self._write(lane, messages, row.position - 1)
                raise error from error.__cause__
        self._write(lane, messages, through)

    def _write(
        self,
        lane: int,
        messages: Sequence[Booked | Decided],
        through: int,
        made: Batch | None = None,
    ) -> None:
        """Write messages in one transaction; a refusal by the database bisects them.

        `made` is the batch of them all, where it was made ahead.
        """

        def write_in_one(
            part: Sequence[Booked | Decided], until: int, refusals: Refusals | None
        ) -> None:
            nonlocal made
            batch, made = made or prepare(self.rulesets, part, refusals), None
            if not (self._all_free and self._write_free(lane, until, batch)):
                batch = prepare(self.rulesets, part, refusals)
                self._all_free = self._write_in_one(lane, until, batch)
            self.counts.refused_by_database += len(refusals or ())

        write_bisecting(write_in_one, messages, through)

    def _write_free(self, lane: int, through: int, batch: Batch) -> bool:
        """Write a batch that nobody knows yet; False, and nothing is written, if some of it is."""
        try:
            return self._write_in_one(lane, through, batch, free=True)
        except UniqueViolation as known:
            self._all_unsaid &= known.diag.constraint_name != STATUSES_KEY
            return False

    def _write_in_one(self, lane: int, through: int, batch: Batch, *, free: bool = False) -> bool:
        """Write a batch in one transaction; tell whether all of its operations were free."""
        began_ns = now_ns()
        with self.conn.transaction():
            at = self._lock_lane_in_tx(lane)
            if at.position >= through:
                return True
            batch = batch_beyond(batch, at.position)
            packed = batch.packed
            claim: Claim = claim_in_tx
            if free:
                claim = partial(claim_all_in_tx, packed=packed and packed.outcomes)
            outcomes = handle_in_tx(self.conn, self.rulesets, batch, lane, claim=claim)
            unsaid = len(batch.attempts) if free and self._all_unsaid else 0
            if unsaid:
                first = packed.results if packed else pack_first(outcomes[:unsaid])
                insert_results_in_tx(self.conn, first)
            if unsaid < len(outcomes):
                self._deliver_in_tx(self.conn, results_of(outcomes[unsaid:]))
            move_lane_in_tx(self.conn, at, through)
            self._failpoint("handled")
        self.counts.operations += len(batch.attempts)
        self.counts.outcomes += len(outcomes)
        if hops.on:
            self._tell(outcomes, lane, began_ns)
        return len(outcomes) >= len(batch.attempts)

    def _in_lane(
        self,
        change_in_tx: Callable[[Connection[Any], PublishedRulesets, int], list[Outcome] | None],
    ) -> list[Outcome] | None:
        """Change outcomes under a lane's lock, with their results."""
        began_ns = now_ns()
        with self.conn.transaction():
            at = self._lock_lane_in_tx(self._last_lane)
            outcomes = change_in_tx(self.conn, self.rulesets, at.lane)
            if outcomes:
                self._deliver_in_tx(self.conn, results_of(outcomes))
            self._failpoint("changed")
        if hops.on:
            self._tell(outcomes or (), at.lane, began_ns)
        return outcomes

    def _tell(self, outcomes: Sequence[Outcome], lane: int, began_ns: int) -> None:
        """Tell the hop, and on the log bus the results' too: they were said in the same commit."""
        tell_outcomes(outcomes, lane, began_ns)
        if self._deliver_in_tx is apply_results_in_tx:
            for each in outcomes:
                tell("results", began_ns, each.book_id, each.operation_id, status=each.status)

    def _lock_lane_in_tx(self, lane: int) -> Lane:
        at = lock_lane_in_tx(self.conn, lane, self.log)
        if at.incarnation != self._incarnation:
            raise LanesChanged(f"the books have incarnation {at.incarnation} now")
        return at

    # --- what should not happen --------------------------------------------------------

    def _refuse_ahead(self, poll: Poll) -> None:
        """Stop when a message speaks of positions that this log has not reached."""
        if poll.through > self._head:
            self._head = select_head(self.conn)
            if poll.through > self._head:
                raise LogCorrupt(
                    f"lane {poll.lane} is given position {poll.through}, the log ends at "
                    f"{self._head}: this database is older than the bus"
                )

    def _meet_lane(self, poll: Poll) -> None:
        """Learn what a lane met with another consumer, and what the bus has lost of it."""
        lanes = {row.lane: row for row in select_lanes(self.conn)}
        if poll.lane not in lanes:
            raise LanesChanged(f"lane {poll.lane} is gone")
        position = lanes[poll.lane].position
        if self._left_at.get(poll.lane) != position:
            load_rulesets(self.conn, self.rulesets)
        if poll.after > position:
            self._fill_gap(poll, position)

    def _fill_gap(self, poll: Poll, position: int) -> None:
        """Read from the store what the bus no longer has (retention, a message set aside)."""
        log.error("gap_filled", lane=poll.lane, after=position, through=poll.after)
        self.counts.filled_gaps += 1
        while position < poll.after:
            through = min(poll.after, position + FILL_ROWS_MAX)
            rows = select_published(self.conn, position, through)
            own = [row for row in rows if lane_of(row, self.bus.lanes) in (None, poll.lane)]
            self._write_rows(poll.lane, own, through)
            position = through

    def _stand_before(self, stuck: Stuck) -> None:
        """Stop the lane loudly before a message, or pass over one that was set aside."""
        if stuck.error.topic != LOG_TOPIC and is_set_aside(self.conn, stuck.error):
            self.bus.skip(stuck)
            return
        words = words_of(stuck.error)
        log.error("lane_stopped", lane=stuck.lane, error=words)
        stop_lane(self.conn, stuck.lane, words)
        self.bus.hold(stuck)
