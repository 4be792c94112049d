"""The ceiling: binary COPY of exactly the rows that the engine has just written, and nothing else.

The log of one database is packed as COPY data commit by commit, then sent to a database that was
equal before: same table, same indexes, same positions, same commit sizes, same server. Only the
sending is timed. Invariant: after a run both logs are equal.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import psycopg

from ledger.codec import Row, copy_bytes

COPY_EVENTS = """
    COPY ledger.stored_events
        (originator_id, originator_version, topic, state, notification_id, digest)
    FROM STDIN (FORMAT BINARY)
"""
INSERT_SEAL = """
    INSERT INTO ledger.seals (first_id, last_id, book_id, booked_at, totals, previous, seal)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
SELECT_SEALS = """
    SELECT first_id, last_id, book_id, booked_at, totals, previous, seal
    FROM ledger.seals WHERE first_id > %s ORDER BY first_id
"""
SELECT_ROWS = """
    SELECT originator_id, originator_version, topic, state, notification_id, digest
    FROM ledger.stored_events WHERE notification_id > %s ORDER BY notification_id
"""
SELECT_LAST_ID = "SELECT coalesce(max(last_id), 0) FROM ledger.seals"


class Commit(NamedTuple):
    """One commit of the engine: its rows packed for COPY, and its seal's row."""

    packed: bytes
    rows: int
    seal: tuple[Any, ...]


def last_id(conn: psycopg.Connection[Any]) -> int:
    """Return the position at which the log ends."""
    row = conn.execute(SELECT_LAST_ID).fetchone()
    return int(row[0]) if row else 0


def select_commits(conn: psycopg.Connection[Any], after: int) -> list[Commit]:
    """Return the commits of the log behind a position, packed."""
    seals = conn.execute(SELECT_SEALS, (after,)).fetchall()
    rows = conn.execute(SELECT_ROWS, (after,), binary=True).fetchall()
    commits = []
    for seal in seals:
        first, last = seal[0] - after - 1, seal[1] - after
        part = rows[first:last]
        packed = copy_bytes(
            seal[0],
            [Row(row[0].bytes, row[1], row[2].encode(), bytes(row[3])) for row in part],
            [bytes(row[5]) for row in part],
        )
        commits.append(Commit(packed, len(part), seal))
    return commits


def copy_commits(conn: psycopg.Connection[Any], commits: list[Commit]) -> float:
    """Write the commits, each in its own transaction; return the seconds that took."""
    started = time.perf_counter()
    with conn.cursor() as cursor:
        for commit in commits:
            with conn.transaction():
                with cursor.copy(COPY_EVENTS) as copy:
                    copy.write(commit.packed)
                cursor.execute(INSERT_SEAL, commit.seal, prepare=True)
    return time.perf_counter() - started
