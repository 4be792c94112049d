"""Read a CSV file whole and validate every row before anything is done with it.

Invariant: a `HistoryRow` is exact (integer minor units, a real date, a reference nobody
else in the file has); everything else is a `CsvRowError` with line and column. A row ends
with its line: a quote that does not close on its line breaks that row, not the rest.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from infra.csv_import.amounts import parse_minor
from infra.csv_import.column_map import ColumnMap, MappedType, Side
from infra.csv_import.row_errors import CsvRowError, FieldRefused, RowErrorCode

ACCOUNT_PATTERN = re.compile(r"[!-.0-~]{1,64}")
REFERENCE_PATTERN = re.compile(r"[\x21-\x7e]{1,64}")
DESCRIPTION_MAX = 500
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One movement of the past. `signed_minor` is its effect on the account's balance."""

    line: int
    account: str
    source_account: str
    business_date: dt.date
    value_date: dt.date
    business_type: str
    side: Side
    amount_minor: int
    signed_minor: int
    reference: str
    stated_minor: int | None
    description: str | None


@dataclass(frozen=True)
class CsvFile:
    """What was read: the good rows in file order, and every error."""

    file: str
    rows: tuple[HistoryRow, ...]
    errors: tuple[CsvRowError, ...]


def read_csv(path: Path, column_map: ColumnMap) -> CsvFile:
    """Read and validate the whole file; touches nothing but the file."""
    try:
        lines = _physical_lines(path, column_map)
        header = next(lines, None)
    except OSError as error:
        return CsvFile(
            path.name,
            (),
            (_file_error(path, RowErrorCode.FILE_MISSING, error.strerror or str(error)),),
        )
    except UnicodeDecodeError as error:
        return CsvFile(path.name, (), (_file_error(path, RowErrorCode.UNDECODABLE, str(error)),))
    if header is None:
        return CsvFile(
            path.name, (), (_file_error(path, RowErrorCode.FILE_EMPTY, "there is no header"),)
        )
    reader = _RowReader(path.name, column_map)
    if not reader.read_header(header[1]):
        return CsvFile(path.name, (), tuple(reader.errors))
    rows = [row for number, text in lines if (row := reader.read_row(number, text))]
    return CsvFile(path.name, tuple(rows), tuple(reader.errors))


def read_dicts(path: Path, column_map: ColumnMap) -> Iterator[dict[str, str]]:
    """Yield the rows of a look-up file of the same format, by header name.

    Raises OSError, ValueError or csv.Error when the file cannot be read.
    """
    lines = _physical_lines(path, column_map)
    header = _split(next(lines, (0, ""))[1], column_map)
    for _, text in lines:
        yield dict(zip(header, _split(text, column_map), strict=True))


def _file_error(path: Path, code: RowErrorCode, detail: str) -> CsvRowError:
    return CsvRowError(path.name, 0, None, code, detail)


def _physical_lines(path: Path, column_map: ColumnMap) -> Iterator[tuple[int, str]]:
    """Return (1-based number, text) of each line; blank lines at the end are left out."""
    text = path.read_bytes().decode(column_map.file.encoding, errors="surrogateescape")
    lines = text.rstrip("\r\n").split("\n") if text.strip("\r\n") else []
    return ((number, line.removesuffix("\r")) for number, line in enumerate(lines, start=1))


def _split(text: str, column_map: ColumnMap) -> list[str]:
    form = column_map.file
    reader = csv.reader([text], delimiter=form.delimiter, quotechar=form.quote, strict=True)
    return next(reader, [])


