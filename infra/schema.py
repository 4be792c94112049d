"""The schema's history: numbered SQL files, each applied once and recorded with its digest.

A file runs whole in its own transaction, under load too: it waits for a lock only briefly (who
waits for a table's lock makes everybody behind it wait), gives up, and tries again. A file that
begins with `-- without transaction` runs statement by statement (CREATE INDEX CONCURRENTLY) and
is written so that it may begin again. Invariant: a database either matches a prefix of
`infra/migrations/`, byte for byte, and is brought to the end of it, or it is refused untouched.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
import structlog
from psycopg import Connection

from ledger.deadlines import DEADLINES
from ledger.failover import ProvenConnection

MIGRATIONS = Path(__file__).parent / "migrations"
FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
ADVISORY_KEY = 0x6461_7962_6F6F_6B31  # "daybook1"
SERVER_VERSION_MIN = 150000
APART_MARK = b"-- without transaction"
LOCK_TIMEOUT_S = 0.5  # how long postings may stand behind a migration that waits for a lock
PATIENCE_S = 300.0
PAUSE_FIRST_S = 0.2
PAUSE_MAX_S = 3.0

SELECT_REGISTER = "SELECT to_regclass('ledger.schema_migrations') IS NOT NULL"
CREATE_REGISTER = b"""
CREATE SCHEMA IF NOT EXISTS ledger;
CREATE TABLE IF NOT EXISTS ledger.schema_migrations (
    version    integer     NOT NULL CONSTRAINT schema_migrations_pk PRIMARY KEY,
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
SELECT_APPLIED = "SELECT version, name, sha256 FROM ledger.schema_migrations ORDER BY version"
INSERT_APPLIED = "INSERT INTO ledger.schema_migrations (version, name, sha256) VALUES (%s, %s, %s)"
SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, true)"

Standing = Literal["current", "older", "newer", "other"]
log = structlog.get_logger("infra.schema")


class SchemaRefused(Exception):
    """The database's schema is not an earlier state of this program's; nothing was changed."""


@dataclass(frozen=True)
class Migration:
    """One SQL file; its digest says whether it is still the file that was applied."""

    version: int
    name: str
    sql: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql).hexdigest()

    @property
    def apart(self) -> bool:
        """Whether its statements run one by one, outside of a transaction."""
        return self.sql.startswith(APART_MARK)

    @property
    def statements(self) -> list[bytes]:
        """The statements of a file that runs apart: each ends with a semicolon at a line's end."""
        parts = re.split(rb";\s*$", self.sql, flags=re.MULTILINE)
        return [part.strip() for part in parts if re.sub(rb"--.*", b"", part).strip()]

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


@dataclass(frozen=True)
class SchemaStanding:
    """How a database stands to this program: `pending` is what `migrate` would apply."""

    standing: Standing
    words: str
    pending: tuple[Migration, ...] = ()


def migrate(url: str, folder: Path = MIGRATIONS, *, patience_s: float = PATIENCE_S) -> int:
    """Bring the database to the newest schema; return how many files that took (0: none).

    Postings may go on meanwhile. Raises `SchemaRefused`, or LockNotAvailable when somebody
    holds a lock for longer than `patience_s`: what was applied before stays applied.
    """
    migrations = read_migrations(folder)
    with ProvenConnection.connect(url, autocommit=True, **DEADLINES) as conn:
        if conn.info.server_version < SERVER_VERSION_MIN:
            msg = f"PostgreSQL 15 or newer is needed, this is {conn.info.server_version // 10000}"
            raise SchemaRefused(msg)
        conn.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_KEY,))
        found = schema_standing(conn, migrations)
        if found.standing in ("newer", "other"):
            raise SchemaRefused(found.words)
        for migration in found.pending:
            _with_patience(conn, migration, patience_s)
    return len(found.pending)


def read_migrations(folder: Path = MIGRATIONS) -> tuple[Migration, ...]:
    """The files in order; a gap, a double or an unreadable name is an error of the program."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise SchemaRefused(f"{path.name} is not named NNNN_words_of_its_own.sql")
        found.append(Migration(int(match["version"]), match["name"], path.read_bytes()))
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise SchemaRefused("migrations must be numbered 0001, 0002, … without gap or double")
    return tuple(found)


def schema_standing(conn: Connection[Any], migrations: tuple[Migration, ...]) -> SchemaStanding:
    """Compare what was applied with the files; changes nothing."""
    applied = []
    if conn.execute(SELECT_REGISTER).fetchone() == (True,):
        applied = conn.execute(SELECT_APPLIED).fetchall()
    for row, migration in zip(applied, migrations, strict=False):
        if row != (migration.version, migration.name, migration.sha256):
            msg = f"migration {row[0]:04} ({row[1]}) is not the file that was applied"
            return SchemaStanding("other", msg)
    at = f"the database is at schema {len(applied)}, this program knows {len(migrations)}; "
    if len(applied) > len(migrations):
        return SchemaStanding("newer", at + "use a newer Daybook")
    if len(applied) < len(migrations):
        return SchemaStanding("older", at + "run `daybook migrate`", migrations[len(applied) :])
    return SchemaStanding("current", f"the database is at schema {len(applied)}")


def _with_patience(conn: Connection[Any], migration: Migration, patience_s: float) -> None:
    """Try again while somebody else holds a lock; between two tries everybody else moves on."""
    deadline = time.monotonic() + patience_s
    pause_s = PAUSE_FIRST_S
    while True:
        try:
            _apply(conn, migration)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if time.monotonic() + pause_s > deadline:
                raise
            log.warning(
                "migration_waits", migration=str(migration), why=str(error), retry_s=pause_s
            )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        else:
            return


def _apply(conn: Connection[Any], migration: Migration) -> None:
    if migration.apart:
        for statement in migration.statements:
            conn.execute(statement)
        with conn.transaction():
            _register_in_tx(conn, migration)
        return
    with conn.transaction():
        conn.execute(SET_LOCK_TIMEOUT, (f"{int(LOCK_TIMEOUT_S * 1_000)}ms",))
        conn.execute(migration.sql)
        _register_in_tx(conn, migration)


def _register_in_tx(conn: Connection[Any], migration: Migration) -> None:
    conn.execute(CREATE_REGISTER)
    conn.execute(INSERT_APPLIED, (migration.version, migration.name, migration.sha256))
