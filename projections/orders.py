"""Order numbers: trade, payment and channel orders lead to their operations.

Invariant: every order number of a published operation is here once per operation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from psycopg import Connection

from ledger.binary_copy import (
    HEADER,
    TRAILER,
    copy_in_tx,
    count_field,
    int8_field,
    text_field,
    text_fields,
)
from ledger.events import OperationBooked
from projections.pages import Page, checked_limit, page_of, read_cursor

COPY = """
    COPY operation_orders (book_id, kind, order_number, operation_id, position)
    FROM STDIN (FORMAT BINARY)
"""
ROW_HEAD = count_field(5)
SELECT = """
    SELECT r.kind, r.order_number, r.operation_id, r.position, o.business_type, o.status
    FROM operation_orders r
    JOIN outcomes o ON o.book_id = r.book_id AND o.operation_id = r.operation_id
    WHERE r.book_id = %(book)s AND r.order_number = %(number)s
      AND (%(kind)s::text IS NULL OR r.kind = %(kind)s)
      AND (%(after_position)s::bigint IS NULL
           OR (r.position, r.kind) > (%(after_position)s::bigint, %(after_kind)s::text))
    ORDER BY r.position, r.kind LIMIT %(limit)s
"""


class OrderedOperation(msgspec.Struct, frozen=True):
    """An operation that carries an order number."""

    kind: str
    order_number: str
    operation_id: str
    position: int
    business_type: str
    accounting_status: str


def pack_orders(operations: Iterable[tuple[int, OperationBooked]]) -> bytearray | None:
    """Pack the order numbers of operations, each with its position; None without any. Pure."""
    packed = bytearray(HEADER)
    for position, operation in operations:
        if operation.orders is None:
            continue
        for kind, number in order_numbers(operation):
            packed += ROW_HEAD
            packed += text_fields(operation.book_id, kind)
            packed += text_field(number)
            packed += text_field(operation.operation_id)
            packed += int8_field(8, position)
    if len(packed) == len(HEADER):
        return None
    packed += TRAILER
    return packed


def insert_orders_in_tx(conn: Connection[Any], packed: bytearray | None) -> None:
    """Write packed order numbers of newly claimed operations."""
    if packed is not None:
        copy_in_tx(conn, COPY, packed)


def order_numbers(operation: OperationBooked) -> list[tuple[str, str]]:
    """List (kind, number) of an operation, each once."""
    orders = operation.orders
    if orders is None:
        return []
    found = [("channel", number) for number in dict.fromkeys(orders.channel)]
    if orders.trade is not None:
        found.append(("trade", orders.trade))
    if orders.payment is not None:
        found.append(("payment", orders.payment))
    return found


def select_by_order(
    conn: Connection[Any],
    book_id: str,
    order_number: str,
    *,
    kind: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[OrderedOperation]:
    """Find the operations that carry an order number, oldest first."""
    after = read_cursor(cursor, int, str) or (None, None)
    rows = conn.execute(
        SELECT,
        {
            "book": book_id,
            "number": order_number,
            "kind": kind,
            "after_position": after[0],
            "after_kind": after[1],
            "limit": checked_limit(limit) + 1,
        },
    )
    found = [OrderedOperation(*row) for row in rows]
    return page_of(found, limit, lambda order: (order.position, order.kind))