class _RowReader:
    """State of one pass: the header's positions, the references seen, the errors found."""

    def __init__(self, file: str, column_map: ColumnMap) -> None:
        self.file = file
        self.map = column_map
        self.form = column_map.amount_format
        self.errors: list[CsvRowError] = []
        self.header: list[str] = []
        self.line_of_reference: dict[str, int] = {}
        self.date_of: dict[str, dt.date] = {}

    def read_header(self, text: str) -> bool:
        """Find the map's columns in the header; False when a name is missing or repeated."""
        try:
            self.header = _split(text, self.map)
        except csv.Error as error:
            self._refuse(1, None, RowErrorCode.QUOTING_BROKEN, str(error))
            return False
        columns = self.map.columns
        wanted = [columns.account, columns.date, columns.amount, columns.reference]
        optional = [columns.type, columns.value_date, columns.stated_balance]
        for name in [*wanted, *(n for n in optional if n), *columns.description]:
            if name not in self.header:
                have = ", ".join(self.header)
                self._refuse(1, name, RowErrorCode.COLUMN_MISSING, f"the header has: {have}")
            elif self.header.count(name) > 1:
                self._refuse(1, name, RowErrorCode.COLUMN_REPEATED, "the name stands twice")
        return not self.errors

    def read_row(self, line: int, text: str) -> HistoryRow | None:
        """Return the row, or None after every error of it was listed."""
        values = self._values(line, text)
        if values is None:
            return None
        errors_before = len(self.errors)
        row = self._parse(line, values)
        return row if row is not None and len(self.errors) == errors_before else None

    def _values(self, line: int, text: str) -> dict[str, str] | None:
        if "\x00" in text:
            self._refuse(line, None, RowErrorCode.NUL_CHARACTER, "the row has a NUL character")
            return None
        try:
            fields = _split(text, self.map)
        except csv.Error as error:
            self._refuse(line, None, RowErrorCode.QUOTING_BROKEN, str(error))
            return None
        if len(fields) != len(self.header):
            detail = f"{len(fields)} fields, the header has {len(self.header)}"
            self._refuse(line, None, RowErrorCode.COLUMN_COUNT, detail)
            return None
        values = dict(zip(self.header, fields, strict=True))
        broken = next((name for name, value in values.items() if not _decoded(value)), None)
        if broken is not None:
            detail = f"not {self.map.file.encoding}"
            self._refuse(line, broken, RowErrorCode.UNDECODABLE, detail)
            return None
        return values

    def _parse(self, line: int, values: dict[str, str]) -> HistoryRow | None:
        columns = self.map.columns
        account = self._field(line, values, columns.account, self._account)
        date = self._field(line, values, columns.date, self._date)
        value_date = date
        if columns.value_date is not None:
            value_date = self._field(line, values, columns.value_date, self._date)
        signed = self._field(line, values, columns.amount, self._amount)
        mapped = self._mapped(line, values, signed)
        reference = self._field(line, values, columns.reference, _reference)
        stated = None
        if columns.stated_balance is not None:
            stated = self._field(line, values, columns.stated_balance, self._balance)
        description = self._description(line, values)
        if account is None or date is None or value_date is None:
            return None
        if signed is None or mapped is None or reference is None:
            return None
        if not self._is_new(line, reference):
            return None
        amount = abs(signed)
        grows = mapped.side == self.map.account.normal_side
        return HistoryRow(
            line=line,
            account=account,
            source_account=values[columns.account].strip(" "),
            business_date=date,
            value_date=value_date,
            business_type=mapped.business_type,
            side=mapped.side,
            amount_minor=amount,
            signed_minor=amount if grows else -amount,
            reference=reference,
            stated_minor=stated,
            description=description,
        )

    def _field(
        self, line: int, values: dict[str, str], column: str, parse: Callable[[str], Parsed]
    ) -> Parsed | None:
        text = values[column].strip(" ")
        if not text:
            self._refuse(line, column, RowErrorCode.VALUE_MISSING, "the field is empty")
            return None
        try:
            return parse(text)
        except FieldRefused as refused:
            self._refuse(line, column, refused.code, refused.detail)
            return None

    def _account(self, text: str) -> str:
        account = self.map.account.prefix + text
        if not ACCOUNT_PATTERN.fullmatch(account):
            detail = f"{account!r} is not 1 to 64 printable ASCII characters without spaces"
            raise FieldRefused(RowErrorCode.ACCOUNT_MALFORMED, detail)
        return account

    def _date(self, text: str) -> dt.date:
        known = self.date_of.get(text)
        if known is not None:
            return known
        form = self.map.dates.format
        try:
            date = dt.date(*time.strptime(text, form)[:3])
        except ValueError as error:
            raise FieldRefused(RowErrorCode.DATE_MALFORMED, str(error)) from error
        if date.strftime(form) != text:
            raise FieldRefused(RowErrorCode.DATE_MALFORMED, f"{text!r} is not exactly {form!r}")
        return self.date_of.setdefault(text, date)

    def _amount(self, text: str) -> int:
        amount = parse_minor(text, self.form)
        if amount == 0:
            raise FieldRefused(RowErrorCode.AMOUNT_ZERO, "an amount is positive")
        if self.map.amount.sign == "refused" and amount < 0:
            raise FieldRefused(RowErrorCode.AMOUNT_SIGN, f"{text!r}: the type says the side")
        return amount

    def _balance(self, text: str) -> int:
        return parse_minor(text, self.form)

    def _mapped(self, line: int, values: dict[str, str], signed: int | None) -> MappedType | None:
        if self.map.columns.type is None:
            return None if signed is None else self.map.types["+" if signed > 0 else "-"]
        return self._field(line, values, self.map.columns.type, self._type)

    def _type(self, text: str) -> MappedType:
        mapped = self.map.types.get(text)
        if mapped is None:
            known = ", ".join(sorted(self.map.types))
            raise FieldRefused(RowErrorCode.TYPE_UNKNOWN, f"{text!r}; the map knows: {known}")
        return mapped

    def _description(self, line: int, values: dict[str, str]) -> str | None:
        parts = [values[name].strip() for name in self.map.columns.description]
        description = " ".join(part for part in parts if part)
        if len(description) > DESCRIPTION_MAX:
            column = self.map.columns.description[0]
            detail = f"the description has more than {DESCRIPTION_MAX} characters"
            self._refuse(line, column, RowErrorCode.VALUE_TOO_LONG, detail)
        return description or None

    def _is_new(self, line: int, reference: str) -> bool:
        first = self.line_of_reference.setdefault(reference, line)
        if first == line:
            return True
        detail = f"{reference!r} already stands on line {first}"
        column = self.map.columns.reference
        self._refuse(line, column, RowErrorCode.REFERENCE_REPEATED, detail)
        return False

    def _refuse(self, line: int, column: str | None, code: RowErrorCode, detail: str) -> None:
        self.errors.append(CsvRowError(self.file, line, column, code, detail))


def _decoded(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _reference(text: str) -> str:
    if not REFERENCE_PATTERN.fullmatch(text):
        detail = f"{text!r} is not 1 to 64 printable ASCII characters without spaces"
        raise FieldRefused(RowErrorCode.REFERENCE_MALFORMED, detail)
    return text
