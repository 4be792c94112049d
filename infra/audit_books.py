"""The books' part of an audit in a process of its own, in the snapshot of the ledger's part.

`python -m infra.audit_books` reads one line of JSON (address, snapshot, last position) and
writes one (`Found`). The ledger's part proves the log and the heads, from which this one
starts. Invariant: both processes see the same rows, whatever is posted meanwhile.
"""

from __future__ import annotations

import sys

import msgspec
import psycopg
from psycopg import IsolationLevel, sql

from consumers.audit import Books, read_published
from ledger.audit import Difference, DifferenceFound
from ledger.interpreter import without_collector
from ledger.priority import server_goes_after_postings


class Asked(msgspec.Struct, frozen=True):
    """Which books to audit: the address comes over a pipe, as it may hold a password."""

    url: str
    snapshot: str
    last_id: int


class Found(msgspec.Struct, frozen=True):
    """What differs in the books, if anything, and what else is worth knowing."""

    checks: tuple[str, ...]
    notes: tuple[str, ...]
    difference: Difference | None


def audit_books(asked: Asked) -> Found:
    """Audit the books in the snapshot that another transaction has exported and holds open."""
    books = Books()
    difference: Difference | None = None
    with psycopg.connect(asked.url) as conn:
        server_goes_after_postings(conn)
        conn.isolation_level, conn.read_only = IsolationLevel.REPEATABLE_READ, True
        conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(asked.snapshot))
        try:
            books.start(conn)
            with without_collector():
                read_published(conn, books, asked.last_id)
            books.finish()
        except DifferenceFound as found:
            difference = found.difference
    return Found(books.checks if difference is None else (), books.notes, difference)


if __name__ == "__main__":
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Asked)
    sys.stdout.buffer.write(msgspec.json.encode(audit_books(request)) + b"\n")
