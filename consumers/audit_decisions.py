"""What each decision leaves in the books: the row that an audit expects of it.

Invariant: the rows are made of the decision alone; only whether an order or a cut has been
performed is told by the books.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from accounting.decided import (
    DayCut,
    Decision,
    MessageSetAside,
    OverrideApproved,
    PeriodChangeProposed,
    PeriodChangeRejected,
    PeriodClosed,
    PeriodReopened,
    RepairRequested,
    RulesetPublished,
)
from ledger.events import BookOpened, DayOpened
from projections.periods import change_row, cut_row
from projections.repair_orders import GivenVoucher

TableRow = tuple[str, tuple[Any, ...]]


def decision_row(position: int, decision: Decision, *, performed: bool) -> TableRow | None:
    """Give the table and the row of a decision; None for one that leaves none."""
    match decision:
        case BookOpened():
            return "business_days", (position, decision.book_id, decision.open_business_date)
        case DayOpened():
            return "business_days", (position, decision.book_id, decision.business_date)
        case DayCut():
            return "day_cuts", cut_row(position, decision, performed=performed)
        case PeriodChangeProposed() | PeriodChangeRejected() | PeriodClosed() | PeriodReopened():
            return "period_changes", change_row(position, decision)
        case RepairRequested() | OverrideApproved():
            return "repair_orders", (*_order(position, decision), performed)
        case RulesetPublished():
            return "rulesets", _ruleset(position, decision)
        case MessageSetAside():
            return "set_asides", _set_aside(position, decision)
        case _:
            return None  # registers opened, overrides proposed or rejected


def _order(position: int, order: RepairRequested | OverrideApproved) -> tuple[Any, ...]:
    if isinstance(order, RepairRequested):
        wish = (list(order.operation_ids), order.ruleset_hash, order.maker, None, order.note, None)
        return position, "retry", order.book_id, *wish
    text = msgspec.json.encode(GivenVoucher(order.accounting_date, order.lines)).decode()
    people = (order.maker, order.checker, order.note)
    return position, "override", order.book_id, [order.operation_id], None, *people, text


def _ruleset(position: int, published: RulesetPublished) -> tuple[Any, ...]:
    return (
        position,
        published.book_id,
        published.ruleset_hash,
        published.label,
        published.effective_from,
        published.maker,
        msgspec.json.encode(published.document, order="deterministic").decode(),
    )


def _set_aside(position: int, message: MessageSetAside) -> tuple[Any, ...]:
    place = (message.topic, message.partition, message.at_offset)
    return position, *place, base64.b64decode(message.raw), message.reason, message.maker
