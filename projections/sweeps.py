"""Sweeps: what each completeness sweep compared, found and healed; the alarm's memory.

Not a projection of the log: a rebuild leaves it alone. Invariant: a row's counts are those of
the slices up to `reached`, because they change in the transaction that moves it or that heals.
"""
# ruff: noqa: S608 - the statements are made of this file's constants only

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from psycopg import Connection

from projections.pages import Page, checked_limit, page_of, read_cursor

DIFFERENCES_MAX = 1000
QUIET_KEPT_DAYS = 7

COLUMNS = (
    "sweep_id, trigger, incarnation, book_id, business_date::text, after_position, "
    "through_position, reached, results_through, operations, waiting, found, healed, "
    "results_lost, results_resent, differences::text, started_at, finished_at"
)
BEGIN = f"""
    INSERT INTO ledger.sweeps (trigger, incarnation, book_id, business_date, after_position,
        through_position, reached, results_through)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
    RETURNING {COLUMNS}
"""
ADD = f"""
    UPDATE ledger.sweeps
    SET reached = greatest(reached, %(reached)s), operations = operations + %(operations)s,
        waiting = waiting + %(waiting)s, found = found + %(found)s, healed = healed + %(healed)s,
        results_lost = results_lost + %(results_lost)s,
        results_resent = results_resent + %(results_resent)s,
        differences = CASE WHEN jsonb_array_length(differences) < {DIFFERENCES_MAX}
                           THEN differences || %(differences)s::jsonb ELSE differences END
    WHERE sweep_id = %(sweep_id)s
"""
FINISH = f"""
    UPDATE ledger.sweeps SET finished_at = clock_timestamp(), results_through = %s
    WHERE sweep_id = %s RETURNING {COLUMNS}
"""
SELECT_SCHEDULED = f"""
    SELECT {COLUMNS} FROM ledger.sweeps
    WHERE trigger = 'schedule' ORDER BY sweep_id DESC LIMIT 1
"""
SELECT_FINISHED = f"""
    SELECT {COLUMNS} FROM ledger.sweeps
    WHERE trigger = 'schedule' AND finished_at IS NOT NULL AND incarnation = %s
      AND (NOT %s OR after_position = 0)
    ORDER BY sweep_id DESC LIMIT 1
"""
SELECT_PAGE = f"""
    SELECT {COLUMNS} FROM ledger.sweeps
    WHERE sweep_id < %s AND (book_id IS NULL OR book_id = %s) ORDER BY sweep_id DESC LIMIT %s
"""
SELECT_TOTALS = """
    SELECT coalesce(sum(found), 0)::bigint, coalesce(sum(healed), 0)::bigint,
           coalesce(sum(results_resent), 0)::bigint, max(finished_at)
    FROM ledger.sweeps
"""
SELECT_NOW = "SELECT clock_timestamp()"
DELETE_QUIET = f"""
    DELETE FROM ledger.sweeps
    WHERE trigger = 'schedule' AND found = 0 AND results_resent = 0 AND after_position > 0
      AND finished_at < clock_timestamp() - interval '{QUIET_KEPT_DAYS} days' AND sweep_id < %s
"""


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One operation (or decision) that the books do not hold as the log says it.

    `kind`: missing (no trace of it in the books), differing, doubled (vouchers it should not
    have), unposted (vouchered without vouchers), unknown (in the books, not in the log), unmet
    (a decision that left no row: an order that is not overtaken, a message set aside and a proposal
    are healed, others are right only after a rebuild). A missing one that is healed into a
    day that is cut moves the numbers of later vouchers; `detail` says how many.
    """

    kind: str
    position: int
    book_id: str
    operation_id: str
    detail: str
    healed: bool = False


class Sweep(msgspec.Struct, frozen=True):
    """One sweep over after < position ≤ through; `differences` are the first thousand.

    `waiting` operations were not due. A sweep without `finished_at` runs, or was cut at
    `reached`. `results_lost` are outcomes that the ledger had not been told of.
    """

    sweep_id: int
    trigger: str
    incarnation: int
    book_id: str | None
    business_date: str | None
    after: int
    through: int
    reached: int
    results_through: int
    operations: int
    waiting: int
    found: int
    healed: int
    results_lost: int
    results_resent: int
    differences: tuple[Difference, ...]
    started_at: dt.datetime
    finished_at: dt.datetime | None

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing was found, or everything found was healed."""
        return self.found == self.healed


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What is added to a sweep's row."""

    reached: int = 0
    operations: int = 0
    waiting: int = 0
    found: int = 0
    healed: int = 0
    results_lost: int = 0
    results_resent: int = 0
    differences: tuple[Difference, ...] = ()


