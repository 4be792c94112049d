"""Tables without their indexes while a rebuild fills them, and the indexes put back.

An index that is made at the end costs a quarter of one that grows row by row. Invariant: what
is put back is what was taken off, word for word as the catalogue says it; the checks and the
triggers stay on all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from psycopg import Connection, sql

from projections.tables import write_behind

LONG_TABLES = ("voucher_lines", "outcomes", "vouchers", "operation_orders")  # longest first
TABLES_AT_ONCE = 2
MAINTENANCE_MEMORY = "256MB"

SELECT_CONSTRAINTS = """
    SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = %s::regnamespace AND c.relname = ANY(%s) AND k.contype IN ('p', 'u')
    ORDER BY c.relname, k.conname
"""
SELECT_INDEXES = """
    SELECT c.relname, x.relname, pg_get_indexdef(i.indexrelid)
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = %s::regnamespace AND c.relname = ANY(%s)
    ORDER BY c.relname, x.relname
"""


class TakenOff(NamedTuple):
    """A key or an index of a table, and the statement that puts it back."""

    table: str
    name: str
    statement: sql.SQL | sql.Composed


def take_off_indexes(conn: Connection[Any], schema: str) -> list[TakenOff]:
    """Drop keys and indexes of the long tables; return what puts them back."""
    taken: list[TakenOff] = []
    named = (schema, list(LONG_TABLES))
    with conn.transaction():
        for table, name, definition in conn.execute(SELECT_CONSTRAINTS, named).fetchall():
            place = sql.Identifier(schema, table)
            constraint = sql.Identifier(name)
            drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(place, constraint)
            conn.execute(drop)
            add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}")
            statement = add.format(place, constraint, sql.SQL(definition))
            taken.append(TakenOff(table, name, statement))
        for table, name, definition in conn.execute(SELECT_INDEXES, named).fetchall():
            conn.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(schema, name)))
            taken.append(TakenOff(table, name, sql.SQL(definition)))
    return taken


def put_back_indexes(conn: Connection[Any], taken: Sequence[TakenOff]) -> None:
    """Make the indexes again, sorted, in processes of the server beside each other."""
    conn.execute(f"SET maintenance_work_mem = '{MAINTENANCE_MEMORY}'")
    for each in taken:
        conn.execute(each.statement)
    conn.execute("RESET maintenance_work_mem")


def put_back_beside(connect: Callable[[], Connection[Any]], taken: Sequence[TakenOff]) -> None:
    """Make the indexes again and let the planner know the rows, one table beside another."""

    def put_back(table: str) -> None:
        with connect() as conn:
            write_behind(conn)
            put_back_indexes(conn, [each for each in taken if each.table == table])
            conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))

    with ThreadPoolExecutor(TABLES_AT_ONCE) as pool:
        list(pool.map(put_back, LONG_TABLES))
