"""Comparing two sets of books row for row; what is kept per lane is compared as sums.

Invariant: the first difference is named by table and key, with both rows; every row of both
sides is looked at once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection, sql

from projections.tables import COMPARED, COMPARED_SUMS, SUM_KEYS

# A row that differs, or that one side has alone (its twin is all NULL, and a key never is).
FIRST_ROW = sql.SQL("""
    SELECT {live_columns}, {rebuilt_columns}
    FROM ({live}) AS live FULL JOIN ({rebuilt}) AS rebuilt ON {same_key}
    WHERE ROW({live_columns}) IS DISTINCT FROM ROW({rebuilt_columns})
    ORDER BY {order} LIMIT 1
""")
# What books that stand further back can have: all but operations that were decided again later
# (a repair of what was parked then), which only the live books tell.
NOT_LATER = """
    position <= {through} AND NOT EXISTS (SELECT 1 FROM {live}.outcomes later
        WHERE later.position = t.position AND later.attempt_position > {through})
"""
OF_THE_PRESENT = frozenset({"positions", "voucher_numbers"})

Row = dict[str, str | None]


class RowDifference(msgspec.Struct, frozen=True):
    """The first row that differs; a side without the row shows None."""

    table: str
    key: dict[str, str]
    live: Row | None
    rebuilt: Row | None


class _Compared(NamedTuple):
    table: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


def first_difference(
    conn: Connection[Any],
    live_schema: str,
    rebuilt_schema: str,
    *,
    tables: Collection[str] = (),
    through: int | None = None,
) -> RowDifference | None:
    """Find the first differing row of the named tables (default: all); None when equal.

    `through` compares books that stand at different positions: only rows decided up to it,
    and no sums (they are of the present).
    """
    for table, (key, others) in COMPARED.items():
        if (tables and table not in tables) or (through is not None and table in OF_THE_PRESENT):
            continue
        live, rebuilt = (
            _rows_of(table, (*key, *others), schema) + _decided_by(live_schema, through)
            for schema in (live_schema, rebuilt_schema)
        )
        difference = _first(conn, _Compared(table, key, (*key, *others)), live, rebuilt)
        if difference is not None:
            return difference
    for table, query in COMPARED_SUMS.items():
        if (tables and table not in tables) or through is not None:
            continue
        live, rebuilt = (
            sql.SQL(query).format(sql.Identifier(schema))
            for schema in (live_schema, rebuilt_schema)
        )
        columns = _columns_of(conn, live)
        difference = _first(conn, _Compared(table, SUM_KEYS[table], columns), live, rebuilt)
        if difference is not None:
            return difference
    return None


def _rows_of(table: str, columns: tuple[str, ...], schema: str) -> sql.Composed:
    place = sql.Identifier(schema, table)
    return sql.SQL("SELECT {} FROM {} t").format(_list("t", columns), place)


def _decided_by(live_schema: str, through: int | None) -> sql.Composable:
    if through is None:
        return sql.SQL("")
    named = {"through": sql.Literal(through), "live": sql.Identifier(live_schema)}
    return sql.SQL(" WHERE ") + sql.SQL(NOT_LATER).format(**named)


def _columns_of(conn: Connection[Any], query: sql.Composable) -> tuple[str, ...]:
    cursor = conn.execute(sql.SQL("SELECT * FROM ({}) AS none LIMIT 0").format(query))
    return tuple(column.name for column in cursor.description or ())


def _first(
    conn: Connection[Any],
    compared: _Compared,
    live: sql.Composable,
    rebuilt: sql.Composable,
) -> RowDifference | None:
    table, key, columns = compared
    statement = FIRST_ROW.format(
        live=live,
        rebuilt=rebuilt,
        live_columns=_list("live", columns),
        rebuilt_columns=_list("rebuilt", columns),
        same_key=sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("live", name), sql.Identifier("rebuilt", name))
            for name in key
        ),
        order=sql.SQL(", ").join(
            sql.SQL("coalesce({}, {})").format(
                sql.Identifier("live", name), sql.Identifier("rebuilt", name)
            )
            for name in key
        ),
    )
    found = conn.execute(statement).fetchone()
    if found is None:
        return None
    values = [None if value is None else str(value) for value in found]
    sides = [
        dict(zip(columns, side, strict=True))
        for side in (values[: len(columns)], values[len(columns) :])
    ]
    there = [None if side[key[0]] is None else side for side in sides]
    shown = there[0] or there[1] or {}
    return RowDifference(table, {name: str(shown[name]) for name in key}, *there)


def _list(alias: str, names: tuple[str, ...]) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(alias, name) for name in names)
