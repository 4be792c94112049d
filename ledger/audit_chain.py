"""Read the log for an audit: every row once, in order, commit by commit.

Invariant: what comes out of `read_commits` is proved: positions without gaps from 1, each
row's digest, each commit's seal over them, and the chain from the first seal to the last.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection

from ledger.audit_verdict import ROW, Digest, differ
from ledger.codec import ZERO_SEAL, Seal, digest_of_parts, seal_of

SELECT_LOG = "SELECT log_id::text, incarnation FROM ledger.log"
SELECT_END = """
    SELECT last_id, seal, booked_at FROM ledger.seals ORDER BY first_id DESC LIMIT 1
"""
SELECT_ROWS = """
    SELECT uuid_send(originator_id), originator_version, coalesce(textsend(topic), ''),
           coalesce(state, ''), notification_id, digest
    FROM ledger.stored_events
    WHERE notification_id > %s ORDER BY notification_id LIMIT %s
"""
SELECT_ROWS_BELOW = """
    SELECT notification_id FROM ledger.stored_events
    WHERE notification_id < 1 ORDER BY notification_id LIMIT 1
"""
SELECT_SEALS = """
    SELECT first_id, last_id, book_id, booked_at, totals, previous, seal
    FROM ledger.seals WHERE first_id > %s ORDER BY first_id LIMIT %s
"""
ROWS_PER_READ = 20_000
SEALS_PER_READ = 5_000
BEFORE_ALL = -(2**63)
SEALED = "seal chain"
GAPLESS = "positions"
DIGESTED = "row digests"
ANCHORED = "digest kept outside"

StoredRow = tuple[bytes, int, bytes, bytes, int, bytes]


class Commit(NamedTuple):
    """One commit of the log, proved against its seal."""

    seal: Seal
    rows: list[StoredRow]


def select_digest(conn: Connection[Any]) -> Digest:
    """Read the end of the log, to be kept outside the database."""
    log_id, incarnation = _log_row(conn)
    row = conn.execute(SELECT_END).fetchone()
    last_id, seal, booked_at = row if row is not None else (0, ZERO_SEAL, "")
    digest = Digest(log_id, incarnation, last_id, bytes(seal).hex(), booked_at)
    return msgspec.structs.replace(digest, hash=digest.content_hash())


def _log_row(conn: Connection[Any]) -> tuple[str, int]:
    row = conn.execute(SELECT_LOG).fetchone()
    if row is None:
        differ("log", "ledger.log", {"one": True}, ROW, "a row", None)
    return row[0], row[1]


def check_same_log(conn: Connection[Any], digest: Digest) -> None:
    """Prove that the digest was taken from this log."""
    log_id, incarnation = _log_row(conn)
    key = {"one": True}
    if log_id != digest.log_id:
        differ(ANCHORED, "ledger.log", key, "log_id", digest.log_id, log_id)
    if incarnation != digest.incarnation:
        differ(ANCHORED, "ledger.log", key, "incarnation", digest.incarnation, incarnation)


def read_commits(
    conn: Connection[Any], digest: Digest | None = None
) -> Generator[Commit, None, None]:
    """Yield every commit in order, proved; with a `digest`, prove also that its end is there."""
    below = conn.execute(SELECT_ROWS_BELOW).fetchone()
    if below is not None:
        differ(GAPLESS, "ledger.stored_events", {"notification_id": below[0]}, ROW, None, below[0])
    last = Seal(0, 0, "", "", "", b"", ZERO_SEAL)
    with ThreadPoolExecutor(1, thread_name_prefix="audit") as reader:
        rows = _Rows(conn, reader)
        for seal, following in _with_following(_seals(conn)):
            if seal.first_id > last.last_id + 1 and rows.next_position() is None:
                key = {"first_id": seal.first_id}  # it seals rows that are not there
                differ(SEALED, "ledger.seals", key, ROW, None, seal.first_id)
            _check_link(seal, last)
            beyond = seal.last_id + 1 if following is None else following.first_id
            found = rows.take(min(beyond, seal.last_id + 1) - seal.first_id)
            _check_sealed(seal, found, last)
            if digest is not None and seal.first_id <= digest.last_id <= seal.last_id:
                _check_anchor(seal, digest)
            last = seal
            yield Commit(seal, found)
        extra = rows.next_position()
    if extra is not None:
        if extra == last.last_id + 1:
            differ(SEALED, "ledger.seals", {"first_id": extra}, ROW, "a seal", None)
        differ(SEALED, "ledger.stored_events", {"notification_id": extra}, ROW, None, extra)
    if digest is not None and digest.last_id > last.last_id:
        # Rows and seals were taken away together: inside the database nothing is missing.
        key = {"notification_id": last.last_id + 1}
        differ(ANCHORED, "ledger.stored_events", key, ROW, digest.last_id, last.last_id)


def _seals(conn: Connection[Any]) -> Iterator[Seal]:
    after = BEFORE_ALL
    while True:
        cursor = conn.execute(SELECT_SEALS, (after, SEALS_PER_READ), binary=True)
        seals = cursor.fetchall()
        yield from map(Seal._make, seals)
        if len(seals) < SEALS_PER_READ:
            return
        after = seals[-1][0]


def _with_following(seals: Iterator[Seal]) -> Iterator[tuple[Seal, Seal | None]]:
    """Pair each seal with the next one, so that it can be seen which of two overlaps."""
    seal = next(seals, None)
    while seal is not None:
        following = next(seals, None)
        yield seal, following
        seal = following


def _check_link(seal: Seal, last: Seal) -> None:
    """Prove that a seal follows the last one: ids, previous seal, time."""
    key = {"first_id": seal.first_id}
    if seal.first_id > last.last_id + 1:
        key = {"first_id": last.last_id + 1}
        differ(SEALED, "ledger.seals", key, ROW, "a seal", None)
    if seal.first_id <= last.last_id or seal.last_id < seal.first_id:
        differ(SEALED, "ledger.seals", key, "first_id", last.last_id + 1, seal.first_id)
    if seal.previous != last.seal:
        differ(SEALED, "ledger.seals", key, "previous", last.seal, seal.previous)
    if seal.booked_at < last.booked_at:
        differ(SEALED, "ledger.seals", key, "booked_at", f"≥ {last.booked_at}", seal.booked_at)


def _check_sealed(seal: Seal, rows: list[StoredRow], last: Seal) -> None:
    """Recompute the rows' digests and the seal over them."""
    position = seal.first_id
    digests: list[bytes] = []
    for stream, version, topic, state, notification_id, digest in rows:
        if notification_id != position:
            _missing(position, notification_id)
        recomputed = digest_of_parts(position, stream, version, topic, state)
        if recomputed != digest:
            key = {"notification_id": position}
            differ(DIGESTED, "ledger.stored_events", key, "digest", recomputed, digest)
        digests.append(digest)
        position += 1
    again = seal_of(
        previous=last.seal,
        first_id=seal.first_id,
        book_id=seal.book_id,
        booked_at=seal.booked_at,
        totals=seal.totals,
        digests=digests,
    )
    key = {"first_id": seal.first_id}
    if position <= seal.last_id:
        if again.seal == seal.seal:  # the rows it was made of are there: it claims too many
            differ(SEALED, "ledger.seals", key, "last_id", again.last_id, seal.last_id)
        _missing(position, None)
    if again.seal != seal.seal:
        differ(SEALED, "ledger.seals", key, "seal", again.seal, seal.seal)


