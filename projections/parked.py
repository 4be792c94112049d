"""What waits for a person: parked operations, what waits behind them, and issues.

Invariant: an operation is here exactly as long as it is parked or waiting; the order of
the lists is the log's.
"""

# ruff: noqa: S608 - the statements are made of this file's constants only

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection

from ledger.events import OperationBooked
from projections.pages import Page, checked_limit, page_of, read_cursor
from projections.parked_reasons import require_meant
from projections.tables import json_rows

# An operation's account is known by its legs in the log; what was redirected to suspense is
# found by the account it was meant for as well.
FILTERED = """
    o.book_id = %(book)s AND o.status IN ('parked', 'waiting')
      AND (%(status)s::text IS NULL OR o.status = %(status)s)
      AND (%(reason)s::text IS NULL OR o.reason = %(reason)s)
      AND (%(type)s::text IS NULL OR o.business_type = %(type)s)
      AND (%(from)s::date IS NULL OR o.business_date >= %(from)s)
      AND (%(to)s::date IS NULL OR o.business_date <= %(to)s)
      AND (%(ids)s::text[] IS NULL OR o.operation_id = ANY(%(ids)s))
      AND (%(account)s::text IS NULL OR EXISTS (
          SELECT 1 FROM ledger.stored_events e,
               jsonb_array_elements(convert_from(e.state, 'UTF8')::jsonb -> 'legs') leg
          WHERE e.notification_id = o.position
            AND %(account)s IN (leg ->> 'account', leg ->> 'intended_account')))
"""
# Only the log says what an operation follows besides its first original.
ALSO_FOLLOWS = """
    CASE WHEN o.depends_on IS NOT NULL THEN (
        SELECT array(SELECT jsonb_array_elements_text(
            convert_from(e.state, 'UTF8')::jsonb -> 'also_follows'))
        FROM ledger.stored_events e WHERE e.notification_id = o.position) END
"""
# What an operation was tried with when it arrived, though it waits whatever these rules say.
TRIED_ON_ARRIVAL = """
    CASE WHEN o.status = 'waiting' THEN (
        SELECT position FROM rulesets t
        WHERE t.book_id = o.book_id AND t.position < o.position
          AND t.effective_from <= o.business_date::text
        ORDER BY t.effective_from DESC, t.position DESC LIMIT 1) END
"""
# Each place in the log of a page is looked up once among the seals.
SELECT_PARKED = f"""
    WITH page AS MATERIALIZED (
        SELECT o.book_id, o.position, o.operation_id, o.business_type, o.business_date, o.status,
               o.reason, o.detail, o.depends_on, o.waits_for, o.attempt_position,
               o.ruleset_position, o.amounts
        FROM outcomes o
        WHERE {FILTERED} AND (%(after)s::bigint IS NULL OR o.position > %(after)s)
        ORDER BY o.position LIMIT %(limit)s
    ), sealed AS MATERIALIZED (
        SELECT place.position, seal.booked_at
        FROM (SELECT position FROM page UNION SELECT attempt_position FROM page) place
        LEFT JOIN LATERAL (SELECT booked_at FROM ledger.seals WHERE first_id <= place.position
                           ORDER BY first_id DESC LIMIT 1) seal ON true
    )
    SELECT o.position, o.operation_id, o.business_type, o.business_date::text, o.status,
           o.reason, o.detail, o.depends_on, {ALSO_FOLLOWS}, o.waits_for,
           o.attempt_position, r.ruleset_hash, o.amounts, first.booked_at, o.position,
           first.booked_at, last.booked_at
    FROM page o
    LEFT JOIN rulesets r ON r.position = coalesce(o.ruleset_position, {TRIED_ON_ARRIVAL})
    JOIN sealed first ON first.position = o.position
    JOIN sealed last ON last.position = o.attempt_position
    ORDER BY o.position
"""
COUNT_PARKED = f"""
    WITH wanted AS (
        SELECT o.status, coalesce(o.reason, '') AS reason, o.business_type, o.position, o.amounts
        FROM outcomes o WHERE {FILTERED}
    ), groups AS (
        SELECT status, reason, business_type, count(*) AS count, min(position) AS oldest
        FROM wanted GROUP BY status, reason, business_type
    ), amounts AS (
        SELECT status, reason, business_type, jsonb_object_agg(currency, minor) AS amounts
        FROM (SELECT status, reason, business_type, each.key AS currency,
                     sum(each.value::numeric) AS minor
              FROM wanted, jsonb_each_text(amounts) each
              GROUP BY status, reason, business_type, each.key) sums
        GROUP BY status, reason, business_type
    )
    SELECT status, reason, business_type, count, oldest, seal.booked_at, amounts
    FROM groups JOIN amounts USING (status, reason, business_type)
    LEFT JOIN LATERAL (SELECT booked_at FROM ledger.seals WHERE first_id <= oldest
                       ORDER BY first_id DESC LIMIT 1) seal ON true
    ORDER BY status, reason, business_type
"""
SELECT_WAITERS = """
    WITH RECURSIVE behind AS (
        SELECT operation_id, waits_for, position, 1 AS depth FROM outcomes
        WHERE book_id = %(book)s AND status = 'waiting' AND waits_for = %(operation)s
        UNION ALL
        SELECT o.operation_id, o.waits_for, o.position, behind.depth + 1
        FROM outcomes o JOIN behind ON o.waits_for = behind.operation_id
        WHERE o.book_id = %(book)s AND o.status = 'waiting' AND behind.depth < %(depth)s
    )
    SELECT operation_id, waits_for, depth FROM behind ORDER BY depth, position LIMIT %(limit)s
"""
SELECT_ORIGINALS = """
    WITH RECURSIVE ahead AS (
        SELECT waits_for, 1 AS depth FROM outcomes
        WHERE book_id = %(book)s AND operation_id = %(operation)s AND status = 'waiting'
        UNION ALL
        SELECT o.waits_for, ahead.depth + 1
        FROM outcomes o JOIN ahead ON o.operation_id = ahead.waits_for
        WHERE o.book_id = %(book)s AND o.status = 'waiting' AND ahead.depth < %(depth)s
    )
    SELECT ahead.waits_for, coalesce(o.status, 'not in the books'), coalesce(o.reason, '')
    FROM ahead LEFT JOIN outcomes o
      ON o.book_id = %(book)s AND o.operation_id = ahead.waits_for
    ORDER BY ahead.depth
"""
SELECT_STANDING = """
    SELECT named.operation_id, coalesce(o.status, 'not in the books'), coalesce(o.reason, '')
    FROM unnest(%(ids)s::text[]) WITH ORDINALITY AS named(operation_id, no)
    LEFT JOIN outcomes o ON o.book_id = %(book)s AND o.operation_id = named.operation_id
    ORDER BY named.no
"""
CHAIN_DEPTH_MAX = 100
WAITERS_SHOWN_MAX = 100
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
    SELECT position, topic, partition, at_offset, length(raw), raw, reason, maker
    FROM set_asides WHERE (%(after)s::bigint IS NULL OR position > %(after)s)
    ORDER BY position LIMIT %(limit)s
