"""Repair orders and set-aside messages: decisions that wait for every lane, kept as met.

An order is performed once, by whoever finds it first after every lane has passed it; until
then it is due. Invariant: orders are performed in the order of the log.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from accounting.decisions import (
    GivenLine,
    MessageSetAside,
    OverrideApproved,
    RepairRequested,
)

INSERT_ORDER = """
    INSERT INTO repair_orders (position, kind, book_id, operation_ids, ruleset_hash, maker,
        checker, note, given, performed)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, false)
    ON CONFLICT ON CONSTRAINT repair_orders_pkey DO NOTHING
"""
INSERT_SET_ASIDE = """
    INSERT INTO set_asides (position, topic, partition, at_offset, raw, reason, maker)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT ON CONSTRAINT set_asides_pkey DO NOTHING
"""
LOCK_DUE = """
    SELECT position, kind, book_id, operation_ids, ruleset_hash, maker, checker, note, given,
           performed
    FROM repair_orders WHERE NOT performed AND position <= %s
    ORDER BY position LIMIT 1 FOR UPDATE
"""
SELECT_ORDER = """
    SELECT position, kind, book_id, operation_ids, ruleset_hash, maker, checker, note, given,
           performed
    FROM repair_orders WHERE book_id = %s AND position = %s
"""
EXISTS_DUE = """
    SELECT EXISTS (SELECT 1 FROM repair_orders WHERE NOT performed
                   AND position <= (SELECT min(position) FROM positions))
        OR EXISTS (SELECT 1 FROM day_cuts WHERE NOT performed
                   AND position <= (SELECT min(position) FROM positions))
"""
NEXT_NAMING = """
    SELECT position, kind, book_id, operation_ids, ruleset_hash, maker, checker, note, given,
           performed
    FROM repair_orders
    WHERE performed AND position > %s AND book_id = ANY(%s) AND operation_ids && %s
    ORDER BY position LIMIT 1
"""
OVERRIDES_BEYOND = """
    SELECT position, book_id, unnest(operation_ids) FROM repair_orders
    WHERE performed AND kind = 'override' AND position > %s ORDER BY position
"""
MARK_PERFORMED = "UPDATE repair_orders SET performed = true WHERE position = %s"
SELECT_PERFORMED = """
    SELECT position, performed FROM repair_orders WHERE position = ANY(%s)
"""


class RepairOrderRow(msgspec.Struct, frozen=True):
    """An order as it is kept; `given` are an override's date and lines."""

    position: int
    kind: str
    book_id: str
    operation_ids: list[str]
    ruleset_hash: str | None
    maker: str
    checker: str | None
    note: str
    given: str | None
    performed: bool


class GivenVoucher(msgspec.Struct, frozen=True):
    """What an override says: the accounting date and the lines."""

    accounting_date: str
    lines: tuple[GivenLine, ...]


def insert_repair_in_tx(conn: Connection[Any], position: int, order: RepairRequested) -> None:
    """Keep a repair order; it becomes due when every lane has passed it."""
    ids = list(order.operation_ids)
    values = (position, "retry", order.book_id, ids, order.ruleset_hash, order.maker)
    conn.execute(INSERT_ORDER, (*values, None, order.note, None))


def insert_override_in_tx(conn: Connection[Any], position: int, order: OverrideApproved) -> None:
    """Keep an approved override; it becomes due when every lane has passed it."""
    given = GivenVoucher(order.accounting_date, order.lines)
    values = (position, "override", order.book_id, [order.operation_id], None, order.maker)
    text = msgspec.json.encode(given).decode()
    conn.execute(INSERT_ORDER, (*values, order.checker, order.note, text))


def insert_set_aside_in_tx(conn: Connection[Any], position: int, message: MessageSetAside) -> None:
    """Keep a set-aside message with its raw bytes."""
    raw = base64.b64decode(message.raw)
    place = (message.topic, message.partition, message.at_offset)
    conn.execute(INSERT_SET_ASIDE, (position, *place, raw, message.reason, message.maker))


def exists_due(conn: Connection[Any]) -> bool:
    """Tell whether an order, or a day cut, waits that every lane has passed."""
    row = conn.execute(EXISTS_DUE).fetchone()
    return bool(row and row[0])


def lock_due_order_in_tx(conn: Connection[Any], visible: int) -> RepairOrderRow | None:
    """Lock the first order up to the visible position that nobody has performed."""
    row = conn.execute(LOCK_DUE, (visible,)).fetchone()
    return None if row is None else RepairOrderRow(*row)


def select_order_at(conn: Connection[Any], book_id: str, position: int) -> RepairOrderRow | None:
    """Read an order of a book; None when none of its has been met at this position."""
    row = conn.execute(SELECT_ORDER, (book_id, position)).fetchone()
    return None if row is None else RepairOrderRow(*row)


def select_next_naming(
    conn: Connection[Any], after: int, names: Iterable[tuple[str, str]]
) -> RepairOrderRow | None:
    """Read the first performed order after a position that may name one of these operations."""
    books, operation_ids = zip(*names, strict=True)
    row = conn.execute(NEXT_NAMING, (after, list(books), list(operation_ids))).fetchone()
    return None if row is None else RepairOrderRow(*row)


def select_overrides_beyond(conn: Connection[Any], after: int) -> list[tuple[int, tuple[str, str]]]:
    """Read the performed overrides after a position: theirs, and the operation's book and id."""
    rows = conn.execute(OVERRIDES_BEYOND, (after,))
    return [(position, (book_id, operation_id)) for position, book_id, operation_id in rows]


def mark_performed_in_tx(conn: Connection[Any], position: int) -> None:
    """Say that an order's effect is in the books."""
    conn.execute(MARK_PERFORMED, (position,))


def select_performed(conn: Connection[Any], positions: Sequence[int]) -> dict[int, bool]:
    """Tell, for orders that have arrived, whether they are performed."""
    return dict(conn.execute(SELECT_PERFORMED, (list(positions),)).fetchall())
