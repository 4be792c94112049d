"""Fixtures: one embedded PostgreSQL for the whole run, a fresh migrated database for each test."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.postgres import EmbeddedPostgres, embedded_postgres, migrate

TEMPLATE = "daybook_template"
SMALL = {"shared_buffers": "256MB", "min_wal_size": "80MB", "max_wal_size": "1GB"}
DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """The run's own server, in a folder of its own; it is stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="daybook-tests-"))
    server = embedded_postgres(folder, settings=SMALL)
    try:
        yield server.start()
    finally:
        server.crash()  # nothing here is worth a checkpoint
        server.stop()
        _remove_behind(folder)


@pytest.fixture(scope="session")
def postgres_url(postgres_server: EmbeddedPostgres) -> str:
    """The address of the run's server (its database `daybook` stays empty)."""
    return postgres_server.url


@pytest.fixture(scope="session")
def template_database(postgres_server: EmbeddedPostgres) -> str:
    """The name of a migrated database that nobody connects to; each test gets a copy."""
    _administer(postgres_server, f"CREATE DATABASE {TEMPLATE}")
    migrate(postgres_server.url_of(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """A migrated database of this test's own."""
    with fresh_database(postgres_server, template_database) as url:
        yield url


@contextlib.contextmanager
def fresh_database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    """Copy the template, for as long as the block runs."""
    name = f"test_{next(_numbers)}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.url_of(name)
    finally:
        _leave(server, name)


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A database of this test's own without any schema."""
    name = f"test_{next(_numbers)}"
    _administer(postgres_server, f"CREATE DATABASE {name}")
    try:
        yield postgres_server.url_of(name)
    finally:
        _leave(postgres_server, name)


def _remove_behind(folder: Path) -> None:
    """Remove hundreds of databases; nobody waits for it, and it may outlive the run."""
    subprocess.run(["sh", "-c", 'rm -rf -- "$0" >/dev/null 2>&1 &', str(folder)], check=False)


def _leave(server: EmbeddedPostgres, name: str) -> None:
    """Cut what is still connected. The database goes with the server's folder when the run ends:
    to drop it would wait for a checkpoint, which costs more than most tests."""
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as conn:
        conn.execute(DISCONNECT, (name,))


def _administer(server: EmbeddedPostgres, command: str) -> None:
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as conn:
        conn.execute(command.encode())


@pytest.fixture
def second_database_url(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """Another migrated database of this test's own."""
    with fresh_database(postgres_server, template_database) as url:
        yield url
