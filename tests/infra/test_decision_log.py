"""Decisions reach the log by the address that every other part goes by."""

from __future__ import annotations

import psycopg
import pytest
from eventsourcing.persistence import PersistenceError

from infra import decision_log as module
from infra.cli import exit_code_of
from infra.cli.exit_codes import ExitCode
from infra.decision_log import decision_log
from ledger.log import LOG_LOCK
from ledger.store import DaybookRecorder

SELECT_SETTINGS = """
    SELECT current_setting('default_transaction_isolation') AS isolation,
           current_setting('application_name') AS name
"""


def request_repair(database_url: str) -> int:
    with decision_log(database_url) as decisions:
        return decisions.request_repair("main", ["p-1"], maker="alice")


def with_parameters(database_url: str, parameters: str) -> str:
    return f"{database_url}{'&' if '?' in database_url else '?'}{parameters}"


def test_everything_that_the_address_says_counts(database_url: str) -> None:
    """The library takes host, user and password: the standby that was asked not to be taken, and
    the TLS that was asked for, were forgotten."""
    assert request_repair(with_parameters(database_url, "target_session_attrs=primary")) > 0
    with pytest.raises(PersistenceError):
        request_repair(with_parameters(database_url, "target_session_attrs=standby"))


def test_the_library_reads_committed_whatever_the_database_says(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        name = conn.info.dbname
        conn.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'".encode()
        )
    with decision_log(database_url) as decisions:
        recorder = decisions.recorder
        assert isinstance(recorder, DaybookRecorder)
        with recorder.datastore.get_connection() as conn:
            settings = conn.execute(SELECT_SETTINGS).fetchone()
    assert settings == {"isolation": "read committed", "name": "daybook-decisions"}


def test_a_decision_does_not_wait_for_the_log_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 1)
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s, hashtext('ledger'))", (LOG_LOCK,))
        with pytest.raises(PersistenceError, match="lock timeout") as given_up:
            request_repair(database_url)
    assert exit_code_of(given_up.value) == ExitCode.UNAVAILABLE
    assert request_repair(database_url) > 0
