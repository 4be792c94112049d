"""`eventsourcing` as its manual shows it: aggregates, a repository, one save per transfer.

The library's own PostgreSQL recorder with its own table on the same server; one caller, one
process, as the library's applications are usually run.
"""

from __future__ import annotations

import random
import time
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from psycopg.conninfo import conninfo_to_dict

SAVED_AT_ONCE = 500


class Account(Aggregate):
    """An account as an aggregate; its balance is folded from its events at every use."""

    def __init__(self, number: str, balance_minor: int) -> None:
        self.number = number
        self.balance_minor = balance_minor

    @event("Debited")
    def debit(self, amount_minor: int) -> None:
        """Take money out."""
        self.balance_minor -= amount_minor

    @event("Credited")
    def credit(self, amount_minor: int) -> None:
        """Put money in."""
        self.balance_minor += amount_minor


class AggregateBank(Application[UUID]):
    """A transfer reads two aggregates, changes both and saves them in one transaction."""

    def open_accounts(self, count: int) -> list[UUID]:
        """Open accounts; return their ids."""
        accounts = [Account(f"C-{index}", 10**12) for index in range(count)]
        for first in range(0, count, SAVED_AT_ONCE):
            self.save(*accounts[first : first + SAVED_AT_ONCE])
        return [account.id for account in accounts]

    def transfer(self, source_id: UUID, target_id: UUID, amount_minor: int) -> None:
        """Move money between two accounts."""
        source: Account = self.repository.get(source_id)
        target: Account = self.repository.get(target_id)
        if source.balance_minor < amount_minor:
            raise ValueError("insufficient funds")
        source.debit(amount_minor)
        target.credit(amount_minor)
        self.save(source, target)


def open_bank(url: str) -> AggregateBank:
    """Return the application on a database of its own."""
    known: dict[str, Any] = conninfo_to_dict(url)
    return AggregateBank(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": known["dbname"],
            "POSTGRES_HOST": known["host"],
            "POSTGRES_PORT": "5432",
            "POSTGRES_USER": known["user"],
            "POSTGRES_PASSWORD": "unused on a socket",
        }
    )


def transfers_s(bank: AggregateBank, accounts: list[UUID], count: int, seed: int) -> float:
    """Make transfers between random accounts; return the seconds that took."""
    chosen = random.Random(seed)
    pairs = [chosen.sample(accounts, 2) for _ in range(count)]
    started = time.perf_counter()
    for source_id, target_id in pairs:
        bank.transfer(source_id, target_id, 100)
    return time.perf_counter() - started
