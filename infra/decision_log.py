"""Accounting decisions wired to the ledger's log: one application on one database.

Invariant: decisions enter `ledger.stored_events` through `ledger.store.DaybookRecorder`, under the
same commit-order lock as operations, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import conninfo_to_dict

from accounting.decisions import AccountingDecisions


class LoggedDecisions(AccountingDecisions):
    """The application on the ledger's own table: the name is the table's prefix."""

    name = "stored"


@contextmanager
def decision_log(database_url: str) -> Iterator[AccountingDecisions]:
    """Open the application for a while; its connections are closed afterwards."""
    given = {name: str(value) for name, value in conninfo_to_dict(database_url).items()}
    decisions = LoggedDecisions(
        env={
            "PERSISTENCE_MODULE": "ledger.store:Factory",
            "POSTGRES_DBNAME": given.get("dbname", "daybook"),
            "POSTGRES_HOST": given.get("host", "127.0.0.1"),
            "POSTGRES_PORT": given.get("port", "5432"),
            "POSTGRES_USER": given.get("user", "postgres"),
            "POSTGRES_PASSWORD": given.get("password", ""),
            "POSTGRES_SCHEMA": "ledger",
            "POSTGRES_POOL_SIZE": "1",
            "POSTGRES_MAX_OVERFLOW": "1",
            "CREATE_TABLE": "no",
        }
    )
    try:
        yield decisions
    finally:
        decisions.close()
