"""The voices of the import's tests: small maps, small files, and a ledger in memory.

Invariant: a builder shows only what a case is about; the ledger here keeps the promises the
import relies on (idempotent ids, dates that never go back), and can be killed.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from infra.csv_import import ColumnMap
from infra.csv_import.ledger_client import AccountState, LineResult
from infra.csv_import.rows import HistoryRow
from ledger.operation import OpenAccount, Operation

SHARED_DATA = Path(
    os.environ.get("DAYBOOK_SHARED_DATA")
    or Path(__file__).resolve().parents[2].parent / "shared" / "data"
)

MAP = """
[source]
name = "bank"
book = "history"
[file]
delimiter = ";"
[columns]
account = "account"
date = "date"
type = "type"
amount = "amount"
reference = "id"
stated_balance = "balance"
description = ["text"]
[amount]
currency = "EUR"
decimals = 2
[stated_balance]
rounding = "0.10"
[types.IN]
business_type = "history_credit"
side = "credit"
[types.OUT]
business_type = "history_debit"
side = "debit"
[account]
type = "customer"
subject = "2001.01"
"""

HEADER = "id;account;date;type;amount;balance;text"


def a_map(tmp_path: Path, text: str = MAP, **replaced: str) -> ColumnMap:
    """Write a map and load it; `old="new"` pairs replace whole lines by their key."""
    lines = []
    for line in text.splitlines():
        key = line.split(" = ")[0]
        lines.append(f"{key} = {replaced.pop(key)}" if key in replaced else line)
    assert not replaced, f"the map has no such line: {replaced}"
    path = tmp_path / "map.toml"
    path.write_text("\n".join(lines))
    return ColumnMap.load(path)


def a_file(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    """Write a CSV file of these rows."""
    path = tmp_path / "bank.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def a_row(
    reference: str, signed_minor: int, stated_minor: int | None, *, account: str = "A", day: int = 1
) -> HistoryRow:
    """Return a validated row, as the reader would."""
    date = dt.date(2020, 1, day)
    return HistoryRow(
        line=int(reference) + 1,
        account=account,
        source_account=account,
        business_date=date,
        value_date=date,
        business_type="history_credit" if signed_minor > 0 else "history_debit",
        side="credit" if signed_minor > 0 else "debit",
        amount_minor=abs(signed_minor),
        signed_minor=signed_minor,
        reference=reference,
        stated_minor=stated_minor,
        description=None,
    )


class KilledError(Exception):
    """The import was killed at this point."""


@dataclass
class LedgerInMemory:
    """A `LedgerClient` with the promises of the real one and no durability."""

    closed_before: dt.date = dt.date.min
    kill_after: int | None = None
    results: dict[str, LineResult] = field(default_factory=dict)
    bodies: dict[str, OpenAccount | Operation] = field(default_factory=dict)
    balances: dict[str, int] = field(default_factory=dict)
    dates: dict[str, dt.date] = field(default_factory=dict)
    booked: list[Operation] = field(default_factory=list)

    def open_accounts(self, accounts: Sequence[OpenAccount]) -> list[LineResult]:
        return [self._open(account) for account in accounts]

    def post_operations(
        self, operations: Sequence[Operation], *, dry_run: bool = False
    ) -> list[LineResult]:
        if dry_run:
            return [self._decide(operation) for operation in operations]
        return [self._book(operation) for operation in operations]

    def select_balance(self, account: str) -> int:
        return self.balances[account]

    def _open(self, account: OpenAccount) -> LineResult:
        assert account.operation_id is not None
        if account.operation_id in self.results:
            assert self.bodies[account.operation_id] == account
            return _replayed(self.results[account.operation_id])
        if account.account in self.balances:
            return LineResult("rejected", account.operation_id, code="account_exists")
        self.balances[account.account] = 0
        result = LineResult("booked", account.operation_id)
        self.results[account.operation_id] = result
        self.bodies[account.operation_id] = account
        return result

    def _decide(self, operation: Operation) -> LineResult:
        assert operation.operation_id is not None
        assert operation.business_date is not None
        if operation.operation_id in self.results:
            return _replayed(self.results[operation.operation_id])
        (leg,) = operation.legs
        if leg.account not in self.balances:
            return LineResult("rejected", operation.operation_id, code="unknown_account")
        if operation.business_date < self.dates.get(leg.account, dt.date.min):
            return LineResult("rejected", operation.operation_id, code="date_before_account")
        if operation.business_date < self.closed_before:
            return LineResult("rejected", operation.operation_id, code="date_closed")
        signed = leg.amount_minor if leg.kind == "credit" else -leg.amount_minor
        state = AccountState(leg.account, self.balances[leg.account] + signed)
        return LineResult("booked", operation.operation_id, accounts=(state,))

    def _book(self, operation: Operation) -> LineResult:
        if self.kill_after is not None and len(self.booked) >= self.kill_after:
            raise KilledError
        result = self._decide(operation)
        assert operation.operation_id is not None
        assert operation.business_date is not None
        if result.replayed:
            assert self.bodies[operation.operation_id] == operation
            return result
        self.results[operation.operation_id] = result
        self.bodies[operation.operation_id] = operation
        if result.booked:
            (state,) = result.accounts
            self.balances[state.account] = state.balance_minor
            self.dates[state.account] = operation.business_date
            self.booked.append(operation)
        return result


def _replayed(result: LineResult) -> LineResult:
    return msgspec.structs.replace(result, replayed=True)
