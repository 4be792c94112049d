"""Reading the log: the rows that are published, in order, proved to be without a hole.

Invariant: a stretch is returned only if every position in it is there; a position beyond
the log's head stops the reader (the database is older than what was read before).
"""
# ruff: noqa: S608 - the statements are made of this file's constants only

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from consumers.messages import LogRow, decode_posted, log_row
from ledger.errors import LogCorrupt
from ledger.events import OperationBooked
from projections.positions import select_head

SELECT_PUBLISHED = """
    SELECT notification_id, topic, state FROM ledger.stored_events
    WHERE notification_id > %s AND notification_id <= %s
      AND (topic IN ('ledger.recorded:OperationBooked', 'ledger.recorded:BookOpened',
                     'ledger.recorded:DayOpened')
           OR starts_with(topic, 'accounting.'))
    ORDER BY notification_id
"""
SELECT_DECISIONS = f"""
    SELECT * FROM ({SELECT_PUBLISHED}) AS published
    WHERE topic <> 'ledger.recorded:OperationBooked'
"""
SELECT_AT = """
    SELECT notification_id, topic, state FROM ledger.stored_events
    WHERE notification_id = ANY(%s) ORDER BY notification_id
"""
COUNT_ROWS = """
    SELECT count(*) FROM ledger.stored_events WHERE notification_id > %s AND notification_id <= %s
"""
# Not qualified: a rebuild from the topic has rows of its own before the log's.
SELECT_OPERATIONS = """
    SELECT notification_id, state FROM stored_events
    WHERE notification_id = ANY(%s) AND topic = 'ledger.recorded:OperationBooked'
"""


class Stretch(NamedTuple):
    """The published rows with after < position ≤ through."""

    after: int
    through: int
    rows: list[LogRow]


def select_stretch(conn: Connection[Any], after: int, *, rows_max: int) -> Stretch:
    """Read at most `rows_max` positions of the log after a position.

    Raises LogCorrupt for a hole, or when `after` is beyond the head.
    """
    head = select_head(conn)
    if after > head:
        raise LogCorrupt(f"position {after} is beyond the head {head} of this log")
    through = min(head, after + rows_max)
    if through == after:
        return Stretch(after, after, [])
    return Stretch(after, through, select_published(conn, after, through))


def select_published(conn: Connection[Any], after: int, through: int) -> list[LogRow]:
    """Read the published rows of a stretch that lies below the head."""
    counted = conn.execute(COUNT_ROWS, (after, through)).fetchone()
    if counted is None or counted[0] != through - after:
        found = counted[0] if counted else 0
        raise LogCorrupt(f"{through - after - found} rows are missing in ({after}, {through}]")
    return _rows(conn, SELECT_PUBLISHED, after, through)


def select_decisions(conn: Connection[Any], through: int) -> list[LogRow]:
    """Read what is published and no operation, from the beginning."""
    return _rows(conn, SELECT_DECISIONS, 0, through)


def select_rows_at(conn: Connection[Any], positions: Sequence[int]) -> list[LogRow]:
    """Read the rows at given positions, in order."""
    return _rows(conn, SELECT_AT, list(positions))


def _rows(conn: Connection[Any], statement: str, *values: object) -> list[LogRow]:
    with conn.cursor(binary=True) as cursor:
        cursor.execute(statement.encode(), values)
        # All at once: row by row, Python asks for each.
        return [log_row(position, topic, state) for position, topic, state in cursor.fetchall()]


def select_operations(
    conn: Connection[Any], positions: Iterable[int]
) -> dict[int, OperationBooked]:
    """Read booked operations by position; raises LogCorrupt when one is not there."""
    wanted = list(positions)
    with conn.cursor(binary=True) as cursor:
        cursor.execute(SELECT_OPERATIONS, (wanted,))
        found = {position: decode_posted(state) for position, state in cursor}
    for position in wanted:
        if position not in found:
            raise LogCorrupt(f"no operation is at position {position}")
    return found
