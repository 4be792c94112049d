"""Import a CSV file of history: read it whole, order it, post it, compare every balance.

Invariant: nothing is posted unless the whole file is good (or bad rows may be skipped);
rows are posted in one fixed order, batch after batch, so whatever was posted when the
import is killed is a prefix of that order, and the next run goes on behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from infra.csv_import.column_map import ColumnMap
from infra.csv_import.history import History, accounts_of, operation_of, order_history
from infra.csv_import.ledger_client import LedgerClient, LineResult
from infra.csv_import.owners import read_owners, rows_without_owner
from infra.csv_import.report import FinalDifference, ImportReport, RefusedRow
from infra.csv_import.row_errors import CsvRefused, CsvRowError
from infra.csv_import.rows import HistoryRow, read_csv
from infra.csv_import.stated_balance import booked_from_amounts, compare
from ledger.operation import OpenAccount

BATCH_SIZE = 1_000
PROBES_MAX = 500
ACCOUNT_EXISTS = "account_exists"
FUNDS_CODES = frozenset({"insufficient_funds"})  # a probe has not seen the rows before it

Item = TypeVar("Item")
Progress = Callable[[str, int, int], None]  # stage, done, total


def _silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class ImportPlan:
    """All that will be posted, and what was skipped. Made without the ledger."""

    file: str
    column_map: ColumnMap
    history: History
    accounts: tuple[OpenAccount, ...]
    skipped: tuple[CsvRowError, ...]


@dataclass
class _Posted:
    """What the ledger answered so far."""

    accounts_opened: int = 0
    booked: int = 0
    replayed: int = 0
    balances: dict[str, int] = field(default_factory=dict)  # by reference
    refused: list[RefusedRow] = field(default_factory=list)


def import_csv(
    file: Path,
    column_map: ColumnMap,
    client: LedgerClient | None,
    *,
    progress: Progress = _silent,
    skip_bad: bool = False,
    batch_size: int = BATCH_SIZE,
) -> ImportReport:
    """Import `file` through `client`; with no client nothing is posted (a dry run).

    Raises `CsvRefused` with every error when the file is bad, `LedgerUnreachable` or
    `LedgerRefused` when the API gives no answer or refuses a whole request. Posting stops
    behind the first batch of which the ledger refused a row; the report lists those.
    """
    plan = plan_import(file, column_map, skip_bad=skip_bad)
    if client is None:
        return _report(plan, None, ())
    posted = _Posted()
    _open_accounts(plan, client, posted, progress, batch_size)
    if not posted.refused:
        _probe(plan, client, posted, batch_size)
    if not posted.refused:
        _post_rows(plan, client, posted, progress, batch_size)
    return _report(plan, posted, _final_differences(plan, client, posted, progress))


def plan_import(file: Path, column_map: ColumnMap, *, skip_bad: bool = False) -> ImportPlan:
    """Read, validate and order the whole file; raises `CsvRefused` with every error."""
    csv_file = read_csv(file, column_map)
    owners, owner_errors = read_owners(file, column_map)
    if not owner_errors:
        owner_errors = rows_without_owner(csv_file.file, csv_file.rows, owners, column_map)
    errors = sorted([*csv_file.errors, *owner_errors], key=lambda error: error.line)
    if errors and (not skip_bad or errors[0].is_whole_file):
        raise CsvRefused(errors)
    bad_lines = {error.line for error in errors}
    good = [row for row in csv_file.rows if row.line not in bad_lines]
    history = order_history(good, column_map.rounding_minor)
    accounts = accounts_of(history.rows, column_map, owners)
    return ImportPlan(csv_file.file, column_map, history, tuple(accounts), tuple(errors))


def _open_accounts(
    plan: ImportPlan, client: LedgerClient, posted: _Posted, progress: Progress, batch_size: int
) -> None:
    done = 0
    for batch in _batches(plan.accounts, batch_size):
        for account, result in zip(batch, client.open_accounts(batch), strict=True):
            if result.booked:
                posted.accounts_opened += not result.replayed
            elif result.code != ACCOUNT_EXISTS:  # opened by somebody else: good enough
                posted.refused.append(_refused(0, account.operation_id or "", result))
        done += len(batch)
        progress("accounts", done, len(plan.accounts))


def _probe(plan: ImportPlan, client: LedgerClient, posted: _Posted, batch_size: int) -> None:
    """Ask with `dry_run` about rows spread over the file before any is booked.

    A refusal is recorded for ever under its operation id, so a closed day or a missing
    permission must be found while it still costs nothing.
    """
    rows = plan.history.rows
    probes = rows[:: max(1, len(rows) // min(PROBES_MAX, batch_size))][:batch_size]
    operations = [operation_of(row, plan.column_map) for row in probes]
    results = client.post_operations(operations, dry_run=True) if operations else []
    for row, operation, result in zip(probes, operations, results, strict=True):
        if not result.booked and result.code not in FUNDS_CODES:
            posted.refused.append(_refused(row.line, operation.operation_id or "", result))


def _post_rows(
    plan: ImportPlan, client: LedgerClient, posted: _Posted, progress: Progress, batch_size: int
) -> None:
    done = 0
    for batch in _batches(plan.history.rows, batch_size):
        operations = [operation_of(row, plan.column_map) for row in batch]
        results = client.post_operations(operations)
        for row, operation, result in zip(batch, operations, results, strict=True):
            balance_minor = _balance_of(row, result)
            if balance_minor is not None:
                posted.booked += not result.replayed
                posted.replayed += result.replayed
                posted.balances[row.reference] = balance_minor
            else:
                posted.refused.append(_refused(row.line, operation.operation_id or "", result))
        done += len(batch)
        progress("rows", done, len(plan.history.rows))
        if posted.refused:
            return


def _balance_of(row: HistoryRow, result: LineResult) -> int | None:
    """Return the balance after this row; None when it was not booked on its own account."""
    if not result.booked:
        return None
    return next((s.balance_minor for s in result.accounts if s.account == row.account), None)


def _final_differences(
    plan: ImportPlan, client: LedgerClient, posted: _Posted, progress: Progress
) -> tuple[FinalDifference, ...]:
    """Read every imported account again: its balance now is the one after its last row."""
    last = {
        row.account: posted.balances[row.reference]
        for row in plan.history.rows
        if row.reference in posted.balances
    }
    differences = []
    for done, (account, imported_minor) in enumerate(sorted(last.items()), start=1):
        balance_minor = client.select_balance(account)
        if balance_minor != imported_minor:
            differences.append(FinalDifference(account, balance_minor, imported_minor))
        progress("balances", done, len(last))
    return tuple(differences)


def _report(
    plan: ImportPlan, posted: _Posted | None, final_differences: tuple[FinalDifference, ...]
) -> ImportReport:
    rows = plan.history.rows
    answers = posted or _Posted(balances=booked_from_amounts(rows))
    comparisons = compare(rows, answers.balances, plan.column_map.rounding_minor)
    return ImportReport(
        source=plan.column_map.source.name,
        book=plan.column_map.source.book,
        currency=plan.column_map.amount.currency,
        file=plan.file,
        dry_run=posted is None,
        history=plan.history,
        skipped=plan.skipped,
        accounts=len(plan.accounts),
        accounts_opened=answers.accounts_opened,
        booked=answers.booked,
        replayed=answers.replayed,
        refused=tuple(answers.refused),
        comparisons=tuple(comparisons),
        final_differences=final_differences,
    )


def _refused(line: int, operation_id: str, result: LineResult) -> RefusedRow:
    status = "booked_elsewhere" if result.booked else result.status
    return RefusedRow(line, operation_id, result.code or status, result.detail)


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
