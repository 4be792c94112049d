"""The ceiling of a rebuild: COPY of exactly the rows that it makes, then indexes and statistics.

The rows of the live books are read back as the server packs them, stretch by stretch, and sent
over a connection for each processor into tables made as a rebuild's: with the checks and triggers,
without indexes, which are put back at the end as a rebuild does it, on the same server. The log is
not read, nothing is decoded, and sums, which are few, are left out. Reading back is not timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from psycopg import sql

from bench.books_ceiling import Commit, copy_commits
from consumers.shadow import CREATE_TABLES, drop_schema
from projections.bare_tables import LONG_TABLES, put_back_beside, take_off_indexes
from projections.positions import select_visible
from projections.tables import LIVE_SCHEMA, connect_to, use_schema, write_behind

SCHEMA = "bench_ceiling"
ROWS_PER_STRETCH = 20_000
COPY_OUT = """
    COPY (SELECT * FROM {table} WHERE position > {after} AND position <= {through})
    TO STDOUT (FORMAT BINARY)
"""


def rebuild_ceiling_s(url: str) -> float:
    """Copy the live books' rows beside them; return the seconds that took."""
    with connect_to(url) as conn:
        stretches = list(_packed(conn))
        drop_schema(conn, SCHEMA)
        conn.execute(CREATE_TABLES, (SCHEMA,))
        use_schema(conn, SCHEMA)
        taken = take_off_indexes(conn, SCHEMA)
        count = os.cpu_count() or 1
        try:
            started = time.perf_counter()
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(lambda n: _send(url, stretches[n::count]), range(count)))
            put_back_beside(lambda: connect_to(url, SCHEMA), taken)
            return time.perf_counter() - started
        finally:
            drop_schema(conn, SCHEMA)


def _packed(conn: psycopg.Connection[Any]) -> Iterator[Commit]:
    visible = select_visible(conn)
    for after in range(0, visible, ROWS_PER_STRETCH):
        stretch: Commit = []
        for table in LONG_TABLES:
            statement = sql.SQL(COPY_OUT).format(
                table=sql.Identifier(LIVE_SCHEMA, table),
                after=sql.Literal(after),
                through=sql.Literal(after + ROWS_PER_STRETCH),
            )
            with conn.cursor() as cursor, cursor.copy(statement) as copy:
                stretch.append((table, b"".join(bytes(part) for part in copy)))
        yield stretch


def _send(url: str, stretches: Sequence[Commit]) -> None:
    with connect_to(url, SCHEMA) as conn:
        write_behind(conn)
        copy_commits(conn, stretches)
