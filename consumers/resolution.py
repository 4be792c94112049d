"""Resolution: outcomes that change afterwards, because an original or a repair order came.

Three ways lead here: an original became final and wakes what waits for it; a sweep finds
waiters that were missed; a repair order is due, that is, every lane has passed it.
Invariant: what an operation becomes depends on positions in the log, never on which lane
was faster: a woken operation is tried with its own rules, decided at the greatest of its own
and its originals' positions; an ordered one with the rules published before the order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from accounting.chart import Chart
from accounting.decided import GivenLine
from accounting.voucher import Voucher, VoucherLine, currency_differences
from consumers.log_rows import select_operations
from consumers.messages import Booked
from consumers.posting import (
    Attempt,
    Refused,
    Settled,
    attempt,
    change_in_tx,
    final_names,
    final_originals,
    first_open,
    original_names,
    settle,
    settle_after,
)
from ledger.buffers import is_accepted
from ledger.events import MOVEMENT_KINDS, BookedLeg, OperationBooked
from ledger.money import AMOUNT_MAX
from ledger.stripes import is_striped
from projections.journal import decision_id_of
from projections.outcomes import (
    WAITING,
    OperationName,
    Outcome,
    Standing,
    lock_open_in_tx,
    lock_waiters_in_tx,
    select_missed,
    select_standings,
)
from projections.parked_reasons import OVERRIDE_REFUSED
from projections.periods import lock_due_cut_in_tx, perform_cut_in_tx
from projections.positions import select_visible
from projections.repair_orders import (
    GivenVoucher,
    RepairOrderRow,
    lock_due_order_in_tx,
    mark_performed_in_tx,
)
from projections.rulesets import PublishedRulesets, load_rulesets

Said = tuple[str, str, str, str, int]  # account, side, subject, currency, amount
OVERRIDE_RULE = "override"


def wake_in_tx(
    conn: Connection[Any],
    rulesets: PublishedRulesets,
    resolved: Mapping[OperationName, int],
    lane: int,
    *,
    late: bool = False,
) -> list[Outcome]:
    """Try again what waits for operations that became final, and what waits for those.

    One that has another original that is not final waits for that one from now on; when `late`,
    also for one that was final only later in the log than what it waited for.
    """
    changed: list[Outcome] = []
    frontier = dict(resolved)
    while frontier:
        waiters = lock_waiters_in_tx(conn, frontier)
        if not waiters:
            break
        load_rulesets(conn, rulesets)  # a waiter may have come by a lane that is ahead
        operations = select_operations(conn, (waiter.position for waiter in waiters))
        woken = [Booked(waiter.position, operations[waiter.position]) for waiter in waiters]
        standings = select_originals(conn, woken)
        changes = []
        for waiter, booked in zip(waiters, woken, strict=True):
            at = max(waiter.position, frontier[waiter.book_id, waiter.waits_for or ""])
            final = final_originals(booked, standings, through=at if late else None)
            changes.append((waiter, settle_after(rulesets, booked, final)))
        now = change_in_tx(conn, changes, lane)
        changed += now
        frontier = final_names(now)
    return changed


def sweep_waiters_in_tx(
    conn: Connection[Any], rulesets: PublishedRulesets, lane: int
) -> list[Outcome]:
    """Wake what waits for an operation that is final already: a wake-up can be missed."""
    return wake_in_tx(conn, rulesets, select_missed(conn), lane)


def perform_order_in_tx(
    conn: Connection[Any], rulesets: PublishedRulesets, lane: int
) -> list[Outcome] | None:
    """Perform the first due repair order, or a chunk of the first due cut; None when none is due.

    Every lane has passed the order, so each operation it names has its outcome. A retry that
    names a waiting operation tries it only if the last of its originals became final by the same
    order; an override needs no original: its lines are given.
    """
    visible = select_visible(conn)
    cut = lock_due_cut_in_tx(conn, visible)
    if cut is not None:
        load_rulesets(conn, rulesets)
        changed = sweep_waiters_in_tx(conn, rulesets, lane)
        perform_cut_in_tx(conn, cut)
        return changed
    order = lock_due_order_in_tx(conn, visible)
    if order is None:
        return None
    load_rulesets(conn, rulesets)
    changed = sweep_waiters_in_tx(conn, rulesets, lane)
    names = [(order.book_id, operation_id) for operation_id in order.operation_ids]
    changed += obey_in_tx(conn, rulesets, order, names, lane)
    mark_performed_in_tx(conn, order.position)
    return changed


def obey_in_tx(
    conn: Connection[Any],
    rulesets: PublishedRulesets,
    order: RepairOrderRow,
    names: Sequence[OperationName],
    lane: int,
    *,
    final: Mapping[OperationName, int] | None = None,
    late: bool = False,
) -> list[Outcome]:
    """Try these of an order's operations by it, and wake what waited for them.

    `final` are originals that the order has made final already, and where that was decided;
    `late`: what was decided beyond the order is not final yet.
    """
    named = lock_open_in_tx(conn, names, below=order.position)
    operations = select_operations(conn, (outcome.position for outcome in named))
    booked_too = [Booked(before.position, operations[before.position]) for before in named]
    standings = select_originals(conn, booked_too)
    resolved: dict[OperationName, int] = dict(final or {})
    changes: list[tuple[Outcome, Settled]] = []
    for before, booked in zip(named, booked_too, strict=True):
        if order.kind == "retry" and before.status == WAITING:
            earlier = final_originals(booked, standings, through=order.position - 1)
            if first_open(booked, earlier | resolved) is not None:
                continue
        settled = _settled_by(order, rulesets, booked)
        changes.append((before, settled))
        resolved |= final_names([settled.outcome])
    changed = change_in_tx(conn, changes, lane) if changes else []
    return changed + wake_in_tx(conn, rulesets, resolved, lane, late=late)


def select_originals(
    conn: Connection[Any], followers: Iterable[Booked]
) -> dict[OperationName, Standing]:
    """Read how everything stands that these operations follow."""
    names = {name for booked in followers for name in original_names(booked)}
    return select_standings(conn, sorted(names)) if names else {}


def _settled_by(order: RepairOrderRow, rulesets: PublishedRulesets, booked: Booked) -> Settled:
    if order.kind == "retry":
        tried = attempt(rulesets, booked, below=order.position, ruleset_hash=order.ruleset_hash)
        return settle(tried, order.position)
    given = msgspec.json.decode(order.given or "", type=GivenVoucher)
    chart = chart_below(rulesets, booked.operation, order.position)
    refusal = refused_override(given, booked.operation, chart) or refused_date(
        rulesets, given, booked.operation, order.position
    )
    if refusal is not None:
        return settle(Attempt(booked, None, Refused(OVERRIDE_REFUSED, refusal)), order.position)
    voucher = overriding_voucher(order.book_id, order.position, given, booked.operation)
    settled = settle(Attempt(booked, None, (voucher,)), order.position)
    return Settled(settled.outcome, settled.vouchers, order.position)


def overriding_voucher(
    book_id: str, position: int, given: GivenVoucher, operation: OperationBooked
) -> Voucher:
    """Make the voucher that an approved override says; its source is the decision."""
    source_id = decision_id_of(position)
    lines = tuple(
        VoucherLine(
            line_no,
            line.side,
            line.subject,
            line.currency,
            line.amount_minor,
            line.account,
            line.off_balance,
        )
        for line_no, line in enumerate(given.lines, 1)
    )
    return Voucher(
        book_id,
        source_id,
        1,
        given.accounting_date,
        operation.business_type,
        OVERRIDE_RULE,
        "",
        lines,
        None,
        None if given.accounting_date == operation.business_date else operation.business_date,
    )


def refused_date(
    rulesets: PublishedRulesets, given: GivenVoucher, operation: OperationBooked, position: int
) -> str | None:
    """Say that an override's date is cut or closed at a position; None when it may stand."""
    return rulesets.calendar.refusal(operation.book_id, given.accounting_date, below=position)


