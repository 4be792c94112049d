"""Repair in batch: list what is parked, try it dry, order a retry, see what it did.

A retry is a decision in the log; the live consumer performs it, so that a rebuild repeats
it. Invariant: repeating a command is safe: it names only what is still parked, and an
order changes only what is still parked or waiting when it is performed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec
from psycopg import Connection

from accounting.decisions import (
    OPERATIONS_PER_ORDER_MAX,
    AccountingDecisions,
    DecisionRefused,
    GivenLine,
    in_orders,
)
from accounting.rules import NonPosting
from accounting.voucher import Voucher
from consumers.log_rows import select_operations
from consumers.messages import Booked
from consumers.posting import Attempt, attempt
from consumers.resolution import chart_below, overriding_voucher, refused_override
from ledger.errors import NotFound
from ledger.events import OperationBooked
from projections.outcomes import PARKED, WAITING
from projections.parked import ParkedFilter, ParkedOperation, select_parked
from projections.positions import select_head
from projections.repair_orders import GivenVoucher, select_performed
from projections.rulesets import PublishedRulesets, load_rulesets

PAGE = 1000
SELECT_OUTCOMES = """
    SELECT operation_id, status, reason, detail, attempt_position FROM outcomes
    WHERE book_id = %s AND operation_id = ANY(%s) ORDER BY position
