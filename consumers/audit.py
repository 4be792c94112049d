"""Audit the books: post the whole log again in memory and compare every row.

A `ledger.audit.Reader`: it gets each commit once the ledger has proved it, tries every
operation with the rulesets that were published below it, repeats repair orders and overrides
where the log has them, and compares stretch by stretch; what an operation leaves however it is
posted is `projections/audit_details.py`. Invariant: nothing is taken from the projections but
which orders have been performed and how far the lanes are.
Memory: operations that are or were parked or waiting, and the sums (`projections/audit_sums`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from psycopg import Connection

from accounting.decided import (
    Decision,
    OverrideApproved,
    RepairRequested,
    RulesetPublished,
    decode_decision,
)
from accounting.rules import Ruleset
from accounting.voucher import Voucher
from consumers.audit_decisions import decision_row
from consumers.messages import OPERATION_TOPIC, Booked, decode_posted
from consumers.posting import (
    Attempt,
    Refused,
    Settled,
    attempt,
    first_open,
    original_names,
    settle,
    settle_after,
    settle_waiting,
)
from consumers.resolution import (
    chart_below,
    overriding_voucher,
    refused_date,
    refused_override,
)
from ledger.audit_fold import AuditedEvent, Foreign, Proved
from ledger.audit_verdict import differ
from ledger.events import BookOpened, DayOpened, OperationBooked
from ledger.priority import GivesWay
from projections import audit as standing
from projections import audit_sums, audit_tables
from projections.audit_numbers import NUMBERS_CHECK, check_numbers
from projections.audit_sums import Sums
from projections.audit_tables import (
    DECISION_TABLES,
    DERIVED_TABLES,
    OUTCOMES,
    VOUCHER_LINES,
    VOUCHERS,
    Expected,
    Row,
    amounts_text,
    compare_rows,
    select_at,
    select_stretch,
)
from projections.outcomes import FINAL, WAITING, OperationName, Outcome, read_amounts
from projections.parked_reasons import OVERRIDE_REFUSED, REFUSED_BY_DATABASE
from projections.periods import remember
from projections.repair_orders import GivenVoucher
from projections.rulesets import PublishedRulesets

OPERATIONS_PER_COMPARE = 5_000
POSITIONS_PER_COMPARE = 50_000
POSITIONS_PER_READ = 4_000
SELECT_PUBLISHED = """
    SELECT notification_id, uuid_send(originator_id), topic, state FROM ledger.stored_events
    WHERE notification_id > %s AND notification_id <= %s
      AND (topic IN ('ledger.recorded:OperationBooked', 'ledger.recorded:BookOpened',
                     'ledger.recorded:DayOpened')
           OR NOT starts_with(topic, 'ledger.recorded:'))
    ORDER BY notification_id
"""
TABLES = (*DECISION_TABLES, *DERIVED_TABLES)
DECIDED_KINDS = frozenset({Foreign, BookOpened, DayOpened})
FIRST, LAST = -(2**63), 2**63 - 1
DECISIONS_CHECK = "accounting decisions"
SELECT_PERFORMED = """
    SELECT position FROM repair_orders WHERE performed
    UNION ALL SELECT position FROM day_cuts WHERE performed
"""
SELECT_REFUSED = """
    SELECT position, detail FROM outcomes WHERE reason = 'refused_by_database'
"""
SELECT_ORDERED = """
    SELECT o.position, r.position FROM outcomes o
    JOIN repair_orders r ON r.position = o.attempt_position
    WHERE o.operation_id = ANY(r.operation_ids) AND o.book_id = r.book_id
