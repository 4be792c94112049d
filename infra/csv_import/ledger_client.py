"""What the import needs of the ledger: open accounts, post operations, read balances.

Invariant: results come in the order of the requests, one each; repeating a call is safe,
because every request carries its operation id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import field

from ledger.errors import LedgerError
from ledger.operation import OpenAccount, Operation


class LedgerUnreachable(LedgerError):
    """The API did not answer within the import's patience; run the import again."""

    code = "ledger_unreachable"
    retriable = True


class LedgerRefused(LedgerError):
    """The API refused the whole request (key, permission, body); nothing of it was booked."""

    code = "ledger_refused"


class AccountState(msgspec.Struct, frozen=True):
    """A touched account as the answer shows it."""

    account: str
    balance_minor: int = field(name="balance")


class LineResult(msgspec.Struct, frozen=True):
    """One line of the answer. `code` is the reason when the line was not booked."""

    status: str
    operation_id: str | None = None
    replayed: bool = False
    accounts: tuple[AccountState, ...] = ()
    code: str | None = None
    detail: str = ""
    retriable: bool = False

    @property
    def booked(self) -> bool:
        """Tell whether the line is in the log, now or from an earlier run."""
        return self.status in ("booked", "accepted")


class LedgerClient(Protocol):
    """The ledger's side of the import. Implemented by `http_client.HttpLedgerClient`."""

    def open_accounts(self, accounts: Sequence[OpenAccount]) -> list[LineResult]:
        """Open accounts; one result each, in order."""

    def post_operations(
        self, operations: Sequence[Operation], *, dry_run: bool = False
    ) -> list[LineResult]:
        """Book operations one after the other; one result each, in order."""

    def select_balance(self, account: str) -> int:
        """Return the account's balance now, in minor units."""
