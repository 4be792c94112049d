"""The whole audit: the ledger's and the books', in one snapshot, with one verdict.

Composition only: `ledger/audit.py` proves the log and compares the heads, `consumers/audit.py`
posts the log again and compares the books. A long log is read by two processes at once.
Invariant: nothing is written, and both parts see the same rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgspec
from psycopg import Connection, IsolationLevel

from consumers.audit import Books
from infra.audit_books import Asked, Found
from ledger import audit as ledger_audit
from ledger.audit import Digest, Progress, Replay, Verdict, digest, digest_from_line, replay
from ledger.business_types import BusinessTypes
from ledger.failover import address_of
from projections.audit_details import Details

__all__ = [
    "Digest",
    "Progress",
    "Replay",
    "Verdict",
    "digest",
    "digest_from_line",
    "replay",
    "verify",
    "verify_in_tx",
]

PARALLEL_FROM_EVENTS = 50_000
SELECT_RESTORED = """
    SELECT l.incarnation FROM ledger.log l
    WHERE l.incarnation > %s AND EXISTS (SELECT 1 FROM projections.positions)
      AND NOT EXISTS (SELECT 1 FROM projections.positions p
                      WHERE p.log_incarnation <> l.incarnation)
"""
SELECT_LAST_ID = "SELECT coalesce(max(last_id), 0) FROM ledger.seals"


def verify(
    conn: Connection[Any],
    *,
    digest: Digest | None = None,
    types: BusinessTypes | None = None,
    on_progress: Progress | None = None,
    parallel: bool | None = None,
) -> Verdict:
    """Audit ledger and books in one read-only snapshot. The connection must be idle.

    `digest` is the log's end as it was kept outside; `on_progress` gets (events done, all).
    `parallel` reads the books in a process of its own (default: for a long log).
    """
    before = conn.isolation_level, conn.read_only
    conn.isolation_level, conn.read_only = IsolationLevel.REPEATABLE_READ, True
    try:
        with conn.transaction():
            if parallel is None:
                long = _last_id(conn) >= PARALLEL_FROM_EVENTS
                parallel = long and (os.cpu_count() or 1) > 1
            audited = _verify_beside if parallel else verify_in_tx
            return audited(conn, digest=digest, types=types, on_progress=on_progress)
    finally:
        conn.isolation_level, conn.read_only = before


def verify_in_tx(
    conn: Connection[Any],
    *,
    digest: Digest | None = None,
    types: BusinessTypes | None = None,
    on_progress: Progress | None = None,
) -> Verdict:
    """Audit in the open transaction, whose snapshot must not move (REPEATABLE READ)."""
    return ledger_audit.verify_in_tx(
        conn,
        digest=_as_restored_in_tx(conn, digest),
        types=types,
        readers=(Details(), Books()),
        on_progress=on_progress,
    )


def _as_restored_in_tx(conn: Connection[Any], digest: Digest | None) -> Digest | None:
    """Read a digest from before a restore as one of the log's present incarnation.

    A restore raises it in the log's row and in every lane at once; what was sealed before stays
    sealed. A row that was raised alone is none, and the audit names it.
    """
    row = (
        None if digest is None else conn.execute(SELECT_RESTORED, (digest.incarnation,)).fetchone()
    )
    if digest is None or row is None:
        return digest
    return msgspec.structs.replace(digest, incarnation=row[0])


def _verify_beside(
    conn: Connection[Any],
    *,
    digest: Digest | None = None,
    types: BusinessTypes | None = None,
    on_progress: Progress | None = None,
) -> Verdict:
    """Audit the ledger here and the books in another process, in this snapshot.

    A difference in the ledger goes first: the books start from what it proves.
    """
    row = conn.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    command = [sys.executable, "-m", "infra.audit_books"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked = Asked(address_of(conn), row[0], _last_id(conn))
        process.stdin.write(msgspec.json.encode(asked) + b"\n")
        process.stdin.close()
        try:
            verdict = ledger_audit.verify_in_tx(
                conn,
                digest=_as_restored_in_tx(conn, digest),
                types=types,
                readers=(Details(),),
                on_progress=on_progress,
            )
            if not verdict.passed:
                return verdict
            said = process.stdout.read()
            process.wait()
        finally:
            process.kill()  # does nothing unless this part has ended first
    if process.returncode != 0:
        msg = f"the books' part of the audit ended with status {process.returncode}"
        raise ChildProcessError(msg)
    found = msgspec.json.decode(said, type=Found)
    return msgspec.structs.replace(
        verdict,
        checks=verdict.checks + found.checks,
        notes=found.notes,
        difference=found.difference,
    )


def _last_id(conn: Connection[Any]) -> int:
    row = conn.execute(SELECT_LAST_ID).fetchone()
    return int(row[0]) if row is not None else 0