def _missing(position: int, found: int | None) -> None:
    key = {"notification_id": position}
    differ(GAPLESS, "ledger.stored_events", key, "notification_id", position, found)


def _check_anchor(seal: Seal, digest: Digest) -> None:
    """Prove that the log still goes through the end that was written down."""
    key = {"first_id": seal.first_id}
    if seal.last_id != digest.last_id:
        differ(ANCHORED, "ledger.seals", key, "last_id", digest.last_id, seal.last_id)
    if seal.seal.hex() != digest.seal:
        differ(ANCHORED, "ledger.seals", key, "seal", digest.seal, seal.seal)
    if seal.booked_at != digest.booked_at:
        differ(ANCHORED, "ledger.seals", key, "booked_at", digest.booked_at, seal.booked_at)


class _Rows:
    """The log's rows in order; the next stretch is fetched while this one is checked."""

    def __init__(self, conn: Connection[Any], reader: ThreadPoolExecutor) -> None:
        self._conn = conn
        self._reader = reader
        self._rows: list[StoredRow] = []
        self._at = 0
        self._coming: Future[list[StoredRow]] | None = self._reader.submit(self._fetch, 0)

    def take(self, count: int) -> list[StoredRow]:
        """Return the next `count` rows, fewer at the end of the log."""
        while len(self._rows) - self._at < count and self._more():
            pass
        taken = self._rows[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def next_position(self) -> int | None:
        """Return the position of the next row, None at the end of the log."""
        while self._at == len(self._rows) and self._more():
            pass
        return self._rows[self._at][4] if self._at < len(self._rows) else None

    def _more(self) -> bool:
        if self._coming is None:
            return False
        fresh = self._coming.result()
        self._rows = self._rows[self._at :] + fresh
        self._at = 0
        full = len(fresh) == ROWS_PER_READ
        self._coming = self._reader.submit(self._fetch, fresh[-1][4]) if full else None
        return True

    def _fetch(self, after: int) -> list[StoredRow]:
        cursor = self._conn.execute(SELECT_ROWS, (after, ROWS_PER_READ), prepare=True, binary=True)
        return cursor.fetchall()