"""


class ParkedOperation(msgspec.Struct, frozen=True):
    """A parked or waiting operation: why, since when, behind what, with which rules tried.

    `depends_on` are all operations that it follows, `waits_for` the first that is not final.
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
    depends_on: tuple[str, ...]
    waits_for: str | None
    attempt_position: int
    ruleset_hash: str | None
    amounts: dict[str, int]
    booked_at: str | None
    first_attempt_position: int
    first_attempt_at: str | None
    last_attempt_at: str | None
    age_s: float | None = None


class ParkedCount(msgspec.Struct, frozen=True):
    """How many are parked for one reason, how much that is, and how old the oldest one is."""

    status: str
    reason: str
    business_type: str
    count: int
    oldest_position: int
    oldest_booked_at: str | None
    amounts: dict[str, int]
    oldest_age_s: float | None = None


class Waiter(msgspec.Struct, frozen=True):
    """An operation behind another one; `depth` 1 waits for it directly."""

    operation_id: str
    waits_for: str
    depth: int


class Original(msgspec.Struct, frozen=True):
    """What an operation follows or waits for, and how that stands."""

    operation_id: str
    status: str
    reason: str


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
    """A message nobody could read, kept with its bytes; `raw` is base64 in JSON."""

    position: int
    topic: str
    partition: int
    at_offset: int
    raw_bytes: int
    raw: bytes
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
    """Which parked and waiting operations are meant; None means any.

    Raises InvalidRequest for a reason, business type or range of dates that cannot be.
    """

    status: str | None = None
    reason: str | None = None
    business_type: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    account: str | None = None
    operation_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        require_meant(self.reason, self.business_type, self.from_date, self.to_date)


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
    now: dt.datetime | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[ParkedOperation]:
    """List parked and waiting operations, oldest first; with their age, as seen at `now`."""
    after = read_cursor(cursor, int) or (None,)
    more = {"after": after[0], "limit": checked_limit(limit) + 1}
    rows = conn.execute(SELECT_PARKED, _values(book_id, wanted) | more)
    found = [_parked(row, now) for row in rows]
    return page_of(found, limit, lambda operation: (operation.position,))


