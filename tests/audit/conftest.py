"""Fixtures of the audit's tests: the story told once, and a connection to tamper with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection, IsolationLevel

from infra import audit
from infra.audit import Digest
from infra.postgres import EmbeddedPostgres
from tests.audit import story

TOLD = "daybook_audit_story"


@pytest.fixture(scope="session")
def story_url(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """The address of a database with the story; tests leave it as they find it."""
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {TOLD} TEMPLATE {template_database}")
        url = postgres_server.url_of(TOLD)
        try:
            story.tell(url)
            yield url
        finally:
            conn.execute(f"DROP DATABASE {TOLD} WITH (FORCE)")


@pytest.fixture
def digest(story_url: str) -> Digest:
    """The end of the story's log, as it would be kept outside."""
    with psycopg.connect(story_url) as conn:
        return audit.digest(conn)


@pytest.fixture
def tampering(story_url: str, digest: Digest) -> Iterator[Connection[Any]]:
    """An open transaction of somebody who can do anything: no trigger or check stops them.

    The digest comes first: this transaction locks the tables whose checks it takes away.
    """
    with psycopg.connect(story_url) as conn:
        conn.isolation_level = IsolationLevel.REPEATABLE_READ
        conn.execute("SET LOCAL session_replication_role = replica")
        checks = conn.execute(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint "
            "WHERE contype = 'c' AND connamespace IN ('ledger'::regnamespace, "
            "'projections'::regnamespace)"
        ).fetchall()
        for table, name in checks:
            conn.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
        try:
            yield conn
        finally:
            conn.rollback()
