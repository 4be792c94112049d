"""Outcomes: how each published operation ended, claimed before any effect of it.

Every operation is exactly one of vouchered, parked (with a reason), waiting behind its
original, or declared non-posting. Invariant: the totals equal the rows: a status changes
together with them, in one transaction.
"""
# ruff: noqa: S608 - the statements are made of this file's constants only

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
from psycopg import Connection

from ledger.binary_copy import (
    FIXED_MAX,
    HEADER,
    NULL,
    TRAILER,
    copy_in_tx,
    count_field,
    date_field,
    int8_field,
    jsonb_field,
    refusing,
    text_field,
    text_fields,
)
from projections.tables import json_rows

OperationName = tuple[str, str]
Totals = dict[tuple[str, str, str], list[int]]  # book, status, currency → count and amount

VOUCHERED = "vouchered"
PARKED = "parked"
WAITING = "waiting"
NON_POSTING = "non_posting"
FINAL = frozenset({VOUCHERED, NON_POSTING})
RANKS = {WAITING: 0, PARKED: 1, NON_POSTING: 2, VOUCHERED: 3}

COLUMNS = (
    "book_id, operation_id, position, business_type, business_date, status, reason, detail, "
    "rule_id, ruleset_position, attempt_position, depends_on, waits_for, amounts"
)
RECORD = (
    "book_id text, operation_id text, position bigint, business_type text, business_date date, "
    "status text, reason text, detail text, rule_id text, ruleset_position bigint, "
    "attempt_position bigint, depends_on text, waits_for text, amounts jsonb"
)
CLAIM = f"""
    INSERT INTO outcomes ({COLUMNS})
    SELECT {COLUMNS} FROM json_to_recordset(%s::json) AS fresh({RECORD})
    ORDER BY book_id, operation_id
    ON CONFLICT ON CONSTRAINT outcomes_pkey DO NOTHING
    RETURNING position
"""
# What many rows have in common comes first.
COPY_OUTCOMES = """
    COPY outcomes (book_id, business_type, status, rule_id, reason, business_date,
                   ruleset_position, operation_id, position, attempt_position,
                   detail, depends_on, waits_for, amounts)
    FROM STDIN (FORMAT BINARY)
"""
UPDATE = f"""
    UPDATE outcomes AS old
    SET status = fresh.status, reason = fresh.reason, detail = fresh.detail,
        rule_id = fresh.rule_id, ruleset_position = fresh.ruleset_position,
        attempt_position = fresh.attempt_position, waits_for = fresh.waits_for
    FROM json_to_recordset(%s::json) AS fresh({RECORD})
    WHERE old.book_id = fresh.book_id AND old.operation_id = fresh.operation_id
"""
ADD_TOTALS = """
    INSERT INTO outcome_totals (book_id, status, currency, lane, count, amount_minor)
    SELECT book_id, status, currency, lane, count, amount_minor
    FROM json_to_recordset(%s::json) AS fresh(book_id text, status text, currency text,
        lane integer, count bigint, amount_minor numeric)
    ORDER BY book_id, status, currency, lane
    ON CONFLICT ON CONSTRAINT outcome_totals_pkey DO UPDATE
    SET count = outcome_totals.count + EXCLUDED.count,
        amount_minor = outcome_totals.amount_minor + EXCLUDED.amount_minor
"""
NAMES = "json_to_recordset(%s::json) AS named(book_id text, operation_id text)"
SELECT_STANDINGS = f"""
    SELECT book_id, operation_id, o.status, o.attempt_position
    FROM outcomes o JOIN {NAMES} USING (book_id, operation_id)
"""
_AS_TEXT = {"business_date", "amounts"}
_SELECTED = ", ".join(
    f"o.{name}::text" if name in _AS_TEXT else f"o.{name}" for name in COLUMNS.split(", ")
)
LOCK_OPEN = f"""
    SELECT {_SELECTED}
    FROM outcomes o JOIN {NAMES} USING (book_id, operation_id)
    WHERE o.status IN ('parked', 'waiting') AND o.position < %s
    ORDER BY o.position FOR UPDATE OF o
"""
LOCK_WAITERS = f"""
    SELECT {_SELECTED}
    FROM outcomes o JOIN {NAMES} ON named.book_id = o.book_id AND named.operation_id = o.waits_for
    WHERE o.status = 'waiting'
    ORDER BY o.position FOR UPDATE OF o
"""
SELECT_MISSED = """
    SELECT DISTINCT original.book_id, original.operation_id, original.attempt_position
    FROM outcomes waiter
    JOIN outcomes original
      ON original.book_id = waiter.book_id AND original.operation_id = waiter.waits_for
    WHERE waiter.status = 'waiting' AND original.status IN ('vouchered', 'non_posting')
"""
EXISTS_WAITER = "SELECT EXISTS (SELECT 1 FROM outcomes WHERE status = 'waiting')"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """A row of `outcomes`; `amounts` is JSON: movement per currency, {"": 0} without any."""

    book_id: str
    operation_id: str
    position: int
    business_type: str
    business_date: str
    status: str
    reason: str | None
    detail: str | None
    rule_id: str | None
    ruleset_position: int | None
    attempt_position: int
    depends_on: str | None
    waits_for: str | None
    amounts: msgspec.Raw

    @property
    def name(self) -> OperationName:
        """Give book and operation id."""
        return self.book_id, self.operation_id

    @property
    def revision(self) -> int:
        """Order the outcomes of one operation: a later one is greater, on every machine."""
        return self.attempt_position * 4 + RANKS[self.status]


