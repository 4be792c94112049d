"""Repair in batch: list what is parked, try it dry, order a retry, see what it did.

A retry is a decision in the log; the live consumer performs it, so that a rebuild repeats
it. Invariant: repeating a command is safe: it names only what is still parked, and an
order changes only what is still parked or waiting when it is performed.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
from psycopg import Connection

from accounting.decisions import AccountingDecisions, in_orders
from accounting.voucher import Voucher
from consumers.consumer import never
from consumers.log_rows import select_operations
from consumers.messages import Booked
from consumers.posting import Attempt, attempt, settle
from ledger.errors import NotFound
from ledger.events import OperationBooked
from projections.pages import write_cursor
from projections.parked import (
    Original,
    ParkedFilter,
    ParkedOperation,
    Waiter,
    select_originals,
    select_parked,
    select_standing,
    select_waiters,
)
from projections.positions import select_head
from projections.repair_orders import select_order_at, select_performed
from projections.rulesets import PublishedRulesets, load_rulesets, select_publications

PAGE = 1000
HASH_SHOWN = 12
IDS_SHOWN = 20
SELECT_OUTCOMES = """
    SELECT operation_id, status, reason, detail, attempt_position FROM outcomes
    WHERE book_id = %s AND operation_id = ANY(%s) ORDER BY position
"""
Wait = Callable[[], object]


class Tried(msgspec.Struct, frozen=True):
    """What a retry would make of an operation now: vouchers, or why there are none.

    `detail` also says when vouchers are dated into another day than the business date.
    """

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


class RepairOrdered(msgspec.Struct, frozen=True):
    """An order: where it is in the log (None: nothing to try), and what it names.

    `operations` says how each stands: after the order once it is performed, before it else.
    """

    position: int | None
    performed: bool
    operations: tuple[Repaired, ...]
    next_cursor: str | None


class TriedPage(msgspec.Struct, frozen=True):
    """What an order of this page of operations would make of them."""

    items: tuple[Tried, ...]
    next_cursor: str | None


class RepairState(msgspec.Struct, frozen=True):
    """An order as it is kept, whether it is performed, and how its operations stand now."""

    position: int
    kind: str
    maker: str
    checker: str | None
    ruleset_hash: str | None
    note: str
    performed: bool
    operations: tuple[Repaired, ...]


class Explanation(msgspec.Struct, frozen=True):
    """Everything about one parked or waiting operation, and what a retry would make of it.

    `depends_on` is what it follows by name, in the order in which it waits for them;
    `waits_for` is the chain of originals in front of it, `waiters` is what stands behind it;
    both nearest first.
    """

    parked: ParkedOperation
    operation: OperationBooked
    depends_on: tuple[Original, ...]
    waits_for: tuple[Original, ...]
    waiters: tuple[Waiter, ...]
    retry: Tried


def every_parked(
    conn: Connection[Any],
    book_id: str,
    wanted: ParkedFilter | None = None,
    *,
    now: dt.datetime | None = None,
) -> Iterator[ParkedOperation]:
    """Walk through everything parked or waiting that a filter means, oldest first."""
    cursor: str | None = None
    while True:
        page = select_parked(conn, book_id, wanted, now=now, cursor=cursor, limit=PAGE)
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

    A waiting operation is shown as if its originals were final.
    """
    pages = every_parked(conn, book_id, wanted)
    while chunk := list(islice(pages, PAGE)):
        yield from try_these(conn, chunk, ruleset_hash=ruleset_hash)


def try_these(
    conn: Connection[Any], chunk: Sequence[ParkedOperation], *, ruleset_hash: str | None = None
) -> Iterator[Tried]:
    """Say what a retry would make of these operations, changing nothing."""
    rulesets = PublishedRulesets()
    load_rulesets(conn, rulesets)
    below = select_head(conn) + 1
    operations = select_operations(conn, (parked.position for parked in chunk))
    for parked in chunk:
        booked = Booked(parked.position, operations[parked.position])
        yield _said(attempt(rulesets, booked, below=below, ruleset_hash=ruleset_hash))


def try_page(
    conn: Connection[Any],
    book_id: str,
    wanted: ParkedFilter,
    *,
    ruleset_hash: str | None = None,
    cursor: str | None = None,
    limit: int = PAGE,
) -> TriedPage:
    """Say what a retry of one page of operations would make of them, changing nothing."""
    page = select_parked(conn, book_id, wanted, cursor=cursor, limit=limit)
    tried = try_these(conn, page.items, ruleset_hash=ruleset_hash)
    return TriedPage(tuple(tried), page.next_cursor)


