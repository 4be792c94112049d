"""The completeness sweep: every operation of the log against what the books hold of it.

Independent of positions and offsets: it compares by id, amount and currency, and names each
missing, doubled or differing operation. Invariant: a missing one is healed only by the same
handler that the live consumer uses, under a lane's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from consumers.consumer import DeliverInTx
from consumers.log_rows import select_operations
from consumers.messages import Booked
from consumers.posting import results_of
from consumers.resolution import OVERRIDE_RULE
from consumers.vouchers import handle_in_tx, prepare
from ledger.events import MOVEMENT_KINDS
from projections.outcomes import VOUCHERED
from projections.positions import lock_lane_in_tx, select_lanes, select_log, select_visible
from projections.rulesets import PublishedRulesets, load_rulesets

POSITIONS_PER_CHUNK = 20_000
DIFFERENCES_MAX = 1000

BEGIN_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
SELECT_LOGGED = """
    SELECT notification_id, state FROM ledger.stored_events
    WHERE notification_id > %s AND notification_id <= %s
      AND topic = 'ledger.recorded:OperationBooked'
"""
SELECT_OUTCOMES = """
    SELECT position, book_id, operation_id, status, rule_id, amounts::text
    FROM outcomes WHERE position > %s AND position <= %s
"""
SELECT_POSTED = """
    SELECT position, currency, sum(amount_minor) FILTER (WHERE account IS NOT NULL)
    FROM voucher_lines WHERE position > %s AND position <= %s
    GROUP BY position, currency
"""
SELECT_RANGE = """
    SELECT coalesce(min(position), 0), coalesce(max(position), 0) FROM outcomes
    WHERE book_id = %s AND business_date = %s::date
"""


class _Leg(msgspec.Struct, frozen=True, gc=False):
    kind: str
    currency: str
    amount: int


class _Logged(msgspec.Struct, frozen=True, gc=False):
    book_id: str
    operation_id: str
    legs: tuple[_Leg, ...] = ()

    def movement(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for leg in self.legs:
            if leg.kind in MOVEMENT_KINDS:
                totals[leg.currency] = totals.get(leg.currency, 0) + leg.amount
        return totals


class Difference(msgspec.Struct, frozen=True):
    """One operation that the books do not hold as the log says it."""

    kind: str  # missing, unknown, differing, doubled, unposted
    position: int
    book_id: str
    operation_id: str
    detail: str


class SweepReport(msgspec.Struct, frozen=True):
    """What was compared and found; `differences` are the first DIFFERENCES_MAX."""

    after: int
    through: int
    operations: int
    differences: tuple[Difference, ...]
    found: int
    healed: int = 0

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing was found, or everything found was healed."""
        return self.found == self.healed


_decode = msgspec.json.Decoder(_Logged).decode
_decode_amounts = msgspec.json.Decoder(dict[str, int]).decode


def sweep(
    conn: Connection[Any],
    *,
    after: int = 0,
    through: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> SweepReport:
    """Compare the stretch after < position ≤ through (default: all that is visible).

    Needs an autocommit connection: each chunk is one snapshot. `progress` is told how many
    positions each chunk covered.
    """
    visible = select_visible(conn)
    end = visible if through is None else min(through, visible)
    start, operations = after, 0
    differences: list[Difference] = []
    found = 0
    while after < end:
        until = min(end, after + POSITIONS_PER_CHUNK)
        count, different = _compare(conn, after, until)
        operations += count
        found += len(different)
        differences += different[: DIFFERENCES_MAX - len(differences)]
        progress(until - after)
        after = until
    return SweepReport(start, end, operations, tuple(differences), found)


def heal(conn: Connection[Any], report: SweepReport, *, deliver_in_tx: DeliverInTx) -> SweepReport:
    """Feed what is missing through the handler; say how many that healed."""
    missing = [each.position for each in report.differences if each.kind == "missing"]
    if not missing:
        return report
    rulesets = PublishedRulesets()
    load_rulesets(conn, rulesets)
    operations = select_operations(conn, missing)
    batch = prepare(rulesets, [Booked(at, operations[at]) for at in sorted(operations)])
    with conn.transaction():
        lane = lock_lane_in_tx(conn, select_lanes(conn)[0].lane, select_log(conn))
        outcomes = handle_in_tx(conn, rulesets, batch, lane.lane)
        deliver_in_tx(conn, results_of(outcomes))
    healed = len({outcome.position for outcome in outcomes} & set(missing))
    return msgspec.structs.replace(report, healed=healed)


def _compare(conn: Connection[Any], after: int, until: int) -> tuple[int, list[Difference]]:
    with conn.transaction(), conn.cursor(binary=True) as cursor:
        cursor.execute(BEGIN_SNAPSHOT)
        cursor.execute(SELECT_LOGGED, (after, until))
        logged = {position: _decode(state) for position, state in cursor}
        cursor.execute(SELECT_OUTCOMES, (after, until))
        outcomes = {row[0]: row[1:] for row in cursor}
        cursor.execute(SELECT_POSTED, (after, until))
        posted: dict[int, dict[str, int]] = {}
        for position, currency, amount_minor in cursor:
            of_position = posted.setdefault(position, {})
            if amount_minor is not None:
                of_position[currency] = int(amount_minor)
    found: list[Difference] = []
    for position, operation in sorted(logged.items()):
        outcome = outcomes.pop(position, None)
        difference = _difference(operation, outcome, posted.pop(position, None))
        if difference is not None:
            kind, detail = difference
            name = (operation.book_id, operation.operation_id)
            found.append(Difference(kind, position, *name, detail))
    for position, row in sorted(outcomes.items()):
        found.append(Difference("unknown", position, row[0], row[1], "not in the log"))
    return len(logged), found


def _difference(
    operation: _Logged, outcome: Sequence[Any] | None, posted: dict[str, int] | None
) -> tuple[str, str] | None:
    if outcome is None:
        return "missing", "no outcome"
    book_id, operation_id, status, rule_id, amounts = outcome
    if (book_id, operation_id) != (operation.book_id, operation.operation_id):
        return "differing", f"the outcome is of {book_id}/{operation_id}"
    movement = operation.movement()
    if _decode_amounts(amounts) != (movement or {"": 0}):
        return "differing", f"the log says {movement}, the outcome {amounts}"
    if status != VOUCHERED or rule_id == OVERRIDE_RULE:
        return None if posted is None else ("doubled", f"{status}, and has vouchers")
    if posted is None:
        return "unposted", "vouchered, and has no voucher"
    if posted != movement:
        return "differing", f"the log says {movement}, its vouchers' account lines {posted}"
    return None
