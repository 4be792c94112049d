"""What a CSV row can be refused for: file, line, column, reason with a stable code.

Invariant: a row that cannot be read exactly is an error in this list, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from ledger.errors import LedgerError


class RowErrorCode(StrEnum):
    """Why a row, or the whole file, was refused. The codes are stable."""

    FILE_MISSING = "file_missing"
    FILE_EMPTY = "file_empty"
    COLUMN_MISSING = "column_missing"
    COLUMN_REPEATED = "column_repeated"
    OWNER_FILE_UNREADABLE = "owner_file_unreadable"
    COLUMN_COUNT = "column_count"
    QUOTING_BROKEN = "quoting_broken"
    NUL_CHARACTER = "nul_character"
    UNDECODABLE = "undecodable"
    VALUE_MISSING = "value_missing"
    VALUE_TOO_LONG = "value_too_long"
    ACCOUNT_MALFORMED = "account_malformed"
    OWNER_UNKNOWN = "owner_unknown"
    DATE_MALFORMED = "date_malformed"
    TYPE_UNKNOWN = "type_unknown"
    AMOUNT_MALFORMED = "amount_malformed"
    AMOUNT_DECIMALS = "amount_decimals"
    AMOUNT_SIGN = "amount_sign"
    AMOUNT_ZERO = "amount_zero"
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    REFERENCE_MALFORMED = "reference_malformed"
    REFERENCE_REPEATED = "reference_repeated"


class CsvRowError(msgspec.Struct, frozen=True):
    """One refused row: `line` is 1-based and counts the header (1); 0 is no line at all."""

    file: str
    line: int
    column: str | None
    code: RowErrorCode
    detail: str

    @property
    def is_whole_file(self) -> bool:
        """Tell whether nothing of the file can be read, so that no row can be skipped."""
        return self.line <= 1

    def __str__(self) -> str:
        """Show it the way compilers do: file:line: column: code: detail."""
        column = f" {self.column}:" if self.column else ""
        return f"{self.file}:{self.line}:{column} {self.code.value}: {self.detail}"


class FieldRefused(Exception):
    """A field's text cannot be read; the reader adds file, line and column."""

    def __init__(self, code: RowErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class CsvRefused(LedgerError):
    """The file has errors and nothing was posted; `errors` lists every one of them."""

    code = "csv_refused"

    def __init__(self, errors: Sequence[CsvRowError]) -> None:
        self.errors = tuple(errors)
        super().__init__(
            f"{len(self.errors)} error(s), nothing was posted; the first: {self.errors[0]}",
            errors=[msgspec.to_builtins(error) for error in self.errors],
        )
