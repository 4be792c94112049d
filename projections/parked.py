"""What waits for a person: parked operations, what waits behind them, and issues.

Invariant: an operation is here exactly as long as it is parked or waiting; the order of
the lists is the log's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection

from ledger.events import OperationBooked
from projections.pages import Page, checked_limit, page_of, read_cursor
from projections.tables import json_rows

SELECT_PARKED = """
    SELECT o.position, o.operation_id, o.business_type, o.business_date::text, o.status,
           o.reason, o.detail, o.depends_on, o.waits_for, o.attempt_position, r.ruleset_hash,
           o.amounts, s.booked_at, o.position, s.booked_at, l.booked_at
    FROM outcomes o
    LEFT JOIN rulesets r ON r.position = o.ruleset_position
    LEFT JOIN LATERAL (SELECT booked_at FROM ledger.seals WHERE first_id <= o.position
                       ORDER BY first_id DESC LIMIT 1) s ON true
    LEFT JOIN LATERAL (SELECT booked_at FROM ledger.seals WHERE first_id <= o.attempt_position
                       ORDER BY first_id DESC LIMIT 1) l ON true
    WHERE o.book_id = %(book)s AND o.status IN ('parked', 'waiting')
      AND (%(reason)s::text IS NULL OR o.reason = %(reason)s)
      AND (%(type)s::text IS NULL OR o.business_type = %(type)s)
      AND (%(from)s::date IS NULL OR o.business_date >= %(from)s)
      AND (%(to)s::date IS NULL OR o.business_date <= %(to)s)
      AND (%(ids)s::text[] IS NULL OR o.operation_id = ANY(%(ids)s))
      AND (%(after)s::bigint IS NULL OR o.position > %(after)s)
    ORDER BY o.position LIMIT %(limit)s
"""
COUNT_PARKED = """
    SELECT status, coalesce(reason, ''), business_type, count(*), min(position)
    FROM outcomes WHERE book_id = %s AND status IN ('parked', 'waiting')
    GROUP BY status, coalesce(reason, ''), business_type
    ORDER BY status, coalesce(reason, ''), business_type
"""
INSERT_ISSUES = """
    INSERT INTO issues (book_id, operation_id, issue_no, code, leg_no, account,
        intended_account, currency, amount_minor, reason, business_date, position)
    SELECT book_id, operation_id, issue_no, code, leg_no, account,
        intended_account, currency, amount_minor, reason, business_date, position
    FROM json_to_recordset(%s::json) AS fresh(book_id text, operation_id text, issue_no integer,
        code text, leg_no integer, account text, intended_account text, currency text,
        amount_minor bigint, reason text, business_date date, position bigint)
    ORDER BY book_id, operation_id, issue_no
    ON CONFLICT ON CONSTRAINT issues_pkey DO NOTHING
"""
SELECT_ISSUES = """
    SELECT operation_id, issue_no, code, leg_no, account, intended_account, currency,
           amount_minor, reason, business_date::text, position
    FROM issues
    WHERE book_id = %(book)s
      AND (%(after_position)s::bigint IS NULL
           OR (position, issue_no) > (%(after_position)s::bigint, %(after_no)s::integer))
    ORDER BY position, issue_no LIMIT %(limit)s
"""
SELECT_SET_ASIDES = """
    SELECT position, topic, partition, at_offset, length(raw), reason, maker
    FROM set_asides ORDER BY position
