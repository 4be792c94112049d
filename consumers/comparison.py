"""Comparing two sets of books row for row; what is kept per lane is compared as sums.

Invariant: the first difference is named by table and key, with both rows.
"""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection, sql

from projections.tables import COMPARED, COMPARED_SUMS, SUM_KEYS

FIRST_ROWS = sql.SQL("""
    SELECT * FROM (
        (SELECT 'live' AS of_books, t.* FROM (({live}) EXCEPT ALL ({rebuilt})) t)
        UNION ALL
        (SELECT 'rebuilt' AS of_books, t.* FROM (({rebuilt}) EXCEPT ALL ({live})) t)
    ) d ORDER BY {key}, of_books LIMIT 2
""")


class RowDifference(msgspec.Struct, frozen=True):
    """The first row that differs; a side without the row shows None."""

    table: str
    key: dict[str, str]
    live: dict[str, str | None] | None
    rebuilt: dict[str, str | None] | None


def first_difference(
    conn: Connection[Any], live_schema: str, rebuilt_schema: str
) -> RowDifference | None:
    """Find the first differing row of all compared tables; None when the books are equal."""
    schemas = (sql.Identifier(live_schema), sql.Identifier(rebuilt_schema))
    for table, (key, others) in COMPARED.items():
        live, rebuilt = (
            sql.SQL("SELECT {} FROM {}.{}").format(
                _list((*key, *others)), schema, sql.Identifier(table)
            )
            for schema in schemas
        )
        difference = _first(conn, (table, key), live, rebuilt)
        if difference is not None:
            return difference
    for table, query in COMPARED_SUMS.items():
        live, rebuilt = (sql.SQL(query).format(schema) for schema in schemas)
        difference = _first(conn, (table, SUM_KEYS[table]), live, rebuilt)
        if difference is not None:
            return difference
    return None


def _first(
    conn: Connection[Any],
    named: tuple[str, tuple[str, ...]],
    live: sql.Composed,
    rebuilt: sql.Composed,
) -> RowDifference | None:
    table, key = named
    cursor = conn.execute(FIRST_ROWS.format(live=live, rebuilt=rebuilt, key=_list(key)))
    columns = [column.name for column in cursor.description or ()][1:]
    sides: dict[str, dict[str, str | None]] = {}
    shown: dict[str, str] | None = None
    for side, *values in cursor:
        row = {
            name: None if value is None else str(value)
            for name, value in zip(columns, values, strict=True)
        }
        of_row = {name: str(row[name]) for name in key}
        if shown is None or of_row == shown:
            shown = of_row
            sides[side] = row
    if shown is None:
        return None
    return RowDifference(table, shown, sides.get("live"), sides.get("rebuilt"))


def _list(names: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