class _Name(msgspec.Struct, frozen=True, gc=False):
    book_id: str
    operation_id: str


class _Total(msgspec.Struct, frozen=True, gc=False):
    book_id: str
    status: str
    currency: str
    lane: int
    count: int
    amount_minor: str


class Standing(msgspec.Struct, frozen=True, gc=False):
    """How an original stands: its status and where that was decided."""

    status: str
    attempt_position: int


def claim_in_tx(conn: Connection[Any], outcomes: Sequence[Outcome]) -> set[int]:
    """Claim operations by writing their outcome; return the positions that were free."""
    if not outcomes:
        return set()
    return {row[0] for row in conn.execute(CLAIM, (json_rows(outcomes),))}


def claim_all_in_tx(
    conn: Connection[Any], outcomes: Sequence[Outcome], packed: bytearray | None = None
) -> set[int]:
    """Claim operations as `claim_in_tx` does, at a fifth of its cost, if every one is free.

    `packed` are the same, packed beforehand. Raises UniqueViolation, and the transaction is lost,
    if one is not free.
    """
    if outcomes:
        insert_outcomes_in_tx(conn, packed or pack_outcomes(in_key_order(outcomes)))
    return {outcome.position for outcome in outcomes}


def in_key_order(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Order outcomes as their index does."""
    return sorted(outcomes, key=_name_of)


def insert_outcomes_in_tx(conn: Connection[Any], packed: bytearray) -> None:
    """Write packed outcomes that nobody else has written, as it nearly always is."""
    copy_in_tx(conn, COPY_OUTCOMES, packed)


def pack_outcomes(outcomes: Iterable[Outcome]) -> bytearray:
    """Pack outcomes for `insert_outcomes_in_tx`; pure."""
    packed = bytearray(HEADER)
    with refusing():
        for each in outcomes:
            packed += b"".join(
                (
                    _fixed(
                        each.book_id,
                        each.business_type,
                        each.status,
                        each.rule_id,
                        each.reason,
                        each.business_date,
                        each.ruleset_position,
                    ),
                    text_field(each.operation_id),
                    _pack_positions(8, each.position, 8, each.attempt_position),
                    text_field(each.detail),
                    text_field(each.depends_on),
                    text_field(each.waits_for),
                    jsonb_field(bytes(each.amounts)),
                )
            )
    packed += TRAILER
    return packed


_pack_positions = struct.Struct(">iqiq").pack  # the operation's, and where it was decided


@lru_cache(maxsize=FIXED_MAX)
def _fixed(
    book_id: str,
    business_type: str,
    status: str,
    rule_id: str | None,
    reason: str | None,
    business_date: str,
    ruleset_position: int | None,
) -> bytes:
    return b"".join(
        (
            count_field(14),
            text_fields(book_id, business_type, status, rule_id, reason),
            date_field(business_date),
            NULL if ruleset_position is None else int8_field(8, ruleset_position),
        )
    )


def update_in_tx(conn: Connection[Any], outcomes: Sequence[Outcome]) -> None:
    """Write new outcomes over rows that this transaction has locked."""
    if outcomes:
        conn.execute(UPDATE, (json_rows(outcomes),))


def apply_totals_in_tx(
    conn: Connection[Any],
    added: Iterable[Outcome],
    removed: Iterable[Outcome],
    lane: int,
) -> None:
    """Add and take away outcomes in the lane's totals, in key order."""
    totals: Totals = {}
    add_totals(totals, added)
    add_totals(totals, removed, sign=-1)
    post_totals_in_tx(conn, totals, lane)


def add_totals(totals: Totals, outcomes: Iterable[Outcome], *, sign: int = 1) -> None:
    """Add outcomes to totals in memory, or take them away."""
    for outcome in outcomes:
        for currency, amount_minor in read_amounts(outcome.amounts).items():
            key = (outcome.book_id, outcome.status, currency)
            total = totals.get(key)
            if total is None:
                total = totals[key] = [0, 0]
            total[0] += sign
            total[1] += sign * amount_minor


def post_totals_in_tx(conn: Connection[Any], totals: Totals, lane: int) -> None:
    """Add totals to the lane's, in key order."""
    rows = [
        _Total(*key, lane, count, str(amount_minor))
        for key, (count, amount_minor) in totals.items()
        if count or amount_minor
    ]
    if rows:
        conn.execute(ADD_TOTALS, (json_rows(rows),))


def select_standings(
    conn: Connection[Any], names: Iterable[OperationName]
) -> dict[OperationName, Standing]:
    """Read how operations stand; one that has no outcome yet is left out."""
    rows = conn.execute(SELECT_STANDINGS, (_names(names),))
    return {(book, operation): Standing(status, at) for book, operation, status, at in rows}


def lock_open_in_tx(
    conn: Connection[Any], names: Iterable[OperationName], *, below: int
) -> list[Outcome]:
    """Lock the parked and waiting ones among operations, in order of position."""
    return [_outcome(row) for row in conn.execute(LOCK_OPEN, (_names(names), below))]


def lock_waiters_in_tx(conn: Connection[Any], names: Iterable[OperationName]) -> list[Outcome]:
    """Lock what waits for any of these operations, in order of position."""
    if not exists_waiter(conn):
        return []
    return [_outcome(row) for row in conn.execute(LOCK_WAITERS, (_names(names),))]


def exists_waiter(conn: Connection[Any]) -> bool:
    """Tell whether anything waits."""
    row = conn.execute(EXISTS_WAITER).fetchone()
    return bool(row and row[0])


def select_missed(conn: Connection[Any]) -> dict[OperationName, int]:
    """Find final originals somebody still waits for, with the position of their decision."""
    rows = conn.execute(SELECT_MISSED)
    return {(book, operation): attempt_position for book, operation, attempt_position in rows}


def write_amounts(amounts: dict[str, int]) -> msgspec.Raw:
    """Write amounts per currency as JSON; exact for any size."""
    inner = ",".join([f'"{currency}":{minor}' for currency, minor in amounts.items()])
    return msgspec.Raw(f"{{{inner}}}".encode())


def read_amounts(raw: msgspec.Raw) -> dict[str, int]:
    """Read what `write_amounts` wrote."""
    return _decode_amounts(raw)


_name_of = attrgetter("book_id", "operation_id")
_decode_amounts = msgspec.json.Decoder(dict[str, int]).decode


def _names(names: Iterable[OperationName]) -> str:
    return json_rows([_Name(*name) for name in names])


def _outcome(row: tuple[Any, ...]) -> Outcome:
    return Outcome(*(*row[:-1], msgspec.Raw(row[-1].encode())))
