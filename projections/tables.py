"""The projections' tables as a set: their schema, their compared columns, how rows enter.

Invariant: SQL of this room does not qualify its tables; the connection's search_path says
whether the live schema, or a rebuild's shadow, is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg import Connection, sql

from ledger.deadlines import DEADLINES
from ledger.failover import CommittingConnection
from ledger.log import READ_COMMITTED

LIVE_SCHEMA = "projections"
SHADOW_SCHEMA = "projections_shadow"
LOCK_TIMEOUT_S = 30

# Compared row for row, ordered by key. Left out: positions.moved_at and .stopped (a clock and
# the present), .incarnation (raised by the swap), and lanes where rows are summed over them.
COMPARED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # table: (key columns, other columns)
    "positions": (("lane",), ("log_id", "log_incarnation", "position")),
    "rulesets": (
        ("position",),
        ("book_id", "ruleset_hash", "label", "effective_from", "maker", "document"),
    ),
    "repair_orders": (
        ("position",),
        (
            "kind",
            "book_id",
            "operation_ids",
            "ruleset_hash",
            "maker",
            "checker",
            "note",
            "given",
            "performed",
        ),
    ),
    "set_asides": (
        ("position",),
        ("topic", "partition", "at_offset", "raw", "reason", "maker"),
    ),
    "business_days": (("position",), ("book_id", "open_date")),
    "day_cuts": (
        ("position",),
        (
            "book_id",
            "cut_date",
            "open_date",
            "parked",
            "operations",
            "operation_ids",
            "maker",
            "note",
            "performed",
        ),
    ),
    "period_changes": (
        ("position",),
        ("book_id", "change_id", "step", "period_date", "maker", "checker", "note"),
    ),
    "outcomes": (
        ("book_id", "operation_id"),
        (
            "position",
            "business_type",
            "business_date",
            "status",
            "reason",
            "detail",
            "rule_id",
            "ruleset_position",
            "attempt_position",
            "depends_on",
            "waits_for",
            "amounts",
        ),
    ),
    "operation_orders": (("book_id", "order_number", "kind", "operation_id"), ("position",)),
    "vouchers": (
        ("position", "ordinal"),
        (
            "book_id",
            "source_id",
            "accounting_date",
            "business_type",
            "rule_id",
            "ruleset_hash",
            "corrects",
            "business_date",
        ),
    ),
    "voucher_numbers": (("book_id", "year", "number"), ("position", "ordinal")),
    "voucher_lines": (
        ("position", "ordinal", "line_no"),
        ("side", "subject", "currency", "amount_minor", "account", "off_balance"),
    ),
    "issues": (
        ("book_id", "operation_id", "issue_no"),
        (
            "code",
            "leg_no",
            "account",
            "intended_account",
            "currency",
            "amount_minor",
            "reason",
            "business_date",
            "position",
        ),
    ),
}
# Summed over lanes before they are compared; groups that add up to nothing are left out.
COMPARED_SUMS: dict[str, str] = {
    "outcome_totals": """
        SELECT book_id, status, currency, sum(count) AS count, sum(amount_minor) AS amount_minor
        FROM {}.outcome_totals GROUP BY book_id, status, currency
        HAVING sum(count) <> 0 OR sum(amount_minor) <> 0
    """,
    "gl_balances": """
        SELECT book_id, subject, currency, accounting_date, off_balance,
               sum(debit_minor) AS debit_minor, sum(credit_minor) AS credit_minor
        FROM {}.gl_balances GROUP BY book_id, subject, currency, accounting_date, off_balance
        HAVING sum(debit_minor) <> 0 OR sum(credit_minor) <> 0
    """,
    "account_balances_daily": """
        SELECT book_id, account, currency, business_date,
               sum(debit_minor) AS debit_minor, sum(credit_minor) AS credit_minor,
               (array_agg(closing_minor ORDER BY last_version DESC))[1] AS closing_minor,
               max(last_version) AS last_version
        FROM {}.account_balances_daily GROUP BY book_id, account, currency, business_date
    """,
}
SUM_KEYS: dict[str, tuple[str, ...]] = {
    "outcome_totals": ("book_id", "status", "currency"),
    "gl_balances": ("book_id", "subject", "currency", "accounting_date", "off_balance"),
    "account_balances_daily": ("book_id", "account", "currency", "business_date"),
}

encode_rows = msgspec.json.Encoder().encode


def connect_to(database_url: str, schema: str = LIVE_SCHEMA) -> Connection[Any]:
    """Open an autocommit connection whose search_path is a projections schema.

    It waits for nobody for ever: neither for a server that is gone nor for a lock. A statement
    may take its time, because a rebuild's do.
    """
    conn = CommittingConnection.connect(
        database_url,
        autocommit=True,
        application_name="daybook-accounting",
        options=f"-c lock_timeout={LOCK_TIMEOUT_S}s {READ_COMMITTED}",
        **DEADLINES,
    )
    use_schema(conn, schema)
    return conn


def write_behind(conn: Connection[Any]) -> None:
    """Let the session's commits not wait for the disk: for a shadow, which no kill may keep.

    The swap's commit waits for the disk, and with it for everything that was written before.
    """
    conn.execute("SET synchronous_commit = off")


def use_schema(conn: Connection[Any], schema: str) -> None:
    """Point the session at a projections schema (and the ledger's)."""
    path = sql.SQL("SET search_path = {}, ledger").format(sql.Identifier(schema))
    conn.execute(path)


def json_rows(rows: Sequence[Any]) -> str:
    """Encode structs, whose fields are columns, for `json_to_recordset`.

    It beats a driver's arrays by half of the time per row: the encoding is one call. Where rows
    are many, `text_array` and `integer_array` cost the server a third of what it takes to read it.
    """
    return encode_rows(rows).decode()


def text_array(values: Sequence[str]) -> str:
    """Write texts, one at least, as an array that the server reads."""
    joined = '","'.join(values)
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        joined = '","'.join([text.replace("\\", r"\\").replace('"', r"\"") for text in values])
    return f'{{"{joined}"}}'


def integer_array(values: Iterable[int]) -> str:
    """Write integers of any size as an array that the server reads."""
    return f"{{{','.join(map(str, values))}}}"
