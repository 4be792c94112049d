"""Which tables and columns the database has, and how to make a value of a column wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from psycopg import Connection, sql

# Tables that say nothing of money or of what was decided, each with the reason.
NOT_AUDITED = {
    "ledger.api_keys": "who may call the API; changed by command, no event",
    "ledger.schema_migrations": "which migrations the installation has seen",
    "ledger.relays": "how far messages have been sent; they can be sent again",
    "ledger.results_outbox": "messages on their way; they can be sent again",
    "ledger.sweeps": "what the sweeps compared and when; they can be run again",
}
COLUMNS_NOT_AUDITED = {
    "projections.positions.incarnation": "raised by every rebuild and change of lanes",
    "projections.positions.moved_at": "a clock: how fresh the books are",
    "projections.positions.stopped": "why a lane stands still at present",
    "ledger.log.one": "always true: it makes the table have one row",
}
SELECT_COLUMNS = """
    SELECT c.table_schema || '.' || c.table_name, c.column_name, c.udt_name
    FROM information_schema.columns c
    JOIN information_schema.tables t USING (table_schema, table_name)
    WHERE c.table_schema IN ('ledger', 'projections') AND t.table_type = 'BASE TABLE'
    ORDER BY c.table_schema, c.table_name, c.ordinal_position
"""
SELECT_KEY = """
    SELECT a.attname FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
    WHERE i.indrelid = %s::regclass AND i.indisprimary ORDER BY array_position(i.indkey, a.attnum)
"""
FLIPS = {  # of a value that is there; keys are PostgreSQL's type names
    "int4": "{} + 1000003",
    "int8": "{} + 1000003",
    "numeric": "{} + 1",
    "text": "{} || '~'",
    "bool": "NOT {}",
    "date": "{} + 1",
    "uuid": "gen_random_uuid()",
    "bytea": "set_byte({}, 0, (get_byte({}, 0) + 1) %% 256)",
    "_text": "array_append({}, 'x')",
    "jsonb": """'{{"CNY": 987654321}}'::jsonb""",
}
WRITTEN = {  # where there is none
    "int4": "1",
    "int8": "1",
    "numeric": "1",
    "text": "'~'",
    "bool": "true",
    "date": "'2026-01-01'",
    "uuid": "gen_random_uuid()",
    "bytea": "'\\x01'",
    "_text": "'{{x}}'",
    "jsonb": "'{{}}'::jsonb",
}


class Column(NamedTuple):
    """A column of an audited table."""

    table: str
    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.table}.{self.name}"


def audited_columns(conn: Connection[Any]) -> list[Column]:
    """Every column there is, but for the exceptions that are written down above."""
    return [
        column
        for column in map(Column._make, conn.execute(SELECT_COLUMNS))
        if column.table not in NOT_AUDITED and str(column) not in COLUMNS_NOT_AUDITED
    ]


def audited_tables(conn: Connection[Any]) -> list[str]:
    """Every audited table, once."""
    return list(dict.fromkeys(column.table for column in audited_columns(conn)))


def key_of(conn: Connection[Any], table: str) -> list[str]:
    """The columns of a table's primary key."""
    return [name for (name,) in conn.execute(SELECT_KEY, (table,))]


def some_rows(conn: Connection[Any], table: str) -> list[str]:
    """The first, the middle and the last row of a table, as addresses (ctid)."""
    order = sql.SQL(", ").join(map(sql.Identifier, key_of(conn, table)))
    query = sql.SQL("SELECT ctid::text FROM {} ORDER BY {}").format(_name(table), order)
    rows = [row for (row,) in conn.execute(query)]
    return list(dict.fromkeys((rows[0], rows[len(rows) // 2], rows[-1]))) if rows else []


def row_at(conn: Connection[Any], table: str, ctid: str) -> dict[str, Any]:
    """A row by its address, values as text."""
    query = sql.SQL("SELECT to_jsonb(t) FROM {} t WHERE ctid = %s").format(_name(table))
    row = conn.execute(query, (ctid,)).fetchone()
    assert row is not None
    found: dict[str, Any] = row[0]
    return found


def flip(conn: Connection[Any], column: Column, ctid: str) -> dict[str, Any]:
    """Make one value of one row wrong; return the row as it is now."""
    name = f'"{column.name}"'
    there = FLIPS[column.kind].replace("{}", name).replace("{{", "{").replace("}}", "}")
    none = WRITTEN[column.kind].replace("{{", "{").replace("}}", "}")
    query = (
        f"UPDATE {column.table} AS t SET {name} = "
        f"CASE WHEN {name} IS NULL THEN {none} ELSE {there} END "
        f"WHERE ctid = %s RETURNING to_jsonb(t)"
    )
    row = conn.execute(query.encode(), (ctid,)).fetchone()
    assert row is not None
    found: dict[str, Any] = row[0]
    return found


def names_row(key: dict[str, Any], *rows: dict[str, Any]) -> bool:
    """Tell whether a difference's key is that of one of the rows."""
    return any(all(str(row.get(name)) == str(value) for name, value in key.items()) for row in rows)


def each_flip(conn: Connection[Any]) -> Iterator[tuple[Column, str]]:
    """Every column of every audited table, on a few rows each."""
    for column in audited_columns(conn):
        for ctid in some_rows(conn, column.table):
            yield column, ctid


def _name(table: str) -> sql.Composable:
    return sql.Identifier(*table.split("."))