class SweepTotals(msgspec.Struct, frozen=True):
    """What all sweeps have found, healed and sent again, and when the last one ended."""

    found: int
    healed: int
    results_resent: int
    finished_at: dt.datetime | None


_decode_differences = msgspec.json.Decoder(tuple[Difference, ...]).decode


def begin_sweep(
    conn: Connection[Any],
    trigger: str,
    *,
    incarnation: int,
    span: tuple[int, int],
    book_id: str | None = None,
    business_date: str | None = None,
    results_through: int = 0,
) -> Sweep:
    """Make the row of a sweep over the span (after, through)."""
    after, through = span
    values = (trigger, incarnation, book_id, business_date, after, through, after)
    return _one(conn.execute(BEGIN, (*values, results_through)).fetchone())


def add_swept_in_tx(conn: Connection[Any], sweep_id: int, swept: Swept) -> None:
    """Add to a sweep what a transaction did."""
    values = msgspec.structs.asdict(swept)
    values["differences"] = msgspec.json.encode(swept.differences[:DIFFERENCES_MAX]).decode()
    conn.execute(ADD, {**values, "sweep_id": sweep_id})


def finish_sweep(conn: Connection[Any], sweep_id: int, results_through: int) -> Sweep:
    """Say that a sweep is whole; old scheduled ones that found nothing are forgotten."""
    with conn.transaction():
        finished = _one(conn.execute(FINISH, (results_through, sweep_id)).fetchone())
        if finished.trigger == "schedule":
            conn.execute(DELETE_QUIET, (sweep_id,))
    return finished


def select_scheduled(conn: Connection[Any]) -> Sweep | None:
    """Read the last sweep by schedule, finished or not."""
    return _maybe(conn.execute(SELECT_SCHEDULED).fetchone())


def select_finished(conn: Connection[Any], incarnation: int, *, full: bool = False) -> Sweep | None:
    """Read the last finished sweep by schedule of these books; `full`: from the first position."""
    return _maybe(conn.execute(SELECT_FINISHED, (incarnation, full)).fetchone())


def select_sweeps(
    conn: Connection[Any], book_id: str, *, cursor: str | None = None, limit: int = 100
) -> Page[Sweep]:
    """List sweeps, the last one first; differences of other books are left out."""
    key = read_cursor(cursor, int) or (2**62,)
    rows = conn.execute(SELECT_PAGE, (*key, book_id, checked_limit(limit) + 1)).fetchall()
    found = [_of_book(_one(row), book_id) for row in rows]
    return page_of(found, limit, lambda each: (each.sweep_id,))


def select_sweep_totals(conn: Connection[Any]) -> SweepTotals:
    """Sum all sweeps: an alarm's figures."""
    row = conn.execute(SELECT_TOTALS).fetchone()
    return SweepTotals(*(row or (0, 0, 0, None)))


def select_clock(conn: Connection[Any]) -> dt.datetime:
    """Read the database's clock, by which sweeps are due."""
    row = conn.execute(SELECT_NOW).fetchone()
    assert row is not None
    now: dt.datetime = row[0]
    return now


def _of_book(sweep: Sweep, book_id: str) -> Sweep:
    own = tuple(each for each in sweep.differences if each.book_id in ("", book_id))
    return msgspec.structs.replace(sweep, differences=own)


def _maybe(row: tuple[Any, ...] | None) -> Sweep | None:
    return None if row is None else _one(row)


def _one(row: tuple[Any, ...] | None) -> Sweep:
    assert row is not None
    values: list[Any] = [*row[:-3], _decode_differences(row[-3]), *row[-2:]]
    return Sweep(*values)
