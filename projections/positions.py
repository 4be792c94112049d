"""Positions: how far each lane has come, and how fresh what is read therefore is.

Rule (consumers): the lane's row is locked and read in the transaction that moves it; the
move is conditional. The visible position is the minimum over lanes: everything ≤ it is in
the books. Invariant: a position never passes the log's head.
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg import Connection

from ledger.errors import LogCorrupt, NotFound

LAG_COUNTED_MAX = 20_000
WAIT_STEP_S = 0.01

SELECT_LOG = "SELECT log_id, incarnation FROM ledger.log"
SELECT_HEAD = "SELECT coalesce(max(notification_id), 0) FROM ledger.stored_events"
SELECT_LANES = """
    SELECT lane, log_id, log_incarnation, position, incarnation, stopped, moved_at
    FROM positions ORDER BY lane
"""
LOCK_LANES = "SELECT lane, position, incarnation FROM positions ORDER BY lane FOR UPDATE"
LOCK_LANE = """
    SELECT lane, log_id, log_incarnation, position, incarnation, stopped, moved_at
    FROM positions WHERE lane = %s FOR UPDATE
"""
INSERT_LANE = """
    INSERT INTO positions (lane, log_id, log_incarnation, position, incarnation)
    VALUES (%s, %s, %s, %s, %s)
"""
MOVE_LANE = """
    UPDATE positions SET position = %s, moved_at = clock_timestamp(), stopped = NULL
    WHERE lane = %s AND position = %s AND incarnation = %s
"""
STOP_LANE = "UPDATE positions SET stopped = %s WHERE lane = %s AND stopped IS DISTINCT FROM %s"
SELECT_VISIBLE = "SELECT coalesce(min(position), 0) FROM positions"
SELECT_OUTCOME = "SELECT 1 FROM outcomes WHERE book_id = %s AND operation_id = %s"
COUNT_UNSEEN = """
    SELECT count(*) FILTER (WHERE topic = 'ledger.recorded:OperationBooked'), count(*)
    FROM ledger.stored_events WHERE notification_id > %s AND notification_id <= %s
"""
SELECT_BOOKED_AT = """
    SELECT booked_at FROM ledger.seals WHERE first_id <= %s ORDER BY first_id DESC LIMIT 1
"""


class LogName(NamedTuple):
    """Which log a position belongs to."""

    log_id: UUID
    incarnation: int


class Lane(NamedTuple):
    """One lane's row; `stopped` says why it does not move, if it was stopped."""

    lane: int
    log_id: UUID
    log_incarnation: int
    position: int
    incarnation: int
    stopped: str | None
    moved_at: dt.datetime


class Freshness(msgspec.Struct, frozen=True):
    """How far the books are behind the log.

    `lag_operations` is exact up to LAG_COUNTED_MAX rows of lag and extrapolated beyond.
    `lag_s` is the age of the oldest row not yet in the books.
    """

    position: int
    log_position: int
    lag_operations: int
    lag_s: float


class LanesChanged(Exception):
    """Somebody swapped or reassigned the lanes: read positions and rulesets again."""


def select_log(conn: Connection[Any]) -> LogName:
    """Read which log this database holds."""
    row = conn.execute(SELECT_LOG).fetchone()
    if row is None:
        raise LogCorrupt("ledger.log has no row")
    return LogName(*row)


def select_head(conn: Connection[Any]) -> int:
    """Read the log's last position; 0 when it is empty."""
    row = conn.execute(SELECT_HEAD).fetchone()
    return int(row[0]) if row else 0


def select_lanes(conn: Connection[Any]) -> list[Lane]:
    """Read every lane's row."""
    return [Lane(*row) for row in conn.execute(SELECT_LANES)]


def select_visible(conn: Connection[Any]) -> int:
    """Read the visible position: everything up to it is in the books."""
    row = conn.execute(SELECT_VISIBLE).fetchone()
    return int(row[0]) if row else 0


