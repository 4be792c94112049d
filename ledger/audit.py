"""Audit the ledger: one pass over the log, one verdict that names the first difference.

`verify` reads in one REPEATABLE READ snapshot and writes nothing, so it may run while posting
goes on. Order: the log proves itself (positions, digests, seals, the digest kept outside),
then every event against what came before it, then the heads against the fold. Other rooms
take part as `Reader`s: they get each commit's events once it is proved. Invariant: a passed
verdict means that every column of every audited row is what the log makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Protocol

from psycopg import Connection, IsolationLevel

from ledger import audit_chain as chain
from ledger import audit_fold as folding
from ledger import audit_legs, audit_originals
from ledger.audit_fold import Fold, Proved
from ledger.audit_heads import CHECK as HEADS
from ledger.audit_heads import compare_heads
from ledger.audit_replay import Replay, ReplayedEvent, replay
from ledger.audit_verdict import (
    Difference,
    DifferenceFound,
    Digest,
    DigestUnreadable,
    Progress,
    Verdict,
    digest_from_line,
)
from ledger.business_types import BusinessTypes, load_business_types
from ledger.codec import Seal
from ledger.interpreter import without_collector
from ledger.priority import GivesWay

__all__ = [
    "Difference",
    "DifferenceFound",
    "Digest",
    "DigestUnreadable",
    "Progress",
    "Reader",
    "Replay",
    "ReplayedEvent",
    "Verdict",
    "digest",
    "digest_from_line",
    "replay",
    "verify",
    "verify_in_tx",
]

LOG_CHECKS = (
    chain.GAPLESS,
    chain.DIGESTED,
    chain.SEALED,
    folding.DECODED,
    folding.STREAMS,
    folding.FOLDED,
    folding.DAYS,
    folding.TOTALS,
    audit_legs.CHECK,
    audit_originals.CHECK,
)
SELECT_LAST_ID = "SELECT coalesce(max(last_id), 0) FROM ledger.seals"


class Reader(Protocol):
    """Another room's part of the audit. It raises `DifferenceFound` when something differs."""

    checks: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what is no difference but worth knowing."""

    def start(self, conn: Connection[Any]) -> None:
        """Begin, in the audit's transaction and before the first commit is read."""

    def read(self, through: int, events: Sequence[Proved]) -> None:
        """Take a proved commit's events, in order, each with its position and stream."""

    def finish(self) -> None:
        """Compare with what is stored, after the last commit and after the heads agreed."""


def digest(conn: Connection[Any]) -> Digest:
    """Return the end of the log, to be kept outside the database (`Digest.line`)."""
    with conn.transaction():
        return chain.select_digest(conn)


def verify(
    conn: Connection[Any],
    *,
    digest: Digest | None = None,
    types: BusinessTypes | None = None,
    readers: Sequence[Reader] = (),
    on_progress: Progress | None = None,
) -> Verdict:
    """Audit everything in one read-only snapshot. The connection must be idle."""
    before = conn.isolation_level, conn.read_only
    conn.isolation_level, conn.read_only = IsolationLevel.REPEATABLE_READ, True
    try:
        with conn.transaction():
            return verify_in_tx(
                conn, digest=digest, types=types, readers=readers, on_progress=on_progress
            )
    finally:
        conn.isolation_level, conn.read_only = before


def verify_in_tx(
    conn: Connection[Any],
    *,
    digest: Digest | None = None,
    types: BusinessTypes | None = None,
    readers: Sequence[Reader] = (),
    on_progress: Progress | None = None,
) -> Verdict:
    """Audit in the open transaction, whose snapshot must not move (REPEATABLE READ)."""
    fold = Fold(conn, types or load_business_types())
    passed: list[str] = []
    last: Seal | None = None
    commits = 0
    difference: Difference | None = None
    try:
        if digest is not None:
            chain.check_same_log(conn, digest)
        for reader in readers:
            reader.start(conn)
        total = _last_id(conn)
        gives_way = GivesWay()
        with without_collector(), closing(chain.read_commits(conn, digest)) as read:
            for commit in read:
                events = fold.read(commit)
                for reader in readers:
                    reader.read(commit.seal.last_id, events)
                last = commit.seal
                commits += 1
                if on_progress is not None:
                    on_progress(last.last_id, total)
                gives_way.between()
        passed += LOG_CHECKS + ((chain.ANCHORED,) if digest is not None else ())
        compare_heads(conn, fold)
        passed.append(HEADS)
        for reader in readers:
            reader.finish()
            passed += reader.checks
    except DifferenceFound as found:
        difference = found.difference
    return Verdict(
        events=last.last_id if last is not None else 0,
        commits=commits,
        accounts=len(fold.accounts),
        operations=fold.operations,
        last_id=last.last_id if last is not None else 0,
        booked_at=last.booked_at if last is not None else "",
        checks=tuple(passed),
        notes=tuple(note for reader in readers for note in reader.notes),
        difference=difference,
    )


def _last_id(conn: Connection[Any]) -> int:
    row = conn.execute(SELECT_LAST_ID).fetchone()
    return int(row[0]) if row is not None else 0
