"""Fixtures of the asynchronous half: a second database for what is compared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.postgres import EmbeddedPostgres
from tests.fix_postgres import fresh_database


@pytest.fixture
def other_database_url(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """Another migrated database of this test's own."""
    with fresh_database(postgres_server, template_database) as url:
        yield url