def assign_lanes(conn: Connection[Any], lanes: int) -> None:
    """Make the rows of lanes 0 … n−1; a no-op when they are there.

    Another number of lanes (another bus, or partition count) starts every lane at the
    visible position: claimed outcomes make the overlap harmless.
    """
    if [row.lane for row in select_lanes(conn)] == list(range(lanes)):
        return  # without the lock: it and a consumer that moves its lane would wait for each other
    with conn.transaction():
        conn.execute("LOCK TABLE positions IN SHARE ROW EXCLUSIVE MODE")
        rows = conn.execute(LOCK_LANES).fetchall()
        if [row[0] for row in rows] == list(range(lanes)):
            return
        log = select_log(conn)
        position = min((row[1] for row in rows), default=0)
        incarnation = max((row[2] for row in rows), default=0) + 1
        conn.execute("DELETE FROM positions")
        for lane in range(lanes):
            values = (lane, log.log_id, log.incarnation, position, incarnation)
            conn.execute(INSERT_LANE, values)


def lock_lane_in_tx(conn: Connection[Any], lane: int, log: LogName) -> Lane:
    """Lock a lane's row and read it. Raises LogCorrupt when it is of another log."""
    row = conn.execute(LOCK_LANE, (lane,)).fetchone()
    if row is None:
        raise LanesChanged(f"lane {lane} is gone")
    found = Lane(*row)
    if (found.log_id, found.log_incarnation) != log:
        raise LogCorrupt(
            f"lane {lane} is at a position of log {found.log_id}/{found.log_incarnation}, "
            f"this is log {log.log_id}/{log.incarnation}"
        )
    return found


def move_lane_in_tx(conn: Connection[Any], lane: Lane, position: int) -> None:
    """Move a locked lane forward; raises LanesChanged when it is not where it was read."""
    values = (position, lane.lane, lane.position, lane.incarnation)
    if conn.execute(MOVE_LANE, values).rowcount != 1:
        raise LanesChanged(f"lane {lane.lane} is no longer at {lane.position}")


def stop_lane(conn: Connection[Any], lane: int, reason: str) -> None:
    """Write down why a lane stands still, for whoever looks; the next move wipes it."""
    conn.execute(STOP_LANE, (reason[:2000], lane, reason[:2000]))


def select_freshness(conn: Connection[Any], now: dt.datetime) -> Freshness:
    """Say how far the books are behind the log, as seen at `now`."""
    visible, head = select_visible(conn), select_head(conn)
    if visible >= head:
        return Freshness(visible, head, 0, 0.0)
    counted_to = min(head, visible + LAG_COUNTED_MAX)
    row = conn.execute(COUNT_UNSEEN, (visible, counted_to)).fetchone()
    operations, rows = row or (0, 0)
    if counted_to < head and rows:
        operations = operations * (head - visible) // rows
    booked = conn.execute(SELECT_BOOKED_AT, (visible + 1,)).fetchone()
    lag_s = 0.0
    if booked is not None:
        age = now - dt.datetime.fromisoformat(booked[0])
        lag_s = round(max(age.total_seconds(), 0.0), 3)
    return Freshness(visible, head, operations, lag_s)


def wait_for_position(
    conn: Connection[Any],
    *,
    min_position: int | None = None,
    operation: tuple[str, str] | None = None,
    timeout_s: float,
) -> bool:
    """Wait until a position, or an operation (book, id), is visible; False on timeout.

    Needs autocommit (each look is a new snapshot). Raises NotFound for a position that the
    log has not reached: it would never come.
    """
    if min_position is not None and min_position > select_head(conn):
        raise NotFound(f"the log has not reached position {min_position}")
    deadline = time.monotonic() + timeout_s
    while True:
        reached = min_position is None or select_visible(conn) >= min_position
        if reached and operation is not None:
            reached = conn.execute(SELECT_OUTCOME, operation).fetchone() is not None
        if reached or time.monotonic() >= deadline:
            return reached
        time.sleep(WAIT_STEP_S)
