"""Overrides: an accountant gives the voucher lines of one operation, somebody else approves.

Proposals are read from the log itself, so that a checker sees one as soon as it is made.
Invariant: lines become a voucher only by an approval of another principal than their maker,
and only if they still could stand when the consumers perform it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg import Connection

from accounting.dating import DAY
from accounting.decisions import (
    AccountingDecisions,
    DecisionRefused,
    GivenLine,
    OverrideApproved,
    OverrideProposed,
    OverrideRejected,
    decode_decision,
)
from accounting.voucher import Voucher
from consumers.repair import explain, wait_until_performed
from consumers.resolution import (
    chart_below,
    on_parts,
    overriding_voucher,
    refused_date,
    refused_override,
)
from ledger.errors import NotFound
from ledger.events import OperationBooked
from projections.pages import Page, checked_limit, page_of, read_cursor
from projections.positions import select_head
from projections.repair_orders import GivenVoucher
from projections.rulesets import PublishedRulesets, load_rulesets

# The equality with this topic is what the index stored_events_overrides_idx is of.
SELECT_OVERRIDES = """
    SELECT p.originator_id, p.notification_id, p.topic, p.state,
           d.notification_id, d.topic, d.state, coalesce(r.performed, false), s.booked_at,
           o.status, coalesce(o.detail, o.reason)
    FROM ledger.stored_events p
    LEFT JOIN ledger.stored_events d
      ON d.originator_id = p.originator_id AND d.originator_version > p.originator_version
    LEFT JOIN repair_orders r ON r.position = d.notification_id
    LEFT JOIN outcomes o ON o.book_id = %(book)s
      AND o.operation_id = convert_from(p.state, 'UTF8')::jsonb ->> 'operation_id'
    LEFT JOIN LATERAL (SELECT booked_at FROM ledger.seals WHERE first_id <= p.notification_id
                       ORDER BY first_id DESC LIMIT 1) s ON true
    WHERE p.topic = 'accounting.decisions:Override.Proposed'
      AND convert_from(p.state, 'UTF8')::jsonb ->> 'book_id' = %(book)s
      AND (%(id)s::uuid IS NULL OR p.originator_id = %(id)s)
      AND (%(status)s::text IS NULL OR %(status)s = CASE
           WHEN d.topic IS NULL THEN 'proposed'
           WHEN d.topic = 'accounting.decisions:Override.Approved' THEN 'approved'
           ELSE 'rejected' END)
      AND (%(after)s::bigint IS NULL OR p.notification_id > %(after)s)
    ORDER BY p.notification_id LIMIT %(limit)s