def count_parked(
    conn: Connection[Any],
    book_id: str,
    wanted: ParkedFilter | None = None,
    *,
    now: dt.datetime | None = None,
) -> list[ParkedCount]:
    """Count parked and waiting operations, with their amounts, per reason and business type."""
    rows = conn.execute(COUNT_PARKED, _values(book_id, wanted))
    return [ParkedCount(*(*row, _age_s(row[-2], now))) for row in rows]


def select_waiters(conn: Connection[Any], book_id: str, operation_id: str) -> list[Waiter]:
    """List what waits behind an operation, and what waits behind that; nearest first."""
    more = {"depth": CHAIN_DEPTH_MAX, "limit": WAITERS_SHOWN_MAX}
    values = {"book": book_id, "operation": operation_id} | more
    return [Waiter(*row) for row in conn.execute(SELECT_WAITERS, values)]


def select_originals(conn: Connection[Any], book_id: str, operation_id: str) -> list[Original]:
    """List what an operation waits for, and what that waits for; nearest first."""
    values = {"book": book_id, "operation": operation_id, "depth": CHAIN_DEPTH_MAX}
    return [Original(*row) for row in conn.execute(SELECT_ORIGINALS, values)]


def select_standing(
    conn: Connection[Any], book_id: str, operation_ids: Iterable[str]
) -> list[Original]:
    """Say how operations stand, in the order given."""
    values = {"book": book_id, "ids": list(operation_ids)}
    return [Original(*row) for row in conn.execute(SELECT_STANDING, values)]


def _parked(row: tuple[Any, ...], now: dt.datetime | None) -> ParkedOperation:
    first, others = row[7:9]
    depends_on = () if first is None else (first, *(others or ()))
    return ParkedOperation(*(*row[:7], depends_on, *row[9:], _age_s(row[-2], now)))


def _values(book_id: str, wanted: ParkedFilter | None) -> dict[str, Any]:
    wanted = wanted or ParkedFilter()
    return {
        "book": book_id,
        "status": wanted.status,
        "reason": wanted.reason,
        "type": wanted.business_type,
        "from": wanted.from_date,
        "to": wanted.to_date,
        "account": wanted.account,
        "ids": None if wanted.operation_ids is None else list(wanted.operation_ids),
    }


def _age_s(booked_at: str | None, now: dt.datetime | None) -> float | None:
    if booked_at is None or now is None:
        return None
    age = now - dt.datetime.fromisoformat(booked_at)
    return round(max(age.total_seconds(), 0.0), 3)


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


def select_set_asides(
    conn: Connection[Any], *, cursor: str | None = None, limit: int = 100
) -> Page[SetAsideMessage]:
    """List the messages that were set aside, in the order of the decisions."""
    after = read_cursor(cursor, int) or (None,)
    values = {"after": after[0], "limit": checked_limit(limit) + 1}
    found = [SetAsideMessage(*row) for row in conn.execute(SELECT_SET_ASIDES, values)]
    return page_of(found, limit, lambda message: (message.position,))