def chart_below(
    rulesets: PublishedRulesets, operation: OperationBooked, position: int
) -> Chart | None:
    """Find the chart that an operation's override is held against; None without any rules."""
    chosen = rulesets.choose(operation.book_id, operation.business_date, below=position)
    return None if chosen is None else chosen.ruleset.chart


def refused_override(
    given: GivenVoucher, operation: OperationBooked, chart: Chart | None
) -> str | None:
    """Say what is wrong with given lines; None when they may stand.

    They balance, and the lines on accounts are exactly the operation's movement legs, and no
    other line is on a controlled subject: else it would no longer equal the sum of its
    accounts. What is off the balance sheet is the chart's to say.
    """
    if not given.lines:
        return "no lines"
    for line in given.lines:
        if line.side not in ("debit", "credit") or not 0 < line.amount_minor <= AMOUNT_MAX:
            return f"not a line: {line.side} {line.amount_minor} on {line.subject}"
    lines = [
        VoucherLine(0, line.side, line.subject, line.currency, line.amount_minor)
        for line in given.lines
        if not line.off_balance
    ]
    for currency, minor in sorted(currency_differences(lines).items()):
        return f"debits - credits = {minor} {currency}"
    said = Counter(
        (line.account, line.side, line.subject, line.currency, line.amount_minor)
        for line in given.lines
        if line.account is not None
    )
    if said != Counter(_said_by(leg, leg.account) for leg in _movements(operation)):
        return "the lines on accounts are not the operation's legs"
    return None if chart is None else _refused_by_chart(given, chart)


def on_parts(given: Iterable[GivenLine], operation: OperationBooked) -> Iterator[GivenLine]:
    """Put lines on an account where the operation's legs lie: on a stripe, or on its buffer.

    A person knows one account; the books keep a line on the account of its leg.
    """
    on_account = Counter(_said_by(leg, leg.account) for leg in _movements(operation))
    parts: dict[Said, list[str]] = defaultdict(list)
    for leg in _movements(operation):
        if leg.intended_account is not None and (is_striped(leg) or is_accepted(leg)):
            parts[_said_by(leg, leg.intended_account)].append(leg.account)
    for line in given:
        if line.account is None:
            yield line
            continue
        said = (line.account, line.side, line.subject, line.currency, line.amount_minor)
        if not on_account[said] and parts[said]:
            yield msgspec.structs.replace(line, account=parts[said].pop(0))
        else:
            on_account[said] -= 1
            yield line


def _movements(operation: OperationBooked) -> Iterator[BookedLeg]:
    return (leg for leg in operation.legs if leg.kind in MOVEMENT_KINDS)


def _said_by(leg: BookedLeg, account: str) -> Said:
    side = "credit" if leg.kind == "credit" else "debit"
    return account, side, leg.subject, leg.currency, leg.amount_minor


def _refused_by_chart(given: GivenVoucher, chart: Chart) -> str | None:
    for line in given.lines:
        if line.subject not in chart.leaves:
            return f"subject {line.subject} cannot be posted to"
        if line.off_balance != (line.subject in chart.off_balance):
            return f"subject {line.subject}: the chart says what is off the balance sheet"
        if line.account is None and line.subject in chart.controlled:
            return f"subject {line.subject} is controlled: a line on it names its account"
    return None
