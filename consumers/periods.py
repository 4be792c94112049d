"""Cutting days and closing periods: what must be true first, then the decision in the log.

A cut waits until every lane has passed the opening of the next day and every repair order is
performed, so the books include the day whole and what is still parked can be listed.
Invariant: repeating a cut changes nothing; the list was right at the place in the log where
the cut stands (no decision came between, which is proved under the log's lock).
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from eventsourcing.persistence import IntegrityError
from psycopg import Connection

from accounting import periods
from accounting.decided import DayCut, ParkedAtCut
from accounting.decisions import AccountingDecisions, DecisionRefused
from accounting.periods import CLOSE, LISTED_BYTES_MAX
from ledger.books import select_book
from projections.outcomes import select_missed
from projections.periods import (
    CutRow,
    OpenAtCut,
    PeriodChange,
    select_change,
    select_closing_position,
    select_cut_of,
    select_open_at,
)
from projections.positions import select_head, select_visible
from projections.repair_orders import exists_due

BEGIN_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
EXISTS_DECISION = """
    SELECT EXISTS (SELECT 1 FROM ledger.stored_events
                   WHERE notification_id > %s AND starts_with(topic, 'accounting.'))
"""
Wait = Callable[[], object]


class CutDay(msgspec.Struct, frozen=True):
    """The cut that covers a date; `is_new` is False when it was there before."""

    cut: CutRow
    is_new: bool


class _Look(msgspec.Struct, frozen=True):
    """One look at the books: what is missing for the cut, else what it lists and up to where."""

    missing: str | None
    head: int
    open_items: OpenAtCut


class BooksMoved(Exception):
    """A decision came between the look at the books and the cut: look again."""


def cut_day(
    conn: Connection[Any],
    decisions: AccountingDecisions,
    book_id: str,
    date: dt.date,
    *,
    maker: str,
    note: str = "",
    timeout_s: float = 60.0,
    wait: Wait = lambda: time.sleep(0.02),
) -> CutDay:
    """Cut a book through a date, and wait until the consumers have numbered its vouchers.

    Needs an autocommit connection. Raises DecisionRefused: `day_open` for a date that is not
    over, `books_behind` when the books do not come so far in time.
    """
    deadline = time.monotonic() + timeout_s
    cut_date = date.isoformat()
    while True:
        done = select_cut_of(conn, book_id, cut_date)
        if done is not None:
            is_new = False
            break
        book = select_book(conn, book_id)
        if date >= book.open_business_date:
            detail = f"{cut_date} is not over: the open day is {book.open_business_date}"
            raise DecisionRefused("day_open", detail)
        look = _look(conn, book_id, cut_date)
        missing = look.missing
        if missing is None:
            cut = _cut(book_id, cut_date, str(book.open_business_date), look, (maker, note))
            try:
                is_new = write_cut(decisions, cut, look.head)
                break
            except (BooksMoved, IntegrityError):
                missing = "other decisions are being written; try again"
        if time.monotonic() > deadline:
            raise DecisionRefused("books_behind", missing)
        wait()
    while True:
        done = select_cut_of(conn, book_id, cut_date)
        if done is not None and (done.performed or time.monotonic() > deadline):
            return CutDay(done, is_new)
        if time.monotonic() > deadline:
            raise DecisionRefused("books_behind", "the cut is written; no consumer has met it")
        wait()


def propose_change(
    conn: Connection[Any],
    decisions: AccountingDecisions,
    book_id: str,
    kind: str,
    date: dt.date,
    *,
    maker: str,
    note: str = "",
) -> str:
    """Propose to close through a date, or to reopen from one; return the proposal's id.

    Raises DecisionRefused: `period_open` for a close that reaches the open day.
    """
    book = select_book(conn, book_id)
    if kind == CLOSE and date >= book.open_business_date:
        detail = f"{date} is not over: the open day is {book.open_business_date}"
        raise DecisionRefused("period_open", detail)
    return periods.propose_change(
        decisions, book_id, kind, date.isoformat(), maker=maker, note=note
    )


def wait_for_change(
    conn: Connection[Any],
    book_id: str,
    change_id: str,
    *,
    is_open: bool,
    timeout_s: float = 60.0,
    wait: Wait = lambda: time.sleep(0.02),
) -> PeriodChange | None:
    """Wait until the books have met a proposal (or, not `is_open`, what became of it)."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = select_change(conn, book_id, change_id)
        if (found is not None and (is_open or not found.is_open)) or time.monotonic() > deadline:
            return found
        wait()


def _look(conn: Connection[Any], book_id: str, cut_date: str) -> _Look:
    """Look in one snapshot whether the day is in the books whole, and at what is open."""
    with conn.transaction():
        conn.execute(BEGIN_SNAPSHOT)
        head, visible = select_head(conn), select_visible(conn)
        closing = select_closing_position(conn, book_id, cut_date)
        missing = None
        if closing is None or closing > visible:
            missing = f"the books are at position {visible:,}, inside the day"
        elif _exists_decision(conn, visible) or exists_due(conn) or select_missed(conn):
            missing = "a decision in the log is not performed yet"
        open_items = select_open_at(conn, book_id, cut_date) if missing is None else OpenAtCut()
    return _Look(missing, head, open_items)


def _exists_decision(conn: Connection[Any], after: int) -> bool:
    row = conn.execute(EXISTS_DECISION, (after,)).fetchone()
    return bool(row and row[0])


def _cut(book_id: str, cut_date: str, open_date: str, look: _Look, said: tuple[str, str]) -> DayCut:
    ids = look.open_items.operation_ids
    parked: tuple[ParkedAtCut, ...] = look.open_items.parked
    return DayCut(book_id, cut_date, open_date, parked, len(ids), _that_fit(ids), *said)


def _that_fit(operation_ids: Sequence[str]) -> tuple[str, ...]:
    """Take the first ids, as many as a message has room for."""
    room = LISTED_BYTES_MAX
    for number, operation_id in enumerate(operation_ids):
        room -= len(msgspec.json.encode(operation_id)) + 2
        if room < 0:
            return tuple(operation_ids[:number])
    return tuple(operation_ids)


def write_cut(decisions: AccountingDecisions, cut: DayCut, head: int) -> bool:
    """Write the cut; False when somebody has cut the date already, and the books will meet it.

    Raises BooksMoved when a decision stands after the look's `head`, IntegrityError when
    another one is being written at the same time: look again.
    """

    def guard_in_tx(cursor: Any) -> None:
        row = cursor.execute(EXISTS_DECISION, (head,)).fetchone()
        if row and row[0]:
            raise BooksMoved

    return periods.cut_day(decisions, cut, guard_in_tx) is not None
