"""Accounting statuses: what accounting reported back about each operation.

Invariant: `revision` only grows, so a late, repeated or reordered result changes nothing
and a status never goes backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg import Connection

from ledger.binary_copy import (
    HEADER,
    TRAILER,
    copy_in_tx,
    count_field,
    int8_field,
    refusing,
    text_field,
    text_fields,
)
from ledger.codec import operation_stream

APPLY = """
    INSERT INTO ledger.accounting_statuses AS old
        (stream_id, book_id, operation_id, status, reason, revision)
    SELECT stream_id, book_id, operation_id, status, reason, revision
    FROM json_to_recordset(%s::json) AS fresh(stream_id uuid, book_id text, operation_id text,
        status text, reason text, revision bigint)
    ORDER BY stream_id
    ON CONFLICT ON CONSTRAINT accounting_statuses_pkey DO UPDATE
    SET status = EXCLUDED.status, reason = EXCLUDED.reason, revision = EXCLUDED.revision
    WHERE old.revision < EXCLUDED.revision
"""


STATUSES_KEY = "accounting_statuses_pkey"
COPY = """
    COPY ledger.accounting_statuses (stream_id, book_id, status, reason, operation_id, revision)
    FROM STDIN (FORMAT BINARY)
"""
ROW_HEAD = count_field(6) + b"\x00\x00\x00\x10"  # six fields, the first of 16 bytes


class AccountingResult(msgspec.Struct, frozen=True, gc=False):
    """How an operation ended in accounting; a later result has a greater revision."""

    book_id: str
    operation_id: str
    status: str
    reason: str | None
    revision: int


class _Row(msgspec.Struct, frozen=True, gc=False):
    stream_id: str
    book_id: str
    operation_id: str
    status: str
    reason: str | None
    revision: int


_encode = msgspec.json.Encoder().encode


def pack_first_results(results: Sequence[AccountingResult]) -> bytes:
    """Pack results for `insert_results_in_tx`, in key order; pure."""
    with refusing():
        rows = [
            b"".join(
                (
                    ROW_HEAD,
                    operation_stream(result.book_id, result.operation_id),
                    text_fields(result.book_id, result.status, result.reason),
                    text_field(result.operation_id),
                    int8_field(8, result.revision),
                )
            )
            for result in results
        ]
    rows.sort()
    return b"".join((HEADER, *rows, TRAILER))


def insert_results_in_tx(conn: Connection[Any], packed: bytes) -> None:
    """Write the first results of operations, at half of what `apply_results_in_tx` costs.

    Raises UniqueViolation (STATUSES_KEY), and the transaction is lost, if one is not the first.
    """
    copy_in_tx(conn, COPY, packed)


def apply_results_in_tx(conn: Connection[Any], results: Sequence[AccountingResult]) -> int:
    """Write results that are newer than what is known; return how many were."""
    newest: dict[tuple[str, str], AccountingResult] = {}
    for result in results:
        name = (result.book_id, result.operation_id)
        known = newest.get(name)
        if known is None or known.revision < result.revision:
            newest[name] = result
    if not newest:
        return 0
    rows = [_Row(*_row_of(result)) for result in newest.values()]
    return conn.execute(APPLY, (_encode(rows).decode(),)).rowcount


def _row_of(result: AccountingResult) -> tuple[str, str, str, str, str | None, int]:
    """Return a result as a row: the stream of its operation first."""
    stream = operation_stream(result.book_id, result.operation_id).hex()
    name = (result.book_id, result.operation_id)
    return (stream, *name, result.status, result.reason, result.revision)
