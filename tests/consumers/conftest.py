"""Fixtures of the asynchronous half: a second database for what is compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from infra.postgres import EmbeddedPostgres

_numbers = itertools.count(1)


@pytest.fixture
def other_database_url(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """Another migrated database of this test's own."""
    name = f"other_{next(_numbers)}"
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
        try:
            yield postgres_server.url_of(name)
        finally:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