"""
Wait = Callable[[], object]


class Tried(msgspec.Struct, frozen=True):
    """What a retry would make of an operation now: vouchers, or why there are none."""

    operation_id: str
    business_type: str
    becomes: str
    reason: str | None
    detail: str | None
    vouchers: tuple[Voucher, ...]


class Repaired(msgspec.Struct, frozen=True):
    """How an operation stands after an order was performed."""

    operation_id: str
    status: str
    reason: str | None
    detail: str | None
    attempt_position: int


class RetryReport(msgspec.Struct, frozen=True):
    """What a retry did. `performed` is False when the consumers did not come in time."""

    orders: tuple[int, ...]
    performed: bool
    operations: tuple[Repaired, ...]

    def count(self, status: str) -> int:
        """Count operations that ended in a status."""
        return sum(each.status == status for each in self.operations)


class Explanation(msgspec.Struct, frozen=True):
    """Everything about one parked or waiting operation, and what a retry would make of it."""

    parked: ParkedOperation
    operation: OperationBooked
    retry: Tried


def every_parked(
    conn: Connection[Any], book_id: str, wanted: ParkedFilter | None = None
) -> Iterator[ParkedOperation]:
    """Walk through everything parked or waiting that a filter means, oldest first."""
    cursor: str | None = None
    while True:
        page = select_parked(conn, book_id, wanted, cursor=cursor, limit=PAGE)
        yield from page.items
        if page.next_cursor is None:
            return
        cursor = page.next_cursor


def try_dry(
    conn: Connection[Any],
    book_id: str,
    wanted: ParkedFilter | None = None,
    *,
    ruleset_hash: str | None = None,
) -> Iterator[Tried]:
    """Say what a retry would make of each operation, changing nothing.

    A waiting operation is shown as if its original were final.
    """
    rulesets = PublishedRulesets()
    load_rulesets(conn, rulesets)
    below = select_head(conn) + 1
    chunk: list[ParkedOperation] = []
    for parked in every_parked(conn, book_id, wanted):
        chunk.append(parked)
        if len(chunk) == PAGE:
            yield from _tried(conn, rulesets, chunk, below, ruleset_hash)
            chunk = []
    yield from _tried(conn, rulesets, chunk, below, ruleset_hash)


def retry(
    conn: Connection[Any],
    decisions: AccountingDecisions,
    book_id: str,
    wanted: ParkedFilter | None = None,
    *,
    maker: str,
    ruleset_hash: str | None = None,
    note: str = "",
    timeout_s: float = 60.0,
    wait: Wait = lambda: time.sleep(0.02),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> RetryReport:
    """Order retries of what is parked, chunk by chunk, and report what they did.

    Needs an autocommit connection. `wait` is called while the consumers have not performed
    an order yet; `progress` is told how many of how many operations are done.
    """
    ids = [parked.operation_id for parked in every_parked(conn, book_id, wanted)]
    orders: list[int] = []
    done: list[Repaired] = []
    for chunk in in_orders(ids):
        position = decisions.request_repair(
            book_id, chunk, maker=maker, ruleset_hash=ruleset_hash, note=note
        )
        orders.append(position)
        if not wait_until_performed(conn, position, timeout_s=timeout_s, wait=wait):
            return RetryReport(tuple(orders), performed=False, operations=tuple(done))
        done += select_repaired(conn, book_id, chunk)
        progress(len(done), len(ids))
    return RetryReport(tuple(orders), performed=True, operations=tuple(done))


def wait_until_performed(
    conn: Connection[Any],
    position: int,
    *,
    timeout_s: float = 60.0,
    wait: Wait = lambda: time.sleep(0.02),
) -> bool:
    """Wait until the consumers have performed an order; False when they do not come."""
    deadline = time.monotonic() + timeout_s
    while not select_performed(conn, [position]).get(position, False):
        if time.monotonic() > deadline:
            return False
        wait()
    return True


def select_repaired(
    conn: Connection[Any], book_id: str, operation_ids: Sequence[str]
) -> list[Repaired]:
    """Read how operations stand."""
    rows = conn.execute(SELECT_OUTCOMES, (book_id, list(operation_ids)))
    return [Repaired(*row) for row in rows]


def explain(conn: Connection[Any], book_id: str, operation_id: str) -> Explanation:
    """Explain one parked or waiting operation; raises NotFound for any other."""
    wanted = ParkedFilter(operation_ids=(operation_id,))
    found = select_parked(conn, book_id, wanted, limit=1).items
    if not found:
        raise NotFound(f"operation {operation_id} is neither parked nor waiting")
    operation = select_operations(conn, [found[0].position])[found[0].position]
    (tried,) = try_dry(conn, book_id, wanted)
    return Explanation(found[0], operation, tried)


def propose_override(
    conn: Connection[Any],
    decisions: AccountingDecisions,
    book_id: str,
    operation_id: str,
    lines: Sequence[GivenLine],
    *,
    accounting_date: str,
    maker: str,
    note: str = "",
) -> tuple[UUID, Voucher]:
    """Propose the voucher lines of a parked operation; return the proposal and its voucher.

    Raises DecisionRefused (`override_refused`) when the lines cannot stand.
    """
    explained = explain(conn, book_id, operation_id)
    if explained.parked.status not in (PARKED, WAITING):
        raise DecisionRefused("override_refused", f"the operation is {explained.parked.status}")
    given = GivenVoucher(accounting_date, tuple(lines))
    rulesets = PublishedRulesets()
    load_rulesets(conn, rulesets)
    chart = chart_below(rulesets, explained.operation, select_head(conn) + 1)
    refusal = refused_override(given, explained.operation, chart)
    if refusal is not None:
        raise DecisionRefused("override_refused", refusal)
    override_id = decisions.propose_override(
        book_id,
        operation_id,
        lines,
        accounting_date=accounting_date,
        maker=maker,
        note=note,
    )
    return override_id, overriding_voucher(book_id, 0, given, explained.operation)


def approve_override(
    conn: Connection[Any],
    decisions: AccountingDecisions,
    override_id: UUID,
    *,
    checker: str,
    timeout_s: float = 60.0,
    wait: Wait = lambda: time.sleep(0.02),
) -> tuple[int, bool]:
    """Approve a proposal as another principal; return its position and whether it is done."""
    position = decisions.approve_override(override_id, checker=checker)
    return position, wait_until_performed(conn, position, timeout_s=timeout_s, wait=wait)


def _tried(
    conn: Connection[Any],
    rulesets: PublishedRulesets,
    chunk: Sequence[ParkedOperation],
    below: int,
    ruleset_hash: str | None,
) -> Iterator[Tried]:
    if not chunk:
        return
    operations = select_operations(conn, (parked.position for parked in chunk))
    for parked in chunk:
        booked = Booked(parked.position, operations[parked.position])
        yield _said(attempt(rulesets, booked, below=below, ruleset_hash=ruleset_hash))


def _said(tried: Attempt) -> Tried:
    operation, result = tried.booked.operation, tried.result
    name = (operation.operation_id, operation.business_type)
    if isinstance(result, tuple):
        return Tried(*name, "vouchered", None, None, result)
    if isinstance(result, NonPosting):
        return Tried(*name, "non_posting", None, None, ())
    return Tried(*name, "parked", str(result.reason), result.detail, ())


__all__ = [
    "OPERATIONS_PER_ORDER_MAX",
    "Explanation",
    "Repaired",
    "RetryReport",
    "Tried",
    "approve_override",
    "every_parked",
    "explain",
    "propose_override",
    "retry",
    "select_repaired",
    "try_dry",
    "wait_until_performed",
]
