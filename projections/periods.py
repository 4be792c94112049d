"""Opened days, day cuts and period changes as the books met them.

Invariant: a voucher is numbered by the first cut that covers its accounting date, and a cut is
performed when all of them are (`numbering.py` says in which order).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection

from accounting.dating import CLOSED, CUT, DAY, Calendar
from accounting.decided import (
    DayCut,
    ParkedAtCut,
    PeriodChangeProposed,
    PeriodChangeRejected,
    PeriodClosed,
    PeriodReopened,
)
from accounting.periods import CLOSE, day_before
from ledger.events import BookOpened, DayOpened
from projections.numbering import number_chunk_in_tx, try_numbers_in_tx
from projections.pages import Page, checked_limit, page_of, read_cursor

PeriodDecision = (
    BookOpened | DayOpened | DayCut | PeriodChangeProposed | PeriodChangeRejected
    | PeriodClosed | PeriodReopened
)  # fmt: skip
INSERT_DAY = """
    INSERT INTO business_days (position, book_id, open_date) VALUES (%s, %s, %s)
    ON CONFLICT ON CONSTRAINT business_days_pkey DO NOTHING
"""
INSERT_CUT = """
    INSERT INTO day_cuts (position, book_id, cut_date, open_date, parked, operations,
        operation_ids, maker, note, performed)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, false)
    ON CONFLICT ON CONSTRAINT day_cuts_pkey DO NOTHING
"""
INSERT_CHANGE = """
    INSERT INTO period_changes (position, book_id, change_id, step, period_date, maker, checker,
        note)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT ON CONSTRAINT period_changes_pkey DO NOTHING
"""
SELECT_FACTS = """
    SELECT * FROM (
        SELECT position, book_id, 'day' AS kind, open_date::text AS date FROM business_days
        UNION ALL
        SELECT position, book_id, 'cut', cut_date::text FROM day_cuts
        UNION ALL
        SELECT position, book_id, step, period_date::text FROM period_changes
        WHERE step IN ('closed', 'reopened')
    ) facts WHERE position <> ALL(%s) ORDER BY position
"""
# An order below the cut may still bring a voucher that the cut numbers.
LOCK_DUE_CUT = """
    SELECT position, book_id, cut_date::text FROM day_cuts
    WHERE NOT performed AND position <= %s
      AND NOT EXISTS (SELECT 1 FROM repair_orders r
                      WHERE NOT r.performed AND r.position < day_cuts.position)
    ORDER BY position LIMIT 1 FOR UPDATE
"""
REOPEN_CUTS = """
    UPDATE day_cuts SET performed = false
    WHERE book_id = %s AND cut_date >= %s::date AND performed
"""
MARK_CUT = "UPDATE day_cuts SET performed = true WHERE position = %s"
_CUT = """
    SELECT c.position, c.book_id, c.cut_date::text, c.open_date::text, c.parked, c.operations,
           c.operation_ids, c.maker, c.note, c.performed, s.booked_at
    FROM day_cuts c
    LEFT JOIN LATERAL (SELECT booked_at FROM ledger.seals WHERE first_id <= c.position
                       ORDER BY first_id DESC LIMIT 1) s ON true
"""
SELECT_CUTS = f"""{_CUT}
    WHERE c.book_id = %(book)s AND (%(after)s::bigint IS NULL OR c.position < %(after)s)
    ORDER BY c.position DESC LIMIT %(limit)s
"""
SELECT_CUT_OF = f"""{_CUT}
    WHERE c.book_id = %s AND c.cut_date >= %s::date ORDER BY c.position LIMIT 1
"""
_CHANGE = """
    SELECT p.position, p.change_id, p.step, p.period_date::text, p.maker, p.checker, p.note,
           s.booked_at,
           p.step LIKE '%%proposed' AND NOT EXISTS (
               SELECT 1 FROM period_changes d WHERE d.book_id = p.book_id
               AND d.change_id = p.change_id AND d.position > p.position)
    FROM period_changes p
    LEFT JOIN LATERAL (SELECT booked_at FROM ledger.seals WHERE first_id <= p.position
                       ORDER BY first_id DESC LIMIT 1) s ON true
"""
SELECT_CHANGES = f"""{_CHANGE}
    WHERE p.book_id = %(book)s AND (%(after)s::bigint IS NULL OR p.position < %(after)s)
    ORDER BY p.position DESC LIMIT %(limit)s
