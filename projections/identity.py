"""The identity: booked = vouchered + parked + waiting + non-posting, in count and amount.

The booked side comes from the seals' cumulative totals (what the engine sealed), the other
side from the outcomes; both up to the visible position. Invariant: a difference is never
explained away: it is shown per currency.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection

from ledger.events import MOVEMENT_KINDS, OperationBooked
from projections.positions import select_visible

STATUSES = ("vouchered", "parked", "waiting", "non_posting")
SELECT_SEALS = """
    SELECT first_id, last_id, totals FROM ledger.seals
    WHERE book_id = %s AND first_id <= %s ORDER BY first_id DESC LIMIT 2
"""
SELECT_ROWS = """
    SELECT state FROM ledger.stored_events
    WHERE notification_id BETWEEN %s AND %s AND topic = 'ledger.recorded:OperationBooked'
"""
SELECT_TOTALS = """
    SELECT status, currency, sum(count), sum(amount_minor) FROM outcome_totals
    WHERE book_id = %s GROUP BY status, currency
"""
SELECT_AHEAD = """
    SELECT o.status, a.key, count(*), sum(a.value::numeric)
    FROM outcomes o CROSS JOIN LATERAL jsonb_each_text(o.amounts) a
    WHERE o.book_id = %s AND o.position > %s GROUP BY o.status, a.key
"""
_decode = msgspec.json.Decoder(OperationBooked).decode


class Counted(msgspec.Struct, frozen=True):
    """A number of operations and their gross amount."""

    count: int
    amount_minor: int = field(name="amount")


class CurrencyIdentity(msgspec.Struct, frozen=True):
    """One currency's line; `currency` is empty for operations that move no money.

    An operation counts once in every currency of its movement legs.
    """

    currency: str
    booked: Counted
    vouchered: Counted
    parked: Counted
    waiting: Counted
    non_posting: Counted
    holds: bool


class Identity(msgspec.Struct, frozen=True):
    """The identity of a book up to a position."""

    book_id: str
    position: int
    holds: bool
    currencies: tuple[CurrencyIdentity, ...]


def select_identity(conn: Connection[Any], book_id: str) -> Identity:
    """Read both sides up to the visible position. Needs one snapshot (repeatable read)."""
    visible = select_visible(conn)
    booked = _booked(conn, book_id, visible)
    ended = _ended(conn, book_id, visible)
    currencies = sorted({*booked, *(currency for _, currency in ended)})
    lines = tuple(_line(currency, booked, ended) for currency in currencies)
    lines = tuple(line for line in lines if line.booked.count or not line.holds)
    return Identity(book_id, visible, all(line.holds for line in lines), lines)


def _line(
    currency: str,
    booked: dict[str, tuple[int, int]],
    ended: dict[tuple[str, str], tuple[int, int]],
) -> CurrencyIdentity:
    parts = [ended.get((status, currency), (0, 0)) for status in STATUSES]
    whole = booked.get(currency, (0, 0))
    holds = whole == (sum(part[0] for part in parts), sum(part[1] for part in parts))
    vouchered, parked, waiting, non_posting = (Counted(*part) for part in parts)
    return CurrencyIdentity(
        currency, Counted(*whole), vouchered, parked, waiting, non_posting, holds
    )


def _booked(conn: Connection[Any], book_id: str, visible: int) -> dict[str, tuple[int, int]]:
    """Take the totals of the last whole seal, and add the rows of one that is cut."""
    seals = conn.execute(SELECT_SEALS, (book_id, visible)).fetchall()
    if not seals:
        return {}
    first_id, last_id, totals = seals[0]
    if last_id <= visible:
        return _totals(totals)
    before = _totals(seals[1][2]) if len(seals) > 1 else {}
    for (state,) in conn.execute(SELECT_ROWS, (first_id, visible)):
        operation = _decode(state)
        if operation.book_id == book_id:
            for currency, amount_minor in movement_of(operation).items():
                old = before.get(currency, (0, 0))
                before[currency] = (old[0] + 1, old[1] + amount_minor)
    return before


def _ended(
    conn: Connection[Any], book_id: str, visible: int
) -> dict[tuple[str, str], tuple[int, int]]:
    """Take the outcome totals without what faster lanes have done beyond the position."""
    ended: dict[tuple[str, str], tuple[int, int]] = {}
    for status, currency, count, amount_minor in conn.execute(SELECT_TOTALS, (book_id,)):
        ended[status, currency] = (int(count), int(amount_minor))
    for status, currency, count, amount_minor in conn.execute(SELECT_AHEAD, (book_id, visible)):
        old = ended.get((status, currency), (0, 0))
        ended[status, currency] = (old[0] - int(count), old[1] - int(amount_minor))
    return ended


def movement_of(operation: OperationBooked) -> dict[str, int]:
    """Sum the movement legs' amounts per currency; {"": 0} when nothing moves."""
    totals: dict[str, int] = {}
    for leg in operation.legs:
        if leg.kind in MOVEMENT_KINDS:
            totals[leg.currency] = totals.get(leg.currency, 0) + leg.amount_minor
    return totals or {"": 0}


def _totals(text: str) -> dict[str, tuple[int, int]]:
    decoded = msgspec.json.decode(text, type=dict[str, tuple[int, int]])
    return dict(decoded)
