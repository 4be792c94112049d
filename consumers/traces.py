"""Traces: what the books hold of operations, asked for by name, and vouchers that do not fit.

Invariant: the database compares, and gives back only what differs; nothing is written.
"""
# ruff: noqa: S608 - the statements are made of this file's constants only

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from accounting.decided import DAY_TOPICS, DECISION_PREFIX
from consumers.resolution import OVERRIDE_RULE
from ledger.codec import operation_stream
from projections.outcomes import OperationName
from projections.tables import encode_rows

NAMES = "json_to_recordset(%s::json) AS named(book_id text, operation_id text)"
SELECT_ELSEWHERE = f"""
    SELECT book_id, operation_id, o.position, o.business_date::text
    FROM outcomes o JOIN {NAMES} USING (book_id, operation_id)
"""
SELECT_VOUCHERED = "SELECT DISTINCT position FROM vouchers WHERE position = ANY(%s)"
SELECT_BOOKED = """
    SELECT originator_id, notification_id FROM ledger.stored_events
    WHERE originator_id = ANY(%s::uuid[]) AND originator_version = 1
      AND topic = 'ledger.recorded:OperationBooked'
"""
# Decisions that leave a row at their position, whatever comes after them.
KEPT = [
    *sorted(DAY_TOPICS),
    *(
        f"{DECISION_PREFIX}decisions:{name}"
        for name in ("Rulesets.Published", "RepairOrder.Requested", "Override.Approved")
    ),
    f"{DECISION_PREFIX}decisions:SetAside.Recorded",
    *(
        f"{DECISION_PREFIX}periods:Periods.{name}"
        for name in ("DayCut", "ChangeProposed", "ChangeRejected", "PeriodClosed", "PeriodReopened")
    ),
]
KEPT_IN = ("rulesets", "repair_orders", "set_asides", "business_days", "day_cuts", "period_changes")
NOT_KEPT = " ".join(
    f"AND NOT EXISTS (SELECT 1 FROM {table} WHERE position = notification_id)" for table in KEPT_IN
)
SELECT_UNKEPT = f"""
    SELECT notification_id, topic FROM ledger.stored_events
    WHERE notification_id > %s AND notification_id <= %s AND topic = ANY(%s) {NOT_KEPT}
    ORDER BY notification_id
"""
# What the account lines of each position's vouchers move, per currency, as outcomes say it.
MOVED = """
    SELECT position, coalesce(
        jsonb_object_agg(currency, minor) FILTER (WHERE minor IS NOT NULL), '{{"": 0}}') AS amounts
    FROM (SELECT position, currency, sum(amount_minor) FILTER (WHERE account IS NOT NULL) AS minor
          FROM voucher_lines WHERE {} GROUP BY position, currency) AS lines
    GROUP BY position
"""
STRETCH = "position > %(after)s AND position <= %(until)s"
# Outcomes that are not at once as their vouchers' lines are, which are mostly of one currency;
# an override's lines are at its decision.
SELECT_SUSPECT = f"""
    SELECT o.position
    FROM (SELECT position, status, rule_id, amounts FROM outcomes WHERE {STRETCH}) o
    LEFT JOIN (
        SELECT position, sum(amount_minor) FILTER (WHERE account IS NOT NULL) AS minor,
               min(currency) FILTER (WHERE account IS NOT NULL) AS currency,
               max(currency) FILTER (WHERE account IS NOT NULL) AS currency_most
        FROM voucher_lines WHERE {STRETCH} GROUP BY position
    ) lines ON lines.position = o.position
    WHERE CASE WHEN o.status <> 'vouchered' THEN lines.position IS NOT NULL
               WHEN o.rule_id IS DISTINCT FROM '{OVERRIDE_RULE}' AND currency = currency_most
               THEN (o.amounts ->> currency = minor::text AND o.amounts - currency = '{{}}')
                    IS NOT TRUE
               ELSE true END
"""
THESE = "position = ANY(%(suspect)s::bigint[])"
SELECT_UNPOSTED = f"""
    SELECT CASE WHEN o.status <> 'vouchered' OR o.rule_id = '{OVERRIDE_RULE}' THEN 'doubled'
                WHEN moved.position IS NULL THEN 'unposted' ELSE 'differing' END,
           o.position, o.book_id, o.operation_id, o.business_date::text,
           CASE WHEN o.status <> 'vouchered' THEN o.status || ', and has vouchers'
                WHEN o.rule_id = '{OVERRIDE_RULE}' THEN 'overridden, and has vouchers of its rule'
                WHEN moved.position IS NULL THEN 'vouchered, and has no voucher'
                ELSE 'the outcome says ' || o.amounts::text || ', its vouchers'' account lines '
                     || moved.amounts::text END
    FROM (SELECT position, book_id, operation_id, business_date, status, rule_id, amounts
          FROM outcomes WHERE {THESE}) o
    LEFT JOIN ({MOVED.format(THESE)}) moved ON moved.position = o.position
    WHERE CASE WHEN o.status = 'vouchered' AND o.rule_id IS DISTINCT FROM '{OVERRIDE_RULE}'
               THEN moved.amounts IS DISTINCT FROM o.amounts
               ELSE moved.position IS NOT NULL END
"""
SELECT_OVERRIDDEN = f"""
    SELECT CASE WHEN moved.position IS NULL THEN 'unposted' ELSE 'differing' END,
           o.position, o.book_id, o.operation_id, o.business_date::text,
           CASE WHEN moved.position IS NULL THEN 'overridden, and has no voucher'
                ELSE 'the outcome says ' || o.amounts::text || ', the override''s account lines '
                     || moved.amounts::text END
    FROM outcomes o
    LEFT JOIN LATERAL ({MOVED.format("position = o.attempt_position")}) moved ON true
    WHERE o.{THESE}
      AND o.status = 'vouchered' AND o.rule_id = '{OVERRIDE_RULE}'
      AND moved.amounts IS DISTINCT FROM o.amounts
"""
# Vouchers at a position that is not their operation's: a second set, or of nobody. Only of such
# an operation its own outcome is looked up: a join would read all outcomes for every stretch.
SELECT_STRAY = f"""
    WITH stray AS MATERIALIZED (
        SELECT v.position, v.book_id, v.source_id
        FROM (SELECT position, book_id, source_id FROM vouchers WHERE {STRETCH}) v
        LEFT JOIN (SELECT position, book_id, operation_id FROM outcomes WHERE {STRETCH}) o
          ON o.position = v.position
        WHERE (o.book_id = v.book_id AND o.operation_id = v.source_id) IS NOT TRUE
          AND v.source_id <> 'decision:' || v.position
    )
    SELECT DISTINCT CASE WHEN own.position IS NULL THEN 'unknown' ELSE 'doubled' END,
           v.position, v.book_id, v.source_id, coalesce(own.business_date::text, ''),
           CASE WHEN own.position IS NULL THEN 'vouchers without an outcome'
                ELSE 'vouchers at position ' || v.position || ', its own is ' || own.position END
    FROM stray v
    LEFT JOIN LATERAL (
        SELECT position, business_date FROM outcomes
        WHERE book_id = v.book_id AND operation_id = v.source_id LIMIT 1
    ) own ON true
"""


