"""What an import did: counts by class, every difference, every row skipped or refused.

Invariant: the report is complete when `complete`; nothing that differs is left out of
`differences`, and the counts are counts of rows the ledger has booked (or would book).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from infra.csv_import.history import History
from infra.csv_import.row_errors import CsvRowError
from infra.csv_import.stated_balance import EXPLAINED, BalanceClass, Comparison
from ledger.money import format_minor

DIFFERENCE_COLUMNS = (
    "class",
    "line",
    "account",
    "business_date",
    "reference",
    "amount",
    "booked_balance",
    "stated_balance",
    "running_difference",
    "step_difference",
    "note",
)


@dataclass(frozen=True)
class RefusedRow:
    """A row or account the ledger would not take: its line (0 = an account), id and reason."""

    line: int
    operation_id: str
    code: str
    detail: str


@dataclass(frozen=True)
class FinalDifference:
    """An account whose balance now is not the one after its last imported row."""

    account: str
    balance_minor: int
    imported_minor: int


@dataclass(frozen=True)
class ImportReport:
    """The outcome of `import_csv`. Amounts in minor units of `currency`."""

    source: str
    book: str
    currency: str
    file: str
    dry_run: bool
    history: History
    skipped: tuple[CsvRowError, ...]
    accounts: int
    accounts_opened: int
    booked: int
    replayed: int
    refused: tuple[RefusedRow, ...]
    comparisons: tuple[Comparison, ...]
    final_differences: tuple[FinalDifference, ...]

    @property
    def complete(self) -> bool:
        """Tell whether every row of the file is in the ledger (or would be)."""
        return not self.skipped and not self.refused

    @property
    def rows_skipped(self) -> int:
        """Count the rows that were left out; one row may have several errors."""
        return len({error.line for error in self.skipped})

    @property
    def agrees(self) -> bool:
        """Tell whether the import is complete and every difference is explained."""
        return self.complete and not self.unexplained and not self.final_differences

    @property
    def counts(self) -> dict[str, int]:
        """Rows by class, every class named."""
        found = Counter(comparison.balance_class for comparison in self.comparisons)
        return {balance_class.value: found[balance_class] for balance_class in BalanceClass}

    @property
    def differences(self) -> tuple[Comparison, ...]:
        """Every row whose step or running balance differs from the stated one, in order."""
        same = (BalanceClass.EXACT, BalanceClass.NOT_STATED)
        return tuple(c for c in self.comparisons if c.balance_class not in same)

    @property
    def unexplained(self) -> tuple[Comparison, ...]:
        """The rows a person must look at, one by one."""
        return tuple(c for c in self.comparisons if c.balance_class not in EXPLAINED)

    def to_document(self) -> dict[str, Any]:
        """Return the whole report as plain JSON values, amounts as integers."""
        history = self.history
        return {
            "source": self.source,
            "book": self.book,
            "currency": self.currency,
            "file": self.file,
            "dry_run": self.dry_run,
            "complete": self.complete,
            "agrees": self.agrees,
            "rows": len(history.rows),
            "first_date": history.rows[0].business_date.isoformat() if history.rows else None,
            "last_date": history.rows[-1].business_date.isoformat() if history.rows else None,
            "account_days": history.days,
            "account_days_reordered": history.days_reordered,
            "account_days_off_by_rounding": history.days_off_by_rounding,
            "account_days_broken": history.days_broken,
            "accounts": self.accounts,
            "accounts_opened": self.accounts_opened,
            "booked": self.booked,
            "replayed": self.replayed,
            "counts": self.counts,
            "largest_rounding_difference": self.largest_rounding_minor,
            "differences": [_plain(difference) for difference in self.differences],
            "skipped": msgspec.to_builtins(self.skipped),
            "refused": msgspec.to_builtins(self.refused),
            "final_differences": msgspec.to_builtins(self.final_differences),
        }

    @property
    def largest_rounding_minor(self) -> int:
        """The largest running difference that is rounding alone, without its sign."""
        return max(
            (
                abs(comparison.running_difference_minor)
                for comparison in self.comparisons
                if comparison.balance_class is BalanceClass.ROUNDING_CARRIED
            ),
            default=0,
        )

    def write_differences(self, path: Path) -> None:
        """Write every difference as CSV, amounts in major units, in posting order."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(DIFFERENCE_COLUMNS)
            writer.writerows(self.difference_rows())

    def difference_rows(self) -> Iterator[tuple[str, ...]]:
        """Yield `DIFFERENCE_COLUMNS` as text, for a table or a file."""
        for difference in self.differences:
            plain = _plain(difference)
            for name in DIFFERENCE_COLUMNS[5:10]:
                value = plain[name]
                plain[name] = "" if value is None else format_minor(value, self.currency)
            yield tuple(str(plain[name]) for name in DIFFERENCE_COLUMNS)


def _plain(comparison: Comparison) -> dict[str, Any]:
    row = comparison.row
    return {
        "class": comparison.balance_class.value,
        "line": row.line,
        "account": row.account,
        "business_date": row.business_date.isoformat(),
        "reference": row.reference,
        "amount": row.signed_minor,
        "booked_balance": comparison.booked_minor,
        "stated_balance": row.stated_minor,
        "running_difference": comparison.running_difference_minor,
        "step_difference": comparison.step_minor,
        "note": comparison.note,
    }
