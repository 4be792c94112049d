"""The schema's history: numbered SQL files, each applied once, in order, in its own transaction.

Invariant: a database either matches a prefix of `infra/migrations/`, byte for byte, and is brought
to the end of it, or it is refused untouched.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg

MIGRATIONS = Path(__file__).parent / "migrations"
FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
ADVISORY_KEY = 0x6461_7962_6F6F_6B31  # "daybook1"
SERVER_VERSION_MIN = 150000

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


def migrate(url: str, folder: Path = MIGRATIONS) -> int:
    """Bring the database to the newest schema; return how many files that took (0: none)."""
    migrations = read_migrations(folder)
    with psycopg.connect(url, autocommit=True) as conn:
        if conn.info.server_version < SERVER_VERSION_MIN:
            msg = f"PostgreSQL 15 or newer is needed, this is {conn.info.server_version // 10000}"
            raise SchemaRefused(msg)
        conn.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_KEY,))
        pending = _pending(conn, migrations)
        for migration in pending:
            _apply(conn, migration)
    return len(pending)


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


def _pending(
    conn: psycopg.Connection[tuple[object, ...]], migrations: tuple[Migration, ...]
) -> tuple[Migration, ...]:
    """What is still to apply, after proof that what was applied is what the files say."""
    if conn.execute(SELECT_REGISTER).fetchone() != (True,):
        return migrations
    applied = conn.execute(SELECT_APPLIED).fetchall()
    if len(applied) > len(migrations):
        msg = (
            f"the database is at schema {len(applied)}, this program knows {len(migrations)}; "
            "use a newer Daybook"
        )
        raise SchemaRefused(msg)
    for row, migration in zip(applied, migrations, strict=False):
        if row != (migration.version, migration.name, migration.sha256):
            msg = f"migration {row[0]:04} ({row[1]}) is not the file that was applied"
            raise SchemaRefused(msg)
    return migrations[len(applied) :]


def _apply(conn: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    with conn.transaction():
        conn.execute(migration.sql)
        conn.execute(CREATE_REGISTER)
        conn.execute(INSERT_APPLIED, (migration.version, migration.name, migration.sha256))
