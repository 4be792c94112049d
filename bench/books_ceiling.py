"""The ceiling of the books: COPY of exactly the rows that a consumer has just written.

They are read back as the server packs them, commit by commit as it made them, and sent to a
database that was equal before: same tables, indexes, checks and triggers, same server. Only the
sending is timed. Balances, totals and statuses, which are sums, are left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

TABLES = ("outcomes", "operation_orders", "vouchers", "voucher_lines")
SELECT_COMMITS = """
    SELECT xmin::text FROM outcomes WHERE position > %s GROUP BY 1 ORDER BY min(position)
"""
COPY_OUT = """
    COPY (SELECT * FROM {table} WHERE position > {after} AND xmin::text = {commit})
    TO STDOUT (FORMAT BINARY)
"""
COPY_IN = "COPY {table} FROM STDIN (FORMAT BINARY)"

Commit = list[tuple[str, bytes]]  # table and what is copied into it


def select_book_commits(conn: psycopg.Connection[Any], after: int) -> list[Commit]:
    """Return what the commits behind a position wrote, packed by the server."""
    commits = conn.execute(SELECT_COMMITS, (after,)).fetchall()
    return [[(table, _packed(conn, table, after, xid)) for table in TABLES] for (xid,) in commits]


def copy_commits(conn: psycopg.Connection[Any], commits: Sequence[Commit]) -> float:
    """Write the commits, each in its own transaction; return the seconds that took."""
    started = time.perf_counter()
    with conn.cursor() as cursor:
        for commit in commits:
            with conn.transaction():
                for table, packed in commit:
                    statement = sql.SQL(COPY_IN).format(table=sql.Identifier(table))
                    with cursor.copy(statement) as copy:
                        copy.write(packed)
    return time.perf_counter() - started


def _packed(conn: psycopg.Connection[Any], table: str, after: int, xid: str) -> bytes:
    statement = sql.SQL(COPY_OUT).format(
        table=sql.Identifier(table), after=sql.Literal(after), commit=sql.Literal(xid)
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        return b"".join(bytes(part) for part in copy)
