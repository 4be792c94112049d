"""The projections' tables as an audit reads them: every column, by stretch of the log.

Invariant: `columns` name every column of the table that an audit compares, key columns
first; what is left out is named in `LEFT_OUT`, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
Expected = dict[str, list[Row]]


class Table(msgspec.Struct, frozen=True):
    """One table whose rows have a place in the log; `expressions` say how columns are read.

    `order` is that of the log: an audit makes the rows in it, so that lists can be compared.
    """

    name: str
    keys: int
    columns: tuple[str, ...]
    expressions: tuple[str, ...]
    order: LiteralString

    @property
    def label(self) -> str:
        """Name the table as a difference shows it."""
        return f"projections.{self.name}"

    @property
    def at(self) -> int:
        """Say which column is the position."""
        return self.columns.index("position")


def _table(name: str, keys: int, text: str, order: LiteralString = "position") -> Table:
    """Make a table from `column` and `column::type` words."""
    words = tuple(text.split())
    return Table(name, keys, tuple(word.partition("::")[0] for word in words), words, order)


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
    "position, ordinal",
)
VOUCHER_LINES = _table(
    "voucher_lines",
    3,
    "position ordinal line_no side subject currency amount_minor account off_balance",
    "position, ordinal, line_no",
)
OPERATION_ORDERS = _table(
    "operation_orders",
    4,
    "book_id order_number kind operation_id position",
    'position, kind COLLATE "C", order_number COLLATE "C"',
)
ISSUES = _table(
    "issues",
    3,
    "book_id operation_id issue_no code leg_no account intended_account currency amount_minor "
    "reason business_date::text position",
    "position, issue_no",
)
DECISION_TABLES = (
    RULESETS,
    REPAIR_ORDERS,
    SET_ASIDES,
    BUSINESS_DAYS,
    DAY_CUTS,
    PERIOD_CHANGES,
)
DERIVED_TABLES = (OUTCOMES, VOUCHERS, VOUCHER_LINES)
ROWS_PER_READ = 5_000
_decode_amounts = msgspec.json.Decoder(dict[str, int]).decode


def select_stretch(conn: Connection[Any], table: Table, after: int, through: int) -> list[Row]:
    """Read a table's rows with after < position ≤ through, in the order of the log."""
    query = _select(table, "WHERE position > %s AND position <= %s")
    return conn.execute(query, (after, through), prepare=True, binary=True).fetchall()


def select_at(conn: Connection[Any], table: Table, positions: Iterable[int]) -> list[Row]:
    """Read a table's rows at these positions, in the order of the log."""
    query = _select(table, "WHERE position = ANY(%s)")
    return conn.execute(query, (list(positions),), prepare=True, binary=True).fetchall()


class Following:
    """A whole table's rows in the order of the log, read once: it has no index by position."""

    def __init__(self, conn: Connection[Any], table: Table) -> None:
        self._rows = _read_all(conn, table)
        self._at = table.at
        self._ahead = next(self._rows, None)

    def take(self, through: int) -> list[Row]:
        """Return the rows up to a position that have not been returned yet."""
        taken: list[Row] = []
        row, at = self._ahead, self._at
        while row is not None and row[at] <= through:
            taken.append(row)
            row = next(self._rows, None)
        self._ahead = row
        return taken


def compare_rows(table: Table, expected: list[Row], found: list[Row]) -> None:
    """Compare rows of a table with what should be there. Raises `DifferenceFound`.

    Equal lists are equal rows; otherwise rows are compared by key, and the first is named.
    """
    if expected == found:
        return
    should: Iterable[Row] = expected
    does: Iterable[Row] = found
    if table is OUTCOMES:
        should, does = map(_with_amounts, expected), map(_with_amounts, found)
    compare_table(
        CHECK,
        table.label,
        table.columns,
        table.keys,
        expected={row[: table.keys]: row for row in should},
        found=does,
    )


def amounts_text(amounts: Mapping[str, int]) -> str:
    """Write amounts per currency as the database shows its `jsonb`: shorter names first."""
    if len(amounts) == 1:
        return '{"%s": %d}' % next(iter(amounts.items()))  # noqa: UP031 - for each operation
    ordered = sorted(amounts.items(), key=lambda each: (len(each[0]), each[0]))
    return "{" + ", ".join(f'"{currency}": {minor}' for currency, minor in ordered) + "}"


def _with_amounts(row: Row) -> Row:
    """Read an outcome's amounts: written in another way they are still the same."""
    return (*row[:-1], _decode_amounts(row[-1]))


def _read_all(conn: Connection[Any], table: Table) -> Iterator[Row]:
    with conn.cursor(name=f"audit_{table.name}") as cursor:
        cursor.itersize = ROWS_PER_READ
        cursor.execute(_select(table, ""), binary=True)
        yield from cursor


def _select(table: Table, where: LiteralString) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} {} ORDER BY {}").format(
        sql.SQL(", ").join(map(_expression, table.expressions)),
        sql.Identifier(table.name),
        sql.SQL(where),
        sql.SQL(table.order),
    )


def _expression(word: str) -> sql.Composable:
    name, _, cast = word.partition("::")
    return sql.SQL("{}::text").format(sql.Identifier(name)) if cast else sql.Identifier(name)