"""
SELECT_CHANGE = f"""{_CHANGE}
    WHERE p.book_id = %s AND p.change_id = %s ORDER BY p.position DESC LIMIT 1
"""
SELECT_CLOSING_POSITION = """
    SELECT min(position) FROM business_days WHERE book_id = %s AND open_date > %s::date
"""
SELECT_PARKED_AT = """
    SELECT o.status, coalesce(o.reason, ''), a.key, count(*), sum(a.value::numeric)::bigint
    FROM outcomes o CROSS JOIN LATERAL jsonb_each_text(o.amounts) a
    WHERE o.book_id = %s AND o.status IN ('parked', 'waiting') AND o.business_date <= %s::date
    GROUP BY o.status, coalesce(o.reason, ''), a.key ORDER BY 1, 2, 3
"""
SELECT_PARKED_IDS = """
    SELECT operation_id FROM outcomes
    WHERE book_id = %s AND status IN ('parked', 'waiting') AND business_date <= %s::date
    ORDER BY position
"""
_decode_parked = msgspec.json.Decoder(tuple[ParkedAtCut, ...]).decode


class CutRow(msgspec.Struct, frozen=True):
    """A cut as it is listed: what was open then, and whether its vouchers have numbers."""

    position: int
    book_id: str
    cut_date: str
    open_date: str
    parked: tuple[ParkedAtCut, ...]
    operations: int
    operation_ids: tuple[str, ...]
    maker: str
    note: str
    performed: bool
    booked_at: str | None


class PeriodChange(msgspec.Struct, frozen=True):
    """A step of a change; `is_open`: proposed, and waiting for a second person."""

    position: int
    change_id: str
    step: str
    period_date: str | None
    maker: str | None
    checker: str | None
    note: str
    booked_at: str | None
    is_open: bool


class PeriodList(msgspec.Struct, frozen=True):
    """How far the book is closed and cut, and every change, newest first."""

    closed_through: str | None
    cut_through: str | None
    changes: tuple[PeriodChange, ...]
    next_cursor: str | None


class DueCut(msgspec.Struct, frozen=True):
    """A cut that every lane and every order below it has passed."""

    position: int
    book_id: str
    cut_date: str


class OpenAtCut(msgspec.Struct, frozen=True):
    """What is parked or waiting up to a date: counts and amounts, and every id."""

    parked: tuple[ParkedAtCut, ...] = field(default=())
    operation_ids: tuple[str, ...] = ()


def insert_period_decision_in_tx(
    conn: Connection[Any], position: int, decision: PeriodDecision
) -> None:
    """Keep what was decided about days and periods; each lane brings it, the first writes it."""
    match decision:
        case BookOpened():
            conn.execute(INSERT_DAY, (position, decision.book_id, decision.open_business_date))
        case DayOpened():
            conn.execute(INSERT_DAY, (position, decision.book_id, decision.business_date))
        case DayCut():
            conn.execute(INSERT_CUT, cut_row(position, decision)[:-1])
        case _:
            conn.execute(INSERT_CHANGE, change_row(position, decision))


def cut_row(position: int, cut: DayCut, *, performed: bool = False) -> tuple[Any, ...]:
    """Give the columns of a cut's row."""
    return (
        position,
        cut.book_id,
        cut.cut_date,
        cut.open_date,
        msgspec.json.encode(cut.parked).decode(),
        cut.operations,
        list(cut.operation_ids),
        cut.maker,
        cut.note,
        performed,
    )


def change_row(
    position: int,
    change: PeriodChangeProposed | PeriodChangeRejected | PeriodClosed | PeriodReopened,
) -> tuple[Any, ...]:
    """Give the columns of a period change's row."""
    name = (position, change.book_id, change.change_id)
    match change:
        case PeriodChangeProposed():
            step = "close_proposed" if change.kind == CLOSE else "reopen_proposed"
            return (*name, step, change.period_date, change.maker, None, change.note)
        case PeriodChangeRejected():
            return (*name, "rejected", None, None, change.checker, change.note)
        case PeriodClosed():
            people = (change.maker, change.checker)
            return (*name, "closed", change.through_date, *people, change.note)
        case PeriodReopened():
            people = (change.maker, change.checker)
            return (*name, "reopened", change.from_date, *people, change.note)


