"""Backup of the whole database while it works, restore into a new home, and what a restore means.

A backup is PostgreSQL's own base backup, with the write-ahead log it needs, as one tar file. After
a restore the log may be shorter than what the outside has seen: messages on Kafka, ids in a
caller's hands. So the restored log gets the next *incarnation*: nothing that speaks of positions of
the log before it is believed any more. Invariant: a backup that is there is whole; a home that has
a database is never overwritten; what is marked has nobody connected to it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import msgspec

from consumers.lost_results import resend_results
from infra.postgres import MAJOR_VERSION, PostgresUnavailable, binaries
from infra.postgres_owner import owner_of_server
from ledger.deadlines import DEADLINES
from ledger.failover import ProvenConnection
from ledger.statuses import apply_results_in_tx
from projections.tables import connect_to

COUNT_OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
      AND pid <> pg_backend_pid()
"""
RAISE_INCARNATION = """
    UPDATE ledger.log SET incarnation = incarnation + 1 RETURNING log_id::text, incarnation
"""
FOLLOW_LANES = """
    UPDATE projections.positions
    SET log_incarnation = %s, incarnation = incarnation + 1, stopped = NULL
"""
FORGET_RELAYS = "DELETE FROM ledger.relays"
# Statuses that came from a future which the restored log does not have. A revision is four times
# the position of the attempt, and the status's rank.
FORGET_STATUSES = """
    DELETE FROM ledger.accounting_statuses s WHERE NOT EXISTS (
        SELECT 1 FROM projections.outcomes o
        WHERE o.book_id = s.book_id AND o.operation_id = s.operation_id AND o.status = s.status
          AND o.reason IS NOT DISTINCT FROM s.reason
          AND s.revision < (o.attempt_position + 1) * 4)
"""
SELECT_ENDS = """
    SELECT (SELECT coalesce(max(notification_id), 0) FROM ledger.stored_events),
           (SELECT coalesce(min(position), 0) FROM projections.positions)
"""
# What PostgreSQL calls the fields of its backup manifest.
FILE_NAMES = {"path": "Path", "size": "Size", "checksum": "Checksum"}
MANIFEST_NAMES = {"files": "Files", "checksum": "Manifest-Checksum"}


class BackupRefused(Exception):
    """It would overwrite something, or could not be whole; nothing was changed."""


class _File(msgspec.Struct, frozen=True, rename=FILE_NAMES):
    path: str
    size: int
    checksum: str


class _Manifest(msgspec.Struct, frozen=True, rename=MANIFEST_NAMES):
    files: list[_File]
    checksum: str


class Restored(msgspec.Struct, frozen=True):
    """The log as it goes on after a restore: which one, where it ends, how far the books are.

    `statuses_set` are accounting statuses that the ledger had not heard of before the backup.
    """

    log_id: str
    incarnation: int
    log_position: int
    books_position: int
    statuses_set: int


def take_backup(url: str, path: Path) -> int:
    """Write a base backup to a file, durable under its name only when whole; return its bytes.

    Raises `BackupRefused`, or `PostgresUnavailable` with the tool's words.
    """
    if path.exists():
        raise BackupRefused(f"{path} exists; a backup never overwrites one")
    draft = path.with_name(f"{path.name}.part")
    try:
        with draft.open("wb") as file:
            _base_backup(url, file.fileno())
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return path.stat().st_size


def _base_backup(url: str, output: int) -> None:
    done = subprocess.run(
        [
            str(binaries() / "pg_basebackup"),
            *("--dbname", url, "--pgdata", "-", "--format", "tar"),
            *("--wal-method", "fetch", "--checkpoint", "fast"),
            *("--manifest-checksums", "SHA256"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        raise PostgresUnavailable(f"pg_basebackup failed: {words}")


def restore_backup(path: Path, data_dir: Path) -> None:
    """Make the embedded database of a home from a backup; each file is proved by its checksum.

    Raises `BackupRefused` when the home has a database, or the backup is not whole.
    """
    data_dir = data_dir.expanduser().absolute()
    cluster = data_dir / "cluster"
    if cluster.exists():
        raise BackupRefused(f"{cluster} exists; restore into a new home")
    data_dir.mkdir(parents=True, exist_ok=True)
    owner = owner_of_server(binaries(), cluster)
    owner.let_through(data_dir)
    fresh = data_dir / "cluster.restored"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with tarfile.open(path) as archive:
            archive.extractall(fresh, filter="data")
        _prove(fresh)
        for place in (fresh, *fresh.rglob("*")):
            place.chmod(0o700 if place.is_dir() else 0o600)
            os.chown(place, owner.uid, owner.gid)
        fresh.rename(cluster)
    except (tarfile.TarError, EOFError, OSError, ValueError, msgspec.MsgspecError) as error:
        raise BackupRefused(f"{path} is not a whole backup: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _prove(folder: Path) -> None:
    """Compare every file with the backup's manifest."""
    version = folder / "PG_VERSION"
    if not version.exists() or version.read_text().strip() != MAJOR_VERSION:
        raise BackupRefused(f"no backup of PostgreSQL {MAJOR_VERSION}; use that server's own tools")
    raw = (folder / "backup_manifest").read_bytes()
    body = raw[: raw.rindex(b'"Manifest-Checksum"')]
    manifest = msgspec.json.decode(raw, type=_Manifest)
    if hashlib.sha256(body).hexdigest() != manifest.checksum:
        raise BackupRefused("the backup's manifest is not what it was")
    for file in manifest.files:
        if not _is_proved(folder / file.path, file):
            raise BackupRefused(f"the backup is not what it was: {file.path}")


def _is_proved(place: Path, file: _File) -> bool:
    if not place.is_file() or place.stat().st_size != file.size:
        return False
    with place.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.checksum


def mark_restored(url: str) -> Restored:
    """Begin the log's next incarnation, in one transaction; the relay begins its topic anew.

    Accounting statuses are made to follow the books again: what the results topic no longer
    brings, and what it has brought of a future that is lost. Safe to repeat.

    Raises `BackupRefused` while anybody else is connected to the database.
    """
    with ProvenConnection.connect(url, **DEADLINES) as conn:
        others = conn.execute(COUNT_OTHERS).fetchone()
        if others is not None and others[0]:
            msg = f"{others[0]} connections to the database; stop every Daybook process first"
            raise BackupRefused(msg)
        row = conn.execute(RAISE_INCARNATION).fetchone()
        assert row is not None, "ledger.log has one row"
        log_id, incarnation = row
        conn.execute(FOLLOW_LANES, (incarnation,))
        conn.execute(FORGET_RELAYS)
        conn.execute(FORGET_STATUSES)
        ends = conn.execute(SELECT_ENDS).fetchone()
        assert ends is not None
    with connect_to(url) as conn:  # results that were on their way have none to come by now
        statuses = resend_results(conn, through=ends[0], deliver_in_tx=apply_results_in_tx)
    return Restored(log_id, incarnation, int(ends[0]), int(ends[1]), len(statuses))
