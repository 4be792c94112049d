"""Healing: what the books have no trace of goes through the live handler, late.

What happened while the operation was missing (an order that names it, an original that became
final, a cut that numbered its day) is made up for, so that the books become what a rebuild
makes of the log. What cannot be made up for is an override of what waited only because its
original was missing: by the log it had its voucher before, and vouchers are never edited. Then
the missing one is left to a rebuild, too, so that sweeps go on naming it. Invariant: what is
healed, its results and the record that it was healed are one transaction; an operation with an
outcome is left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import structlog
from psycopg import Connection

from consumers.bisection import Refusals, write_bisecting
from consumers.log_rows import select_operations
from consumers.messages import Booked, Decided
from consumers.posting import final_originals, first_open, original_names, results_of
from consumers.renumbering import (
    Healing,
    Renumbered,
    before_numbers,
    lock_books_in_tx,
    refuse_late_in_tx,
)
from consumers.resolution import obey_in_tx, select_originals, wake_in_tx
from consumers.traces import select_elsewhere_in_tx
from consumers.vouchers import Batch, handle_in_tx, prepare
from projections.outcomes import FINAL, WAITING, OperationName, Outcome, select_standings
from projections.positions import select_lanes
from projections.repair_orders import (
    RepairOrderRow,
    select_next_naming,
    select_overrides_beyond,
)
from projections.rulesets import PublishedRulesets, load_rulesets

log = structlog.get_logger("consumers.healing")


class _Overtaken(Exception):
    """What is healed has a follower that was overridden while it was missing; the words say it."""


def heal(conn: Connection[Any], missing: Sequence[int], healing: Healing) -> dict[int, str]:
    """Handle missing operations by their positions; return those that are left, and why.

    Raises LanesChanged when the books were swapped since they were compared.
    """
    rulesets = PublishedRulesets()
    load_rulesets(conn, rulesets)
    operations = select_operations(conn, missing)
    messages = [Booked(at, operations[at]) for at in sorted(operations)]
    healed: list[int] = []
    left: dict[int, str] = {}

    def write_in_one(
        part: Sequence[Booked | Decided], _through: int, refusals: Refusals | None
    ) -> None:
        def heal_in_tx(conn: Connection[Any], renumbered: Sequence[Renumbered]) -> None:
            done = _heal_in_tx(conn, rulesets, prepare(rulesets, part, refusals), healing)
            healing.record_in_tx(conn, done, renumbered)
            healing.failpoint("healed")
            healed.extend(done)

        try:
            before_numbers(conn, healing, heal_in_tx)
        except _Overtaken as overtaken:
            if len(part) == 1:
                left[part[0].position] = str(overtaken)
                return
            for each in part:  # most of them have no such follower
                write_in_one([each], each.position, refusals)

    if messages:
        write_bisecting(write_in_one, messages, messages[-1].position)
    for position in healed:
        log.error("missing_healed", position=position)
    for position, words in left.items():
        log.error("missing_left", position=position, detail=words)
    return left


def incarnation_of(conn: Connection[Any]) -> int:
    """Read which books these are; a swap or a change of lanes makes it another number."""
    return max((lane.incarnation for lane in select_lanes(conn)), default=0)


def _heal_in_tx(
    conn: Connection[Any], rulesets: PublishedRulesets, batch: Batch, healing: Healing
) -> list[int]:
    lane = lock_books_in_tx(conn, healing.incarnation)
    outcomes = handle_in_tx(conn, rulesets, batch, lane.lane, late=True)
    outcomes += _make_up_in_tx(conn, rulesets, outcomes, lane.lane)
    _refuse_overtaken_in_tx(conn, outcomes, [tried.booked for tried in batch.attempts])
    healing.deliver_in_tx(conn, results_of(outcomes))
    changed = {outcome.position for outcome in outcomes}
    sources = changed | {outcome.attempt_position for outcome in outcomes}  # an override's voucher
    refuse_late_in_tx(conn, sources)
    positions = (tried.booked.position for tried in batch.attempts)
    return [position for position in positions if position in changed]


def _refuse_overtaken_in_tx(
    conn: Connection[Any], outcomes: Sequence[Outcome], healed: Sequence[Booked]
) -> None:
    """Raise _Overtaken if a follower of these was overridden though nothing held it up.

    Nothing did if all that it follows was final before the override, as it now stands.
    """
    if not outcomes:
        return
    touched = {outcome.name for outcome in outcomes}
    ours = {booked.position for booked in healed}
    overrides = select_overrides_beyond(conn, min(outcome.position for outcome in outcomes))
    followers = {
        (booked.operation.book_id, booked.operation.operation_id): booked
        for booked in _booked_in_tx(conn, sorted({name for _, name in overrides}))
        if booked.position not in ours and touched.intersection(original_names(booked))
    }
    standings = select_originals(conn, followers.values())
    for position, name in overrides:
        booked = followers.get(name)
        if booked is None or booked.position > position:
            continue
        if first_open(booked, final_originals(booked, standings, through=position - 1)) is None:
            raise _Overtaken(
                f"{name[1]}, which follows it, was overridden at {position} while it was missing: "
                "only a rebuild puts both right"
            )


def _make_up_in_tx(
    conn: Connection[Any], rulesets: PublishedRulesets, outcomes: Sequence[Outcome], lane: int
) -> list[Outcome]:
    """Do, in the order of the log, what orders and final originals would have done to these.

    What else an order names is tried with them if it still waits: its original may be one of
    these.
    """
    touched = {outcome.name for outcome in outcomes}
    wakes = _late_wakes_in_tx(conn, outcomes, 0)
    changed: list[Outcome] = []
    after = 0
    while touched:
        order = select_next_naming(conn, after, touched)
        due = min(wakes, default=None)
        if due is not None and (order is None or due <= order.position):
            at = due
            now = _wake_in_tx(conn, rulesets, wakes.pop(at), at, lane)
        elif order is not None:
            at = after = order.position
            now = _repeat_in_tx(conn, rulesets, order, lane)
        else:
            break
        touched |= {outcome.name for outcome in now}
        changed += now
        for later, names in _late_wakes_in_tx(conn, now, at).items():
            wakes[later] = wakes.get(later, set()) | names
    return changed


def _late_wakes_in_tx(
    conn: Connection[Any], outcomes: Sequence[Outcome], after: int
) -> dict[int, set[OperationName]]:
    """Find the originals of waiting ones that became final after them and after a position.

    Given by where that was decided.
    """
    waiting = {each.position: each for each in outcomes if each.status == WAITING}
    operations = select_operations(conn, waiting)
    wakes: dict[int, set[OperationName]] = {}
    followers = [Booked(at, operations[at]) for at in waiting]
    standings = select_originals(conn, followers)
    for booked in followers:
        for name, at in final_originals(booked, standings).items():
            if at > max(booked.position, after):
                wakes.setdefault(at, set()).add(name)
    return wakes


def _wake_in_tx(
    conn: Connection[Any],
    rulesets: PublishedRulesets,
    originals: Collection[OperationName],
    at: int,
    lane: int,
) -> list[Outcome]:
    """Wake what waits for originals, first by the order that made them final if there was one."""
    order = select_next_naming(conn, at - 1, originals)
    changed: list[Outcome] = []
    if order is not None and order.position == at:
        changed = _repeat_in_tx(conn, rulesets, order, lane)
    return changed + wake_in_tx(conn, rulesets, dict.fromkeys(originals, at), lane, late=True)


def _repeat_in_tx(
    conn: Connection[Any], rulesets: PublishedRulesets, order: RepairOrderRow, lane: int
) -> list[Outcome]:
    """Repeat an order for those it names that were decided below it and are still open."""
    named = [(order.book_id, operation_id) for operation_id in order.operation_ids]
    names = [
        name
        for name, standing in select_standings(conn, named).items()
        if standing.status not in FINAL and standing.attempt_position < order.position
    ]
    final = {
        name: order.position
        for name, standing in select_originals(conn, _booked_in_tx(conn, names)).items()
        if standing.status in FINAL
        and standing.attempt_position == order.position
        and _tried_by_in_tx(conn, order, name)
    }
    return obey_in_tx(conn, rulesets, order, names, lane, final=final, late=True)


def _tried_by_in_tx(conn: Connection[Any], order: RepairOrderRow, name: OperationName) -> bool:
    """Tell whether an order tried an operation, and did not only wake it."""
    if name[0] != order.book_id or name[1] not in order.operation_ids:
        return False
    standings = select_originals(conn, _booked_in_tx(conn, [name]))
    return all(
        standing.attempt_position != order.position or _tried_by_in_tx(conn, order, original)
        for original, standing in standings.items()
    )


def _booked_in_tx(conn: Connection[Any], names: Sequence[OperationName]) -> list[Booked]:
    """Read from the log the operations of outcomes."""
    positions = [position for position, _ in select_elsewhere_in_tx(conn, names).values()]
    return [Booked(*each) for each in select_operations(conn, positions).items()]