def remember(calendar: Calendar, position: int, decision: object) -> None:
    """Remember a decision that dates vouchers; any other one is left alone."""
    match decision:
        case BookOpened():
            calendar.add(DAY, position, decision.book_id, decision.open_business_date)
        case DayOpened():
            calendar.add(DAY, position, decision.book_id, decision.business_date)
        case DayCut():
            calendar.add(CUT, position, decision.book_id, decision.cut_date)
        case PeriodClosed():
            calendar.add(CLOSED, position, decision.book_id, decision.through_date)
        case PeriodReopened():
            calendar.add(CLOSED, position, decision.book_id, day_before(decision.from_date))
        case _:
            pass


def load_calendar(conn: Connection[Any], into: Calendar) -> None:
    """Read every day, cut and close that any lane has met and `into` has not."""
    for position, book_id, kind, date in conn.execute(SELECT_FACTS, (into.positions(),)):
        match kind:
            case "closed":
                into.add(CLOSED, position, book_id, date)
            case "reopened":
                into.add(CLOSED, position, book_id, day_before(date))
            case _:
                into.add(kind, position, book_id, date)


def lock_due_cut_in_tx(conn: Connection[Any], visible: int) -> DueCut | None:
    """Lock the first cut up to the visible position that nobody has performed.

    None also while somebody takes numbers back.
    """
    row = conn.execute(LOCK_DUE_CUT, (visible,)).fetchone()
    return DueCut(*row) if row is not None and try_numbers_in_tx(conn) else None


def perform_cut_in_tx(conn: Connection[Any], cut: DueCut) -> bool:
    """Number a chunk of the vouchers that the cut covers; True when none is left."""
    if not number_chunk_in_tx(conn, cut.book_id, cut.cut_date):
        return False
    conn.execute(MARK_CUT, (cut.position,))
    return True


def reopen_cuts_in_tx(conn: Connection[Any], book_id: str, date: str) -> None:
    """Let the cuts that cover a date count as not performed: their vouchers get numbers again."""
    conn.execute(REOPEN_CUTS, (book_id, date))


def select_closing_position(conn: Connection[Any], book_id: str, date: str) -> int | None:
    """Find where the day after a date was opened; None while the books have not met it."""
    row = conn.execute(SELECT_CLOSING_POSITION, (book_id, date)).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def select_open_at(conn: Connection[Any], book_id: str, date: str) -> OpenAtCut:
    """Read what is parked or waiting with a business date up to `date`."""
    parked = tuple(ParkedAtCut(*row) for row in conn.execute(SELECT_PARKED_AT, (book_id, date)))
    ids = conn.execute(SELECT_PARKED_IDS, (book_id, date)).fetchall()
    return OpenAtCut(parked, tuple(row[0] for row in ids))


def select_cuts(
    conn: Connection[Any], book_id: str, *, cursor: str | None = None, limit: int = 100
) -> Page[CutRow]:
    """List a book's cuts, newest first."""
    after = read_cursor(cursor, int) or (None,)
    values = {"book": book_id, "after": after[0], "limit": checked_limit(limit) + 1}
    found = [_cut(row) for row in conn.execute(SELECT_CUTS, values)]
    return page_of(found, limit, lambda cut: (cut.position,))


def select_cut_of(conn: Connection[Any], book_id: str, date: str) -> CutRow | None:
    """Read the first cut that covers a date."""
    row = conn.execute(SELECT_CUT_OF, (book_id, date)).fetchone()
    return None if row is None else _cut(row)


def select_change(conn: Connection[Any], book_id: str, change_id: str) -> PeriodChange | None:
    """Read the last step of a change."""
    row = conn.execute(SELECT_CHANGE, (book_id, change_id)).fetchone()
    return None if row is None else PeriodChange(*row)


def select_periods(
    conn: Connection[Any], book_id: str, *, cursor: str | None = None, limit: int = 100
) -> PeriodList:
    """List a book's period changes, newest first, and where it stands."""
    after = read_cursor(cursor, int) or (None,)
    values = {"book": book_id, "after": after[0], "limit": checked_limit(limit) + 1}
    found = [PeriodChange(*row) for row in conn.execute(SELECT_CHANGES, values)]
    page = page_of(found, limit, lambda change: (change.position,))
    calendar = Calendar()
    load_calendar(conn, calendar)
    closed = calendar.date_below(CLOSED, book_id, 2**63 - 1)
    cut = calendar.date_below(CUT, book_id, 2**63 - 1)
    return PeriodList(closed or None, cut, page.items, page.next_cursor)


def _cut(row: tuple[Any, ...]) -> CutRow:
    values = list(row)
    values[4], values[6] = _decode_parked(row[4]), tuple(row[6])
    return CutRow(*values)
