"""The backlog: what is late or stuck between the ledger and the books, read in one snapshot.

Invariant: an operation that ought to have a voucher and has none is counted here, as lag, as
parked or as waiting; the oldest one is named.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from psycopg import Connection

from ledger.accepted import select_buffers
from ledger.backlog import Backlog, LaneState, OldestOperation, OpenCount, RelayState
from projections.positions import (
    SELECT_BOOKED_AT,
    Freshness,
    select_freshness,
    select_head,
    select_lanes,
)

PENDING_LOOKED_AT_MAX = 20_000
SNAPSHOT = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;"
    "SET LOCAL search_path = projections, ledger"
)
COUNT_OPEN = """
    SELECT status, CASE status WHEN 'parked' THEN coalesce(reason, '') ELSE '' END, count(*)
    FROM outcomes
    WHERE status IN ('parked', 'waiting') AND (%(book)s::text IS NULL OR book_id = %(book)s)
    GROUP BY 1, 2 ORDER BY 1, 2
"""
SELECT_OLDEST_OPEN = """
    SELECT book_id, operation_id, position, status FROM outcomes
    WHERE status IN ('parked', 'waiting') AND (%(book)s::text IS NULL OR book_id = %(book)s)
    ORDER BY position LIMIT 1
"""
# Rows beyond the visible position may be in the books already: another lane was faster.
SELECT_OLDEST_PENDING = """
    SELECT e.book_id, e.operation_id, e.position, 'pending'
    FROM (SELECT notification_id AS position,
                 convert_from(state, 'UTF8')::json ->> 'book_id' AS book_id,
                 convert_from(state, 'UTF8')::json ->> 'operation_id' AS operation_id
          FROM ledger.stored_events
          WHERE notification_id > %(visible)s AND notification_id <= %(until)s
            AND topic = 'ledger.recorded:OperationBooked'
          ORDER BY notification_id) e
    WHERE (%(book)s::text IS NULL OR e.book_id = %(book)s)
      AND NOT EXISTS (SELECT 1 FROM outcomes o
                      WHERE o.book_id = e.book_id AND o.operation_id = e.operation_id)
    ORDER BY e.position LIMIT 1
"""
SELECT_RELAY = "SELECT position FROM ledger.relays WHERE topic = %s"


def select_lag(conn: Connection[Any], now: dt.datetime) -> Freshness:
    """Read only how far the books are behind: cheap enough for every second."""
    with conn.transaction():
        conn.execute(SNAPSHOT)
        return select_freshness(conn, now)


def select_backlog(
    conn: Connection[Any],
    now: dt.datetime,
    *,
    book_id: str | None = None,
    topic: str | None = None,
) -> Backlog:
    """Read the backlog of one book, or of the whole log; `topic` is the relay's on Kafka."""
    with conn.transaction():
        conn.execute(SNAPSHOT)
        lag = select_freshness(conn, now)
        opened = conn.execute(COUNT_OPEN, {"book": book_id})
        return Backlog(
            position=lag.position,
            log_position=lag.log_position,
            lag_operations=lag.lag_operations,
            lag_s=lag.lag_s,
            oldest=_oldest(conn, now, lag.position, book_id),
            open=tuple(OpenCount(*row) for row in opened),
            lanes=tuple(
                LaneState(lane.lane, lane.position, lane.stopped) for lane in select_lanes(conn)
            ),
            relay=None if topic is None else _relay(conn, now, topic),
            buffers=select_buffers(conn, now, book_id),
        )


def _oldest(
    conn: Connection[Any], now: dt.datetime, visible: int, book_id: str | None
) -> OldestOperation | None:
    # Summed here: a number goes to the server in as few bytes as it fits, and a sum may not.
    values = {"book": book_id, "visible": visible, "until": visible + PENDING_LOOKED_AT_MAX}
    found = [
        row
        for query in (SELECT_OLDEST_OPEN, SELECT_OLDEST_PENDING)
        if (row := conn.execute(query, values).fetchone()) is not None
    ]
    if not found:
        return None
    book, operation_id, position, status = min(found, key=lambda row: int(row[2]))
    booked_at, age_s = _age(conn, now, position)
    return OldestOperation(book, operation_id, position, status, booked_at, age_s)


def _relay(conn: Connection[Any], now: dt.datetime, topic: str) -> RelayState | None:
    row = conn.execute(SELECT_RELAY, (topic,)).fetchone()
    if row is None:
        return None
    position = int(row[0])
    lag_positions = max(select_head(conn) - position, 0)
    lag_s = _age(conn, now, position + 1)[1] if lag_positions else 0.0
    return RelayState(topic, position, lag_positions, lag_s)


def _age(conn: Connection[Any], now: dt.datetime, position: int) -> tuple[str, float]:
    """Say when a position was booked, and how long ago that is."""
    row = conn.execute(SELECT_BOOKED_AT, (position,)).fetchone()
    if row is None:
        return "", 0.0
    age = now - dt.datetime.fromisoformat(row[0])
    return row[0], round(max(age.total_seconds(), 0.0), 3)