def select_elsewhere_in_tx(
    conn: Connection[Any], names: Sequence[OperationName]
) -> dict[OperationName, tuple[int, str]]:
    """Find outcomes by name, wherever they say the operation is: position, business date."""
    rows = conn.execute(SELECT_ELSEWHERE, (_names(names),))
    return {(book, operation): (position, date) for book, operation, position, date in rows}


def select_vouchered_in_tx(conn: Connection[Any], positions: Sequence[int]) -> set[int]:
    """Tell at which positions there are vouchers."""
    return {row[0] for row in conn.execute(SELECT_VOUCHERED, (list(positions),))}


def select_booked_in_tx(
    conn: Connection[Any], names: Sequence[OperationName]
) -> dict[OperationName, int]:
    """Find where the log has booked operations; one that it has not is left out."""
    streams = {operation_stream(*name): name for name in names}
    rows = conn.execute(SELECT_BOOKED, ([stream.hex() for stream in streams],))
    return {streams[stream_id.bytes]: position for stream_id, position in rows}


def select_unkept_in_tx(
    conn: Connection[Any], after: int, until: int
) -> list[tuple[int, str, str]]:
    """Find decisions of a stretch that left no row: position, no book, the decision's name."""
    rows = conn.execute(SELECT_UNKEPT, (after, until, KEPT))
    return [(position, "", topic.rpartition(":")[2]) for position, topic in rows]


def select_unposted_in_tx(
    conn: Connection[Any], after: int, until: int
) -> list[tuple[str, int, str, str, str, str]]:
    """Compare the outcomes of a stretch with their vouchers: kind, position, name, day, detail."""
    span = {"after": after, "until": until}
    suspect = [row[0] for row in conn.execute(SELECT_SUSPECT, span)]
    queries = (SELECT_UNPOSTED, SELECT_OVERRIDDEN, SELECT_STRAY) if suspect else (SELECT_STRAY,)
    values = {**span, "suspect": suspect}
    return [row for query in queries for row in conn.execute(query, values).fetchall()]


def _names(names: Sequence[OperationName]) -> str:
    rows = [{"book_id": book_id, "operation_id": each} for book_id, each in names]
    return encode_rows(rows).decode()
