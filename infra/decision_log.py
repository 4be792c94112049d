"""Accounting decisions wired to the ledger's log: one application on one database.

Invariant: decisions enter `ledger.stored_events` through `ledger.store.DaybookRecorder`, under the
same commit-order lock as operations, and nowhere else. The library's pool connects as every other
part does: with all that the address says, and with a deadline on every wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accounting.decisions import AccountingDecisions
from ledger.store import ADDRESS, LOCK_TIMEOUT

LOCK_TIMEOUT_S = 10
CONNECT_PATIENCE_S = 10
# The library asks for them; the address has them, and more.
NOT_READ = [f"POSTGRES_{name}" for name in ("DBNAME", "HOST", "PORT", "USER", "PASSWORD")]


class LoggedDecisions(AccountingDecisions):
    """The application on the ledger's own table: the name is the table's prefix."""

    name = "stored"


@contextmanager
def decision_log(database_url: str) -> Iterator[AccountingDecisions]:
    """Open the application for a while; its connections are closed afterwards.

    What cannot connect, or waits for the log longer than LOCK_TIMEOUT_S, raises the library's
    PersistenceError.
    """
    decisions = LoggedDecisions(
        env={
            "PERSISTENCE_MODULE": "ledger.store:Factory",
            ADDRESS: database_url,
            LOCK_TIMEOUT: f"{LOCK_TIMEOUT_S}s",
            **dict.fromkeys(NOT_READ, ""),
            "POSTGRES_SCHEMA": "ledger",
            "POSTGRES_CONNECT_TIMEOUT": f"{CONNECT_PATIENCE_S}",
            "POSTGRES_POOL_SIZE": "1",
            "POSTGRES_MAX_OVERFLOW": "1",
            "CREATE_TABLE": "no",
        }
    )
    try:
        yield decisions
    finally:
        decisions.close()