"""
SELECT_WAITING = "SELECT position, waits_for FROM outcomes WHERE status = 'waiting'"


def read_published(conn: Connection[Any], books: Books, last_id: int) -> None:
    """Let the books read a log that is being proved elsewhere, in the same snapshot."""
    gives_way = GivesWay()
    for after in range(0, last_id, POSITIONS_PER_READ):
        through = min(after + POSITIONS_PER_READ, last_id)
        cursor = conn.execute(SELECT_PUBLISHED, (after, through), prepare=True, binary=True)
        books.read(
            through,
            ((position, stream, _event(topic, state)) for position, stream, topic, state in cursor),
        )
        gives_way.between()


def _event(topic: str, state: bytes) -> AuditedEvent:
    return decode_posted(state) if topic == OPERATION_TOPIC else Foreign(topic, state)


class _Open(msgspec.Struct):
    """An operation that was not final at once: what it is now, and its vouchers."""

    booked: Booked
    stream: bytes
    settled: Settled


class Books:
    """The books as the log makes them, compared with the books as they are stored."""

    checks: tuple[str, ...] = (
        standing.POSITIONS_CHECK,
        DECISIONS_CHECK,
        audit_tables.CHECK,
        standing.STATUSES_CHECK,
        audit_sums.TOTALS_CHECK,
        audit_sums.GL_CHECK,
        audit_sums.DAYS_CHECK,
        audit_sums.LANES_CHECK,
        NUMBERS_CHECK,
        standing.IDENTITY_CHECK,
        standing.CONTROLLED_CHECK,
    )

    def __init__(self) -> None:
        self.late_results = 0
        self._told_so_far = 0
        self._last_id = 0
        self._rulesets = PublishedRulesets()
        self._latest: dict[str, Ruleset] = {}
        self._sums = Sums()
        self._unposted = standing.Unposted()
        self._open: dict[OperationName, _Open] = {}
        self._unseen: set[OperationName] = set()
        self._changed_at: dict[OperationName, int] = {}
        self._late: list[_Open] = []
        self._late_positions: set[int] = set()  # of those, and of the orders that change them
        self._compared_to = FIRST
        self._operations = 0
        self._fresh()

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what is no difference but worth knowing."""
        if not self.late_results:
            return ()
        return (f"{self.late_results} results are on their way to the ledger",)

    def start(self, conn: Connection[Any]) -> None:
        """Read how far the books are, in the audit's snapshot."""
        conn.execute(standing.USE_BOOKS)
        self._conn = conn
        self._standing = standing.read_standing(conn)
        ordered: dict[int, int] = dict(conn.execute(SELECT_ORDERED).fetchall())
        self._ordered = set(ordered)
        # An order that decided an outcome has been performed, whatever its row says.
        self._performed = {row[0] for row in conn.execute(SELECT_PERFORMED)}
        self._performed.update(ordered.values())
        self._refused: dict[int, str] = dict(conn.execute(SELECT_REFUSED).fetchall())
        # Between several lanes a wake-up can be missed until the next sweep.
        waiting = conn.execute(SELECT_WAITING) if self._standing.lanes > 1 else ()
        self._asleep: dict[int, str] = dict(waiting)

    def read(self, through: int, events: Iterable[Proved]) -> None:
        """Post operations and decisions up to a position; compare when a stretch is full."""
        for position, stream, event in events:
            if isinstance(event, OperationBooked):
                self._post(Booked(position, event), stream)
            elif type(event) in DECIDED_KINDS:
                self._decide(position, event)  # type: ignore[arg-type]
        self._last_id = through
        full = self._operations >= OPERATIONS_PER_COMPARE
        if full or through - max(self._compared_to, 0) >= POSITIONS_PER_COMPARE:
            self._compare_stretch(through)

    def finish(self) -> None:
        """Compare the rest, what changed afterwards, and what adds up."""
        conn, sums, unposted = self._conn, self._sums, self._unposted
        standing.check_positions(conn, self._last_id)
        self._compare_stretch(LAST)
        self._compare_late()
        standing.check_no_stray_status(conn, self._told_so_far)
        sums.compare(conn)
        standing.check_identity(conn, sums.totals, unposted.unseen)
        check_numbers(conn)
        standing.check_controlled(conn, self._latest, sums.gl, unposted.by_subject)

    # --- operations -----------------------------------------------------------------------

    def _post(self, booked: Booked, stream: bytes) -> None:
        """Try an operation as the handler does, and remember which rows that makes."""
        position, operation = booked.position, booked.operation
        if not self._standing.is_in_the_books(position):
            self._unposted.add_unseen(operation)
            self._unseen.add((operation.book_id, operation.operation_id))
            return
        self._operations += 1
        self._sums.add_operation(operation)
        settled = self._settled(booked)
        if settled.outcome.status in FINAL:
            self._expect_outcome(stream, settled)
            return
        entry = _Open(booked, stream, settled)
        self._open[settled.outcome.name] = entry
        self._late.append(entry)
        self._late_positions.add(position)

    def _settled(self, booked: Booked) -> Settled:
        position, operation = booked.position, booked.operation
        if operation.original_operation_id is None:
            settled = settle(attempt(self._rulesets, booked), position)
        else:
            settled = self._settled_behind(booked)
        at = settled.outcome.attempt_position
        was_refused = position in self._refused or position in self._ordered
        if was_refused and settled.outcome.status in FINAL:
            detail = self._refused.get(position, "")
            refused = Refused(REFUSED_BY_DATABASE, detail)
            return settle(Attempt(booked, settled.outcome.ruleset_position, refused), at)
        return settled

    def _settled_behind(self, booked: Booked) -> Settled:
        """Settle an operation as its originals stand at this place of the log."""
        final = self._final_originals(booked)
        if booked.position in self._asleep and first_open(booked, final) is None:
            return settle_waiting(booked, booked.operation.originals[-1])
        return settle_after(self._rulesets, booked, final)

    def _final_originals(self, booked: Booked) -> dict[OperationName, int]:
        return {
            name: self._changed_at.get(name, 0)
            for name in original_names(booked)
            if name not in self._open and name not in self._unseen
        }

    def _expect_outcome(self, stream: bytes, settled: Settled) -> None:
        outcome = settled.outcome
        amounts = read_amounts(outcome.amounts)
        self._outcomes.append(_outcome_row(outcome, amounts_text(amounts)))
        self._told.append(standing.status_row(stream, outcome))
        self._sums.add_outcome(outcome.book_id, outcome.status, amounts)
        for voucher in settled.vouchers:
            self._sums.add_voucher(voucher)
            self._expect_voucher(settled.source_position, voucher)

    def _expect_voucher(self, position: int, voucher: Voucher) -> None:
        ordinal = voucher.ordinal
        self._vouchers.append(
            (
                position,
                ordinal,
                voucher.book_id,
                voucher.source_id,
                voucher.accounting_date,
                voucher.business_type,
                voucher.rule_id,
                voucher.ruleset_hash,
                voucher.corrects,
                voucher.business_date,
            )
        )
        self._lines += [
            (
                position,
                ordinal,
                line.line_no,
                line.side,
                line.subject,
                line.currency,
                line.amount_minor,
                line.account,
                line.off_balance,
            )
            for line in voucher.lines
        ]

    # --- decisions ------------------------------------------------------------------------

    def _decide(self, position: int, row: Foreign | BookOpened | DayOpened) -> None:
        """Repeat a decision: rulesets are remembered, orders performed if they have been."""
        if isinstance(row, BookOpened | DayOpened):
            self._meet(position, row)
            return
        try:
            decision = decode_decision(row.topic, row.state)
        except (KeyError, msgspec.MsgspecError) as error:
            key = {"notification_id": position}
            differ(DECISIONS_CHECK, "ledger.stored_events", key, "state", row.topic, str(error))
        self._meet(position, decision)

    def _meet(self, position: int, decision: Decision) -> None:
        kept = decision_row(position, decision, performed=position in self._performed)
        if kept is not None:
            table, row = kept
            self._expected[table].append(row)
        remember(self._rulesets.calendar, position, decision)
        if isinstance(decision, RulesetPublished):
            self._rulesets.add_published(position, decision)
            self._latest[decision.book_id] = Ruleset.from_document(decision.document)
        elif isinstance(decision, RepairRequested | OverrideApproved):
            self._late_positions.add(position)
            if position in self._performed:
                self._perform(position, decision)

    def _perform(self, position: int, order: RepairRequested | OverrideApproved) -> None:
        """Perform an order as the consumers do once every lane has passed it."""
        ids = order.operation_ids if isinstance(order, RepairRequested) else (order.operation_id,)
        named = [self._open[order.book_id, i] for i in ids if (order.book_id, i) in self._open]
        resolved: dict[OperationName, int] = {}
        for entry in sorted(named, key=lambda entry: entry.booked.position):
            before = entry.settled.outcome
            waits_for = (before.book_id, before.waits_for or "")
            if isinstance(order, RepairRequested) and before.status == WAITING:
                final = self._final_originals(entry.booked)
                if waits_for not in resolved or first_open(entry.booked, final) is not None:
                    continue
            self._change(entry, _settled_by(position, order, self._rulesets, entry.booked))
            after = entry.settled.outcome
            if after.status in FINAL:
                resolved[after.name] = after.attempt_position
        self._wake(resolved)

    def _wake(self, resolved: dict[OperationName, int]) -> None:
        """Try again what waits for operations that became final, and what waits for those."""
        frontier = resolved
        while frontier:
            following: dict[OperationName, int] = {}
            for entry in list(self._open.values()):
                waiter = entry.settled.outcome
                original = (waiter.book_id, waiter.waits_for or "")
                if waiter.status != WAITING or original not in frontier:
                    continue
                self._change(entry, self._settled_behind(entry.booked))
                after = entry.settled.outcome
                if after.status in FINAL:
                    following[after.name] = after.attempt_position
            frontier = following

    def _change(self, entry: _Open, settled: Settled) -> None:
        entry.settled = settled
        outcome = settled.outcome
        if outcome.status in FINAL:
            del self._open[outcome.name]
            self._changed_at[outcome.name] = outcome.attempt_position

    # --- comparing ------------------------------------------------------------------------

    def _fresh(self) -> None:
        """Start the next stretch with nothing expected."""
        self._expected: Expected = {table.name: [] for table in TABLES}
        self._outcomes = self._expected[OUTCOMES.name]
        self._vouchers = self._expected[VOUCHERS.name]
        self._lines = self._expected[VOUCHER_LINES.name]
        self._told: list[standing.StatusRow] = []
        self._operations = 0

    def _compare_stretch(self, through: int) -> None:
        """Compare the rows whose source is in the stretch; what was ever open comes last."""
        after = self._compared_to
        late = self._late_positions
        for table in TABLES:
            found = select_stretch(self._conn, table, after, through)
            expected = self._expected[table.name]
            if table in DECISION_TABLES:
                expected = _without_unseen(expected, found, self._standing.visible)
            elif late:
                found = [row for row in found if row[table.at] not in late]
            compare_rows(table, expected, found)
        self._compare_statuses()
        self._compared_to = through
        self._fresh()

    def _compare_late(self) -> None:
        """Compare what was parked or waiting at first, in the state the log leaves it in."""
        self._fresh()
        for entry in self._late:
            self._let_sleep(entry)
            self._expect_outcome(entry.stream, entry.settled)
            if entry.settled.outcome.status not in FINAL:
                self._unposted.add(entry.booked.operation)
        for table in DERIVED_TABLES:
            found = select_at(self._conn, table, self._late_positions)
            compare_rows(table, self._expected[table.name], found)
        self._compare_statuses()

    def _let_sleep(self, entry: _Open) -> None:
        """Let one whose wake-up was missed wait for an original that is final by now."""
        booked, waits_for = entry.booked, self._asleep.get(entry.booked.position)
        originals = booked.operation.originals
        if waits_for not in originals or entry.settled.outcome.status != WAITING:
            return
        now = entry.settled.outcome.waits_for or ""
        if originals.index(waits_for) < originals.index(now):
            entry.settled = settle_waiting(booked, waits_for)

    def _compare_statuses(self) -> None:
        self.late_results += standing.compare_statuses(
            self._conn, self._told, results_travel=self._standing.results_travel
        )
        self._told_so_far += len(self._told)


