"""Lost decisions: an order that left no row in the books is kept, and performed, late.

So are messages set aside, and proposals; a second look keeps what every lane would have. Left for a
rebuild is what other operations were handled without since: rulesets, opened days, cuts, closes
(consumers that run have them in memory, too), and an order that is overtaken. Invariant: what is
kept here gives the books that a rebuild makes of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from psycopg import Connection

from accounting.decided import (
    MessageSetAside,
    OverrideApproved,
    PeriodChangeProposed,
    PeriodChangeRejected,
    RepairRequested,
)
from consumers.log_rows import select_rows_at
from consumers.messages import Decided
from consumers.posting import results_of
from consumers.renumbering import Healing, Renumbered, before_numbers, refuse_late_in_tx
from consumers.resolution import obey_in_tx, sweep_waiters_in_tx
from consumers.set_aside import read_rows
from consumers.vouchers import keep_decisions_in_tx
from projections.positions import select_lanes, select_visible
from projections.repair_orders import mark_performed_in_tx, select_order_at
from projections.rulesets import PublishedRulesets, load_rulesets

Order = RepairRequested | OverrideApproved
WITHOUT_EFFECT = (MessageSetAside, PeriodChangeProposed, PeriodChangeRejected)
# Something was decided beyond an order that it might have changed, or is due before it.
IS_OVERTAKEN = """
    SELECT EXISTS (SELECT 1 FROM outcomes WHERE book_id = %(book)s
                   AND operation_id = ANY(%(ids)s) AND attempt_position > %(at)s)
        OR EXISTS (SELECT 1 FROM repair_orders WHERE performed AND position > %(at)s
                   AND book_id = %(book)s AND kind = 'override')
        OR EXISTS (SELECT 1 FROM repair_orders WHERE NOT performed AND position < %(at)s)
        OR EXISTS (SELECT 1 FROM day_cuts WHERE NOT performed AND position < %(at)s)
"""

log = structlog.get_logger("consumers.lost_decisions")


def heal_decisions(conn: Connection[Any], unmet: Sequence[int], healing: Healing) -> int:
    """Keep decisions by their positions, in order; return how many. Others are left alone.

    Raises LanesChanged when the books were swapped since they were compared.
    """
    healed = 0
    for decided in read_rows(conn, select_rows_at(conn, unmet)):
        if isinstance(decided, Decided) and _heal(conn, decided, healing):
            log.error("decision_healed", position=decided.position)
            healed += 1
    return healed


def _heal(conn: Connection[Any], decided: Decided, healing: Healing) -> bool:
    healed = False

    def heal_in_tx(conn: Connection[Any], renumbered: Sequence[Renumbered]) -> None:
        nonlocal healed
        healed = _keep_in_tx(conn, decided, healing)
        if healed:
            healing.record_in_tx(conn, [decided.position], renumbered)
            healing.failpoint("healed")

    before_numbers(conn, healing, heal_in_tx)
    return healed


def _keep_in_tx(conn: Connection[Any], decided: Decided, healing: Healing) -> bool:
    """Keep a decision; perform it if every lane has passed it. Tell whether it could be done."""
    decision, position = decided.decision, decided.position
    if isinstance(decision, WITHOUT_EFFECT):
        keep_decisions_in_tx(conn, [decided])
        return True
    if not isinstance(decision, Order) or _is_overtaken_in_tx(conn, position, decision):
        return False
    keep_decisions_in_tx(conn, [decided])
    order = select_order_at(conn, decision.book_id, position)
    if order is not None and not order.performed and position <= select_visible(conn):
        rulesets = PublishedRulesets()
        load_rulesets(conn, rulesets)
        lane = select_lanes(conn)[0].lane
        changed = sweep_waiters_in_tx(conn, rulesets, lane)
        names = [(order.book_id, operation_id) for operation_id in order.operation_ids]
        changed += obey_in_tx(conn, rulesets, order, names, lane)
        mark_performed_in_tx(conn, position)
        healing.deliver_in_tx(conn, results_of(changed))
        refuse_late_in_tx(conn, {each.position for each in changed} | {position})
    return True


def _is_overtaken_in_tx(conn: Connection[Any], position: int, order: Order) -> bool:
    ids = order.operation_ids if isinstance(order, RepairRequested) else [order.operation_id]
    values = {"book": order.book_id, "ids": list(ids), "at": position}
    row = conn.execute(IS_OVERTAKEN, values).fetchone()
    return row is None or bool(row[0])
