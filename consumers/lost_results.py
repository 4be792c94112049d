"""Lost results: outcomes that the ledger was not told of are found by the database and sent again.

Invariant: sending again is harmless, because a revision only grows; what is found is what the
ledger's status rows say, whatever became of outbox rows and messages.
"""
# ruff: noqa: S608 - the statements are made of this file's constants only

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from ledger.statuses import AccountingResult
from projections.outcomes import RANKS
from projections.positions import select_visible

SLICE_POSITIONS = 50_000
LOOK_POSITIONS = 5_000_000
DeliverInTx = Callable[[Connection[Any], Sequence[AccountingResult]], object]

# Outcomes that the ledger was not told of, or not of the last change.
LOST_COLUMNS = "o.position, o.book_id, o.operation_id, o.status, o.reason, o.attempt_position"
RANK = " ".join(f"WHEN '{status}' THEN {rank}" for status, rank in RANKS.items())
REVISION = f"(o.attempt_position * 4 + CASE o.status {RANK} END)"
SELECT_LOST = f"""
    SELECT {LOST_COLUMNS}
    FROM outcomes o
    JOIN ledger.stored_events e ON e.notification_id = o.position
    LEFT JOIN ledger.accounting_statuses s ON s.stream_id = e.originator_id
    WHERE o.position > %(after)s AND o.position <= %(through)s
      AND (s.revision IS NULL OR s.revision < {REVISION})
    ORDER BY o.position
"""
# The same of a long stretch: statuses are joined to the log first, where the planner knows how
# many there are, so that it reads all of them once instead of looking each one up.
SELECT_LOST_SPAN = f"""
    SELECT min(o.position), max(o.position)
    FROM (SELECT position, status, attempt_position FROM outcomes
          WHERE position > %(after)s AND position <= %(through)s) o
    JOIN (SELECT e.notification_id, s.revision FROM ledger.stored_events e
          LEFT JOIN ledger.accounting_statuses s ON s.stream_id = e.originator_id
          WHERE e.notification_id > %(after)s AND e.notification_id <= %(through)s
            AND e.topic = 'ledger.recorded:OperationBooked' OFFSET 0) s
      ON s.notification_id = o.position
    WHERE s.revision IS NULL OR s.revision < {REVISION}
"""
SELECT_LOST_OPEN = f"""
    SELECT {LOST_COLUMNS}
    FROM ledger.accounting_statuses s
    JOIN outcomes o ON o.book_id = s.book_id AND o.operation_id = s.operation_id
    WHERE s.status IN ('parked', 'waiting') AND s.revision < {REVISION}
      AND NOT (o.position > %(after)s AND o.position <= %(through)s)
      AND o.attempt_position <= %(through)s
    ORDER BY o.position
"""


class Lost(msgspec.Struct, frozen=True, gc=False):
    """A result that the ledger does not know, and its operation's position."""

    position: int
    result: AccountingResult


def select_lost(conn: Connection[Any], after: int, through: int) -> list[Lost]:
    """Find the outcomes of a stretch that the ledger was not told of."""
    span = {"after": after, "through": through}
    return [_lost(row) for row in conn.execute(SELECT_LOST, span)]


def slices_with_lost(conn: Connection[Any], after: int, through: int) -> list[tuple[int, int]]:
    """Look through a stretch; give slices of it that hold all of which the ledger was not told."""
    found: list[tuple[int, int]] = []
    while after < through:
        until = min(through, after + LOOK_POSITIONS)
        span = {"after": after, "through": until}
        row = conn.execute(SELECT_LOST_SPAN, span).fetchone()
        if row is not None and row[0] is not None:
            first, last = row
            starts = range(first - 1, last, SLICE_POSITIONS)
            found += [(start, min(last, start + SLICE_POSITIONS)) for start in starts]
        after = until
    return found


def select_lost_open(conn: Connection[Any], after: int, through: int) -> list[Lost]:
    """Find, outside a stretch, what the ledger takes for open and is not so any more.

    Looked at is what was decided up to `through`: later results may be on their way.
    """
    span = {"after": after, "through": through}
    return [_lost(row) for row in conn.execute(SELECT_LOST_OPEN, span)]


def resend_results(
    conn: Connection[Any],
    *,
    after: int = 0,
    through: int | None = None,
    deliver_in_tx: DeliverInTx,
    progress: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """Deliver again every result that the ledger does not know; return their positions.

    Looked at are the outcomes with after < position ≤ through (default: all that are visible)
    and, wherever they are, those that the ledger takes for open. `deliver_in_tx` is
    `apply_results_in_tx` on the log bus, `insert_outbox_in_tx` on Kafka.
    """
    end = select_visible(conn) if through is None else through
    with conn.transaction():
        lost = select_lost_open(conn, after, end)
        deliver_in_tx(conn, [each.result for each in lost])
    sent = [each.position for each in lost]
    while after < end:
        until = min(end, after + SLICE_POSITIONS)
        with conn.transaction():
            lost = select_lost(conn, after, until)
            deliver_in_tx(conn, [each.result for each in lost])
        sent += [each.position for each in lost]
        progress(until - after)
        after = until
    return sent


def _lost(row: tuple[Any, ...]) -> Lost:
    position, book_id, operation_id, status, reason, attempt_position = row
    revision = attempt_position * 4 + RANKS[status]
    return Lost(position, AccountingResult(book_id, operation_id, status, reason, revision))
