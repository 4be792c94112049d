"""The whole audit: the ledger's and the books', in one snapshot, with one verdict.

Composition only: `ledger/audit.py` reads the log and compares the heads, `consumers/audit.py`
posts it again and compares the books. Invariant: nothing is written.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from consumers.audit import Books
from ledger import audit as ledger_audit
from ledger.audit import Digest, Progress, Replay, Verdict, digest, digest_from_line, replay
from ledger.business_types import BusinessTypes

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


def verify(
    conn: Connection[Any],
    *,
    digest: Digest | None = None,
    types: BusinessTypes | None = None,
    on_progress: Progress | None = None,
) -> Verdict:
    """Audit ledger and books in one read-only snapshot. The connection must be idle.

    `digest` is the log's end as it was kept outside; `on_progress` gets (events done, all).
    """
    return ledger_audit.verify(
        conn, digest=digest, types=types, readers=(Books(),), on_progress=on_progress
    )


def verify_in_tx(
    conn: Connection[Any],
    *,
    digest: Digest | None = None,
    types: BusinessTypes | None = None,
    on_progress: Progress | None = None,
) -> Verdict:
    """Audit in the open transaction, whose snapshot must not move (REPEATABLE READ)."""
    return ledger_audit.verify_in_tx(
        conn, digest=digest, types=types, readers=(Books(),), on_progress=on_progress
    )
