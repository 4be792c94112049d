"""Accounting statuses: what accounting reported back about each operation.

Invariant: `revision` only grows, so a late, repeated or reordered result changes nothing
and a status never goes backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import msgspec
from psycopg import Connection

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
    COPY ledger.accounting_statuses (stream_id, book_id, operation_id, status, reason, revision)
    FROM STDIN
"""


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


def insert_results_in_tx(conn: Connection[Any], results: Sequence[AccountingResult]) -> None:
    """Write the first results of operations, at half of what `apply_results_in_tx` costs.

    Raises UniqueViolation (STATUSES_KEY), and the transaction is lost, if one is not the first.
    """
    rows = sorted(map(_row_of, results), key=itemgetter(0))
    with conn.cursor() as cursor, cursor.copy(COPY) as copy:
        for row in rows:
            copy.write_row(row)


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
