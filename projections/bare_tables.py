"""Tables without their indexes while a rebuild fills them, and the indexes put back.

An index that is made at the end costs a quarter of one that grows row by row. Invariant: what
is put back is what was taken off, word for word as the catalogue says it; the checks and the
triggers stay on all the time.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection, sql

LONG_TABLES = ("outcomes", "operation_orders", "vouchers", "voucher_lines")
MAINTENANCE_MEMORY = "512MB"

SELECT_CONSTRAINTS = """
    SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = %s::regnamespace AND c.relname = ANY(%s) AND k.contype IN ('p', 'u')
    ORDER BY c.relname, k.conname
"""
SELECT_INDEXES = """
    SELECT x.relname, pg_get_indexdef(i.indexrelid)
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = %s::regnamespace AND c.relname = ANY(%s)
    ORDER BY c.relname, x.relname
"""


def take_off_indexes(conn: Connection[Any], schema: str) -> list[sql.SQL | sql.Composed]:
    """Drop keys and indexes of the long tables; return the statements that put them back."""
    statements: list[sql.SQL | sql.Composed] = []
    named = (schema, list(LONG_TABLES))
    with conn.transaction():
        for table, name, definition in conn.execute(SELECT_CONSTRAINTS, named).fetchall():
            place = sql.Identifier(schema, table)
            constraint = sql.Identifier(name)
            drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(place, constraint)
            conn.execute(drop)
            add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}")
            statements.append(add.format(place, constraint, sql.SQL(definition)))
        for name, definition in conn.execute(SELECT_INDEXES, named).fetchall():
            conn.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(schema, name)))
            statements.append(sql.SQL(definition))
    return statements


def put_back_indexes(conn: Connection[Any], statements: list[sql.SQL | sql.Composed]) -> None:
    """Make the indexes again, sorted, in processes of the server beside each other."""
    conn.execute(f"SET maintenance_work_mem = '{MAINTENANCE_MEMORY}'")
    for statement in statements:
        conn.execute(statement)
    conn.execute("RESET maintenance_work_mem")
