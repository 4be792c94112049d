"""Agreement: a stretch of the log and its outcomes proved equal as one text each.

A sweep reads every operation, and nearly always all of a stretch is as it should be: to compare
two texts is cheaper than to bring rows together. Invariant: texts agree only if every operation
of the stretch has its outcome at its position, of its name, day and amounts, and no outcome is
beside them; where they do not, nothing is said about which operation it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from psycopg import Connection

from ledger.events import MOVEMENT_KINDS

SEPARATOR = "\x1f"  # ends each field; a text with more of them than fields is not believed
FIELDS = 5
SELECT_LOGGED = """
    SELECT notification_id, state FROM ledger.stored_events
    WHERE notification_id > %(after)s AND notification_id <= %(until)s
      AND topic = 'ledger.recorded:OperationBooked'
      AND (%(day)s::bytea IS NULL OR position(%(day)s::bytea IN state) > 0)
    ORDER BY notification_id
"""
SELECT_OUTCOMES = """
    SELECT count(*), coalesce(string_agg(
        concat_ws(chr(31), position, book_id, operation_id, business_date, amounts, ''), ''
        ORDER BY position), '')
    FROM outcomes
    WHERE position > %(after)s AND position <= %(until)s
      AND (%(date)s::date IS NULL OR business_date = %(date)s::date)
      AND (%(book)s::text IS NULL OR book_id = %(book)s::text)
"""


class LoggedLeg(msgspec.Struct, frozen=True, gc=False):
    """Of a leg, what moves: its kind, and the amount in minor units of a currency."""

    kind: str
    currency: str
    amount: int


class Logged(msgspec.Struct, frozen=True, gc=False):
    """Of an operation in the log, what its outcome repeats."""

    book_id: str
    operation_id: str
    business_date: str
    legs: tuple[LoggedLeg, ...] = ()

    def movement(self) -> dict[str, int]:
        """Add up what moves per currency, in minor units; {"": 0} when nothing does."""
        totals: dict[str, int] = {}
        for leg in self.legs:
            if leg.kind in MOVEMENT_KINDS:
                totals[leg.currency] = totals.get(leg.currency, 0) + leg.amount
        return totals or {"": 0}


_decode = msgspec.json.Decoder(Logged).decode


def count_agreeing_in_tx(
    conn: Connection[Any],
    span: Mapping[str, object],
    takes: Callable[[str, str], bool] | None,
) -> int | None:
    """Count the operations of a stretch if each agrees with its outcome; None if one does not.

    `span`: after, until, and day, date and book as far as they are chosen; `takes` says whether
    an operation of a book and a business date is meant (None: all are).
    """
    lines: list[str] = []
    with conn.cursor(binary=True) as cursor:
        cursor.execute(SELECT_LOGGED, span)
        for position, state in cursor:
            try:
                logged = _decode(state)
            except msgspec.MsgspecError:
                return None
            if takes is None or takes(logged.book_id, logged.business_date):
                lines.append(
                    f"{position}\x1f{logged.book_id}\x1f{logged.operation_id}\x1f"
                    f"{logged.business_date}\x1f{amounts_text(logged.movement())}\x1f"
                )
        cursor.execute(SELECT_OUTCOMES, span)
        found, text = cursor.fetchone() or (0, "")
    if found != len(lines) or text.count(SEPARATOR) != FIELDS * found or text != "".join(lines):
        return None
    return found


def amounts_text(movement: Mapping[str, int]) -> str:
    """Write a movement as PostgreSQL writes the same JSON: shorter keys first, then by bytes."""
    if len(movement) == 1:
        ((currency, minor),) = movement.items()
        return f'{{"{currency}": {minor}}}'
    keys = sorted(movement, key=lambda key: (len(key.encode()), key.encode()))
    return "{" + ", ".join(f'"{key}": {movement[key]}' for key in keys) + "}"