"""


class ParkedOperation(msgspec.Struct, frozen=True):
    """A parked or waiting operation: why, since when, behind what, with which rules tried.

    First and last attempt are places in the log (its own, its original's, or its last repair
    order's) and their instants are the log's: no clock of a consumer is kept.
    """

    position: int
    operation_id: str
    business_type: str
    business_date: str
    status: str
    reason: str | None
    detail: str | None
    depends_on: str | None
    waits_for: str | None
    attempt_position: int
    ruleset_hash: str | None
    amounts: dict[str, int]
    booked_at: str | None
    first_attempt_position: int
    first_attempt_at: str | None
    last_attempt_at: str | None


class ParkedCount(msgspec.Struct, frozen=True):
    """How many are parked for one reason, and the oldest one's position."""

    status: str
    reason: str
    business_type: str
    count: int
    oldest_position: int


class OpenIssue(msgspec.Struct, frozen=True):
    """Money that could not be placed as intended."""

    operation_id: str
    issue_no: int
    code: str
    leg_no: int
    account: str
    intended_account: str
    currency: str
    amount_minor: int = field(name="amount")
    reason: str
    business_date: str
    position: int


class SetAsideMessage(msgspec.Struct, frozen=True):
    """A message nobody could read, kept with its bytes."""

    position: int
    topic: str
    partition: int
    at_offset: int
    raw_bytes: int
    reason: str
    maker: str


class _IssueRow(msgspec.Struct, frozen=True, gc=False):
    book_id: str
    operation_id: str
    issue_no: int
    code: str
    leg_no: int
    account: str
    intended_account: str
    currency: str
    amount_minor: int
    reason: str
    business_date: str
    position: int


class ParkedFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which parked and waiting operations are meant; None means any."""

    reason: str | None = None
    business_type: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    operation_ids: tuple[str, ...] | None = None


def insert_issues_in_tx(
    conn: Connection[Any], operations: Iterable[tuple[int, OperationBooked]]
) -> None:
    """Write the issues of newly claimed operations."""
    rows = [
        _IssueRow(
            operation.book_id,
            operation.operation_id,
            issue_no,
            issue.code,
            issue.leg_no,
            issue.account,
            issue.intended_account,
            issue.currency,
            issue.amount_minor,
            issue.reason,
            operation.business_date,
            position,
        )
        for position, operation in operations
        for issue_no, issue in enumerate(operation.issues, 1)
    ]
    if rows:
        conn.execute(INSERT_ISSUES, (json_rows(rows),))


def select_parked(
    conn: Connection[Any],
    book_id: str,
    wanted: ParkedFilter | None = None,
    *,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[ParkedOperation]:
    """List parked and waiting operations, oldest first."""
    wanted = wanted or ParkedFilter()
    after = read_cursor(cursor, int) or (None,)
    rows = conn.execute(
        SELECT_PARKED,
        {
            "book": book_id,
            "reason": wanted.reason,
            "type": wanted.business_type,
            "from": wanted.from_date,
            "to": wanted.to_date,
            "ids": None if wanted.operation_ids is None else list(wanted.operation_ids),
            "after": after[0],
            "limit": checked_limit(limit) + 1,
        },
    )
    found = [ParkedOperation(*row) for row in rows]
    return page_of(found, limit, lambda operation: (operation.position,))


def count_parked(conn: Connection[Any], book_id: str) -> list[ParkedCount]:
    """Count parked and waiting operations per reason and business type."""
    return [ParkedCount(*row) for row in conn.execute(COUNT_PARKED, (book_id,))]


def select_issues(
    conn: Connection[Any], book_id: str, *, cursor: str | None = None, limit: int = 100
) -> Page[OpenIssue]:
    """List issues, oldest first."""
    after = read_cursor(cursor, int, int) or (None, None)
    values: Mapping[str, Any] = {
        "book": book_id,
        "after_position": after[0],
        "after_no": after[1],
        "limit": checked_limit(limit) + 1,
    }
    found = [OpenIssue(*row) for row in conn.execute(SELECT_ISSUES, values)]
    return page_of(found, limit, lambda issue: (issue.position, issue.issue_no))


def select_set_asides(conn: Connection[Any]) -> list[SetAsideMessage]:
    """List the messages that were set aside."""
    return [SetAsideMessage(*row) for row in conn.execute(SELECT_SET_ASIDES)]
