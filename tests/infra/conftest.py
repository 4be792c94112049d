"""Fixtures of the command line: a running system for a page of tests, and its commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.demo.payment_day import BUSINESS_DATE
from infra.demo.system import System, own_settings, system, variables
from infra.postgres import EmbeddedPostgres
from infra.settings import load_settings, with_overrides
from tests.fix_postgres import fresh_database
from tests.infra.commands import Daybook, in_this_process


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: EmbeddedPostgres,
    template_database: str,
) -> Iterator[System]:
    """One system for this page; its tests use accounts of their own."""
    with fresh_database(postgres_server, template_database) as url:
        home = tmp_path_factory.mktemp("cli")
        settings = with_overrides(own_settings(load_settings(), home=home), database_url=url)
        with system(settings, open_date=BUSINESS_DATE) as started:
            yield started


@pytest.fixture
def daybook(
    served: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Daybook:
    """Run a command in this process with the environment of the running system."""
    for name, value in variables(served.settings).items():
        monkeypatch.setenv(name, value)
    return in_this_process(capsys)