"""
Status = Literal["proposed", "approved", "rejected"]


class ProposedOverride(msgspec.Struct, frozen=True):
    """A proposal with what became of it. `checker` approved or rejected it.

    `operation_status` is how the operation stands in the books: an approval that met a day cut
    meanwhile leaves it parked, and `operation_detail` says so.
    """

    override_id: UUID
    position: int
    operation_id: str
    accounting_date: str
    lines: tuple[GivenLine, ...]
    maker: str
    note: str
    status: Status
    checker: str | None
    decided_position: int | None
    decision_note: str
    performed: bool
    proposed_at: str | None
    operation_status: str | None
    operation_detail: str | None


class Approved(msgspec.Struct, frozen=True):
    """An approval: where it is in the log, and whether the books have its voucher yet."""

    override_id: UUID
    position: int
    performed: bool


def propose_override(
    conn: Connection[Any],
    decisions: AccountingDecisions,
    book_id: str,
    operation_id: str,
    lines: Sequence[GivenLine],
    *,
    maker: str,
    accounting_date: str | None = None,
    note: str = "",
) -> tuple[UUID, Voucher]:
    """Propose the voucher lines of a parked operation; return the proposal and its voucher.

    The date is the business date, or the open day once that is cut, unless another is given. A
    line on an account with stripes is put on the stripe that took the leg.
    Raises NotFound for an operation that is neither parked nor waiting, DecisionRefused
    (`override_refused`) when the lines cannot stand.
    """
    explained = explain(conn, book_id, operation_id)
    rulesets = PublishedRulesets()
    load_rulesets(conn, rulesets)
    below, business_date = select_head(conn) + 1, explained.parked.business_date
    dating = rulesets.calendar.dating(book_id, business_date, below=below)
    date = accounting_date or dating.accounting_date or business_date
    given = GivenVoucher(date, tuple(on_parts(lines, explained.operation)))
    chart = chart_below(rulesets, explained.operation, below)
    refusal = (
        refused_override(given, explained.operation, chart)
        or refused_date(rulesets, given, explained.operation, below)
        or _refused_future(rulesets, date, explained.operation, below)
    )
    if refusal is not None:
        raise DecisionRefused("override_refused", refusal)
    override_id = decisions.propose_override(
        book_id,
        operation_id,
        given.lines,
        accounting_date=given.accounting_date,
        maker=maker,
        note=note,
    )
    return override_id, overriding_voucher(book_id, 0, given, explained.operation)


def _refused_future(
    rulesets: PublishedRulesets, date: str, operation: OperationBooked, below: int
) -> str | None:
    """Say that a date has not begun: a mistyped year would keep the voucher out of every sheet."""
    open_date = rulesets.calendar.date_below(DAY, operation.book_id, below)
    if open_date is None or date <= max(open_date, operation.business_date):
        return None
    return f"{date} has not begun: the open day is {open_date}"


def approve_override(
    conn: Connection[Any],
    decisions: AccountingDecisions,
    override_id: UUID,
    *,
    checker: str,
    book_id: str,
    timeout_s: float = 60.0,
    wait: Callable[[], object] = lambda: time.sleep(0.02),
) -> Approved:
    """Approve a proposal as another principal; say whether its voucher is in the books.

    Raises DecisionRefused, also (`override_refused`) for an operation that is neither parked
    nor waiting any more.
    """
    proposed = select_override(conn, book_id, override_id)
    if proposed.status == "proposed":
        _refuse_settled(conn, book_id, proposed.operation_id)
    position = decisions.approve_override(override_id, checker=checker, book_id=book_id)
    performed = wait_until_performed(conn, position, timeout_s=timeout_s, wait=wait)
    return Approved(override_id, position, performed)


def select_override(conn: Connection[Any], book_id: str, override_id: UUID) -> ProposedOverride:
    """Read one proposal of a book; raises DecisionRefused (`unknown_override`)."""
    found = select_overrides(conn, book_id, override_id=override_id, limit=1).items
    if not found:
        raise DecisionRefused("unknown_override", str(override_id))
    return found[0]


def select_overrides(
    conn: Connection[Any],
    book_id: str,
    *,
    status: Status | None = None,
    override_id: UUID | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[ProposedOverride]:
    """List a book's proposals, oldest first."""
    after = read_cursor(cursor, int) or (None,)
    values = {
        "book": book_id,
        "status": status,
        "id": override_id,
        "after": after[0],
        "limit": checked_limit(limit) + 1,
    }
    found = [_proposed(*row) for row in conn.execute(SELECT_OVERRIDES, values)]
    return page_of(found, limit, lambda override: (override.position,))


def _refuse_settled(conn: Connection[Any], book_id: str, operation_id: str) -> None:
    try:
        explain(conn, book_id, operation_id)
    except NotFound as error:
        raise DecisionRefused("override_refused", error.detail) from error


def _proposed(
    override_id: UUID,
    position: int,
    topic: str,
    state: bytes,
    *decided: Any,
) -> ProposedOverride:
    made = decode_decision(topic, bytes(state))
    assert isinstance(made, OverrideProposed)
    decided_position, decided_topic, decided_state, *standing = decided
    status: Status = "proposed"
    checker, decision_note = None, ""
    if decided_topic is not None:
        decision = decode_decision(decided_topic, bytes(decided_state))
        assert isinstance(decision, OverrideApproved | OverrideRejected)
        checker = decision.checker
        status = "approved" if isinstance(decision, OverrideApproved) else "rejected"
        decision_note = decision.note if status == "rejected" else ""
    return ProposedOverride(
        override_id,
        position,
        made.operation_id,
        made.accounting_date,
        made.lines,
        made.maker,
        made.note,
        status,
        checker,
        decided_position,
        decision_note,
        *standing,
    )