def _settled_by(
    position: int,
    order: RepairRequested | OverrideApproved,
    rulesets: PublishedRulesets,
    booked: Booked,
) -> Settled:
    """Settle an operation by an order, as `consumers/resolution.py` does."""
    if isinstance(order, RepairRequested):
        tried = attempt(rulesets, booked, below=position, ruleset_hash=order.ruleset_hash)
        return settle(tried, position)
    given = GivenVoucher(order.accounting_date, order.lines)
    chart = chart_below(rulesets, booked.operation, position)
    refusal = refused_override(given, booked.operation, chart) or refused_date(
        rulesets, given, booked.operation, position
    )
    if refusal is not None:
        return settle(Attempt(booked, None, Refused(OVERRIDE_REFUSED, refusal)), position)
    voucher = overriding_voucher(order.book_id, position, given, booked.operation)
    settled = settle(Attempt(booked, None, (voucher,)), position)
    return Settled(settled.outcome, settled.vouchers, position)


def _outcome_row(outcome: Outcome, amounts: str) -> Row:
    return (
        outcome.book_id,
        outcome.operation_id,
        outcome.position,
        outcome.business_type,
        outcome.business_date,
        outcome.status,
        outcome.reason,
        outcome.detail,
        outcome.rule_id,
        outcome.ruleset_position,
        outcome.attempt_position,
        outcome.depends_on,
        outcome.waits_for,
        amounts,
    )


def _without_unseen(expected: list[Row], found: list[Row], visible: int) -> list[Row]:
    """Expect no decision beyond the visible position unless a faster lane has brought it."""
    there = {row[0] for row in found}
    return [row for row in expected if row[0] <= visible or row[0] in there]
