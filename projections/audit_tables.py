"""The projections' tables as an audit reads them: every column, by stretch of the log.

Invariant: `columns` name every column of the table that an audit compares, key columns
first; what is left out is named in `LEFT_OUT`, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, LiteralString

import msgspec
from psycopg import Connection, sql

from ledger.audit_verdict import compare_table

CHECK = "books"
LEFT_OUT: dict[str, dict[str, str]] = {
    "positions": {
        "incarnation": "raised by every rebuild and every change of lanes",
        "moved_at": "a clock: how fresh the books are",
        "stopped": "the present: why a lane stands still",
    },
}

Row = tuple[Any, ...]
Rows = dict[Row, Row]
Expected = dict[str, Rows]


class Table(msgspec.Struct, frozen=True):
    """One table whose rows have a place in the log; `expressions` say how columns are read."""

    name: str
    keys: int
    columns: tuple[str, ...]
    expressions: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name the table as a difference shows it."""
        return f"projections.{self.name}"

    @property
    def at(self) -> int:
        """Say which column is the position."""
        return self.columns.index("position")


def _table(name: str, keys: int, text: str) -> Table:
    """Make a table from `column` and `column::type` words."""
    words = tuple(text.split())
    return Table(name, keys, tuple(word.partition("::")[0] for word in words), words)


RULESETS = _table(
    "rulesets", 1, "position book_id ruleset_hash label effective_from maker document"
)
REPAIR_ORDERS = _table(
    "repair_orders",
    1,
    "position kind book_id operation_ids ruleset_hash maker checker note given performed",
)
SET_ASIDES = _table("set_asides", 1, "position topic partition at_offset raw reason maker")
BUSINESS_DAYS = _table("business_days", 1, "position book_id open_date::text")
DAY_CUTS = _table(
    "day_cuts",
    1,
    "position book_id cut_date::text open_date::text parked operations operation_ids maker note "
    "performed",
)
PERIOD_CHANGES = _table(
    "period_changes",
    1,
    "position book_id change_id step period_date::text maker checker note",
)
OUTCOMES = _table(
    "outcomes",
    2,
    "book_id operation_id position business_type business_date::text status reason detail "
    "rule_id ruleset_position attempt_position depends_on waits_for amounts::text",
)
VOUCHERS = _table(
    "vouchers",
    2,
    "position ordinal book_id source_id accounting_date::text business_type rule_id "
    "ruleset_hash corrects business_date::text",
)
VOUCHER_LINES = _table(
    "voucher_lines",
    3,
    "position ordinal line_no side subject currency amount_minor account off_balance",
)
OPERATION_ORDERS = _table("operation_orders", 4, "book_id order_number kind operation_id position")
ISSUES = _table(
    "issues",
    3,
    "book_id operation_id issue_no code leg_no account intended_account currency amount_minor "
    "reason business_date::text position",
)
DECISION_TABLES = (
    RULESETS,
    REPAIR_ORDERS,
    SET_ASIDES,
    BUSINESS_DAYS,
    DAY_CUTS,
    PERIOD_CHANGES,
)
TABLES = (*DECISION_TABLES, OUTCOMES, VOUCHERS, VOUCHER_LINES, OPERATION_ORDERS, ISSUES)
DERIVED_TABLES = (OUTCOMES, VOUCHERS, VOUCHER_LINES)
_decode_amounts = msgspec.json.Decoder(dict[str, int]).decode


def select_stretch(conn: Connection[Any], table: Table, after: int, through: int) -> list[Row]:
    """Read a table's rows with after < position ≤ through, by key."""
    return _select(conn, table, "position > %s AND position <= %s", (after, through))


def select_at(conn: Connection[Any], table: Table, positions: Iterable[int]) -> list[Row]:
    """Read a table's rows at these positions, by key."""
    return _select(conn, table, "position = ANY(%s)", (list(positions),))


def compare_rows(table: Table, expected: Rows, found: Iterable[Row]) -> None:
    """Compare rows of a table with what should be there; `expected` is used up."""
    compare_table(CHECK, table.label, table.columns, table.keys, expected=expected, found=found)


def _select(conn: Connection[Any], table: Table, where: LiteralString, values: Row) -> list[Row]:
    query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}").format(
        sql.SQL(", ").join(map(_expression, table.expressions)),
        sql.Identifier(table.name),
        sql.SQL(where),
        sql.SQL(", ").join(map(sql.Identifier, table.columns[: table.keys])),
    )
    rows: list[Row] = conn.execute(query, values, prepare=True, binary=True).fetchall()
    if table is OUTCOMES:
        return [(*row[:-1], _decode_amounts(row[-1])) for row in rows]
    return rows


def _expression(word: str) -> sql.Composable:
    name, _, cast = word.partition("::")
    return sql.SQL("{}::text").format(sql.Identifier(name)) if cast else sql.Identifier(name)