def order_page(
    conn: Connection[Any],
    decisions: AccountingDecisions,
    book_id: str,
    wanted: ParkedFilter,
    *,
    maker: str,
    ruleset_hash: str | None = None,
    note: str = "",
    cursor: str | None = None,
    limit: int = PAGE,
) -> RepairOrdered:
    """Order a retry of one page of operations, or of as many as one order can name."""
    page = select_parked(conn, book_id, wanted, cursor=cursor, limit=limit)
    if not page.items:
        return RepairOrdered(None, performed=True, operations=(), next_cursor=None)
    chunk = next(in_orders([parked.operation_id for parked in page.items]))
    position = decisions.request_repair(
        book_id, chunk, maker=maker, ruleset_hash=ruleset_hash, note=note
    )
    named = page.items[: len(chunk)]
    whole = len(named) == len(page.items)
    following = page.next_cursor if whole else write_cursor(named[-1].position)
    standing = tuple(
        Repaired(each.operation_id, each.status, each.reason, each.detail, each.attempt_position)
        for each in named
    )
    return RepairOrdered(position, performed=False, operations=standing, next_cursor=following)


def select_order(conn: Connection[Any], book_id: str, position: int) -> RepairState:
    """Read an order of a book; raises NotFound, also while no lane has met it yet."""
    order = select_order_at(conn, book_id, position)
    if order is None:
        raise NotFound(f"no order of this book is in the books at position {position}")
    return RepairState(
        order.position,
        order.kind,
        order.maker,
        order.checker,
        order.ruleset_hash,
        order.note,
        order.performed,
        tuple(select_repaired(conn, book_id, order.operation_ids)),
    )


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
    failpoint: Callable[[str], None] = never,
) -> RetryReport:
    """Order retries of what is parked, chunk by chunk, and report what they did.

    Needs an autocommit connection. `wait` is called while the consumers have not performed
    an order yet; `progress` is told how many of how many operations are done.
    """
    ids = [parked.operation_id for parked in every_parked(conn, book_id, wanted)]
    orders: list[int] = []
    done: list[Repaired] = []
    progress(0, len(ids))
    for chunk in in_orders(ids):
        position = decisions.request_repair(
            book_id, chunk, maker=maker, ruleset_hash=ruleset_hash, note=note
        )
        orders.append(position)
        failpoint("ordered")
        if not wait_until_performed(conn, position, timeout_s=timeout_s, wait=wait):
            return RetryReport(tuple(orders), performed=False, operations=tuple(done))
        done += select_repaired(conn, book_id, chunk)
        progress(len(done), len(ids))
        failpoint("performed")
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


def published_hash(conn: Connection[Any], book_id: str, given: str) -> str:
    """Give the hash of a book's published ruleset by it or its beginning; raises NotFound.

    An order by rules that nobody has published could only park again what it names.
    """
    known = {published.ruleset_hash for published in select_publications(conn, book_id)}
    meant = [each for each in known if given and each.startswith(given)]
    if len(meant) != 1:
        words = ", ".join(sorted(each[:HASH_SHOWN] for each in known)) or "none"
        how = "no" if not meant else "more than one"
        raise NotFound(f"{how} published ruleset begins with {given!r}; published: {words}")
    return meant[0]


def require_in_books(
    conn: Connection[Any], book_id: str, operation_ids: Sequence[str]
) -> list[Repaired]:
    """Say how named operations stand; raises NotFound for any that the books do not have."""
    standing = select_repaired(conn, book_id, operation_ids)
    missing = sorted(set(operation_ids) - {each.operation_id for each in standing})
    if missing:
        raise NotFound(f"not in the books (of book {book_id}): {', '.join(missing[:IDS_SHOWN])}")
    return standing


def select_repaired(
    conn: Connection[Any], book_id: str, operation_ids: Sequence[str]
) -> list[Repaired]:
    """Read how operations stand."""
    rows = conn.execute(SELECT_OUTCOMES, (book_id, list(operation_ids)))
    return [Repaired(*row) for row in rows]


def explain(
    conn: Connection[Any], book_id: str, operation_id: str, *, now: dt.datetime | None = None
) -> Explanation:
    """Explain one parked or waiting operation; raises NotFound for any other."""
    wanted = ParkedFilter(operation_ids=(operation_id,))
    found = select_parked(conn, book_id, wanted, now=now, limit=1).items
    if not found:
        standing = select_repaired(conn, book_id, [operation_id])
        how = f"it is {standing[0].status}" if standing else "it is not in the books"
        raise NotFound(f"operation {operation_id} is neither parked nor waiting: {how}")
    operation = select_operations(conn, [found[0].position])[found[0].position]
    (tried,) = try_dry(conn, book_id, wanted)
    return Explanation(
        found[0],
        operation,
        tuple(select_standing(conn, book_id, operation.originals)),
        tuple(select_originals(conn, book_id, operation_id)),
        tuple(select_waiters(conn, book_id, operation_id)),
        tried,
    )


def _said(tried: Attempt) -> Tried:
    operation, settled = tried.booked.operation, settle(tried, tried.booked.position)
    outcome = settled.outcome
    return Tried(
        operation.operation_id,
        operation.business_type,
        outcome.status,
        outcome.reason,
        outcome.detail,
        settled.vouchers,
    )
