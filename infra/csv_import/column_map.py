"""The column map: a TOML file that says what a bank's CSV columns mean.

Invariant: a map is validated whole before a row is read; an unknown key, a currency that
ISO 4217 does not have or a column that two rules contradict is refused by name.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from infra.csv_import.amounts import AmountFormat, parse_minor
from infra.csv_import.row_errors import FieldRefused
from ledger.errors import LedgerError
from ledger.money import EXPONENTS, is_currency

Word = Annotated[str, Meta(min_length=1, max_length=64)]
Character = Annotated[str, Meta(min_length=1, max_length=1)]
Side = Literal["credit", "debit"]


class ColumnMapRefused(LedgerError):
    """The column map is missing, unreadable or contradicts itself."""

    code = "column_map_refused"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the map: unknown keys are refused."""


class Source(_Section, frozen=True):
    """Where the rows come from; `name` is part of every operation id."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,40}$")]
    book: Word


class FileFormat(_Section, frozen=True):
    """How the bytes become fields. The default encoding takes UTF-8 with or without BOM."""

    delimiter: Character = ","
    quote: Character = '"'
    encoding: str = "utf-8-sig"


class Columns(_Section, frozen=True):
    """Header names. `type` is left out when the amount's sign says the side."""

    account: Word
    date: Word
    amount: Word
    reference: Word
    type: Word | None = None
    value_date: Word | None = None
    stated_balance: Word | None = None
    description: tuple[Word, ...] = ()


class DateFormat(_Section, frozen=True):
    """A `strptime` format that reads and writes the same text."""

    format: Word = "%Y-%m-%d"


class Amount(_Section, frozen=True):
    """How amounts are written. `sign = "side"`: the types are named "+" and "-"."""

    currency: Word
    decimals: Annotated[int, Meta(ge=0, le=4)]
    decimal_separator: Literal[".", ","] = "."
    thousands_separator: Literal["", ",", ".", " ", "'"] = ""
    sign: Literal["refused", "side"] = "refused"


class StatedBalance(_Section, frozen=True):
    """`rounding`: by how much the source's own balance steps may be off (its rounding)."""

    rounding: str = "0"


class MappedType(_Section, frozen=True):
    """What one value of the type column means."""

    business_type: Word
    side: Side


class AccountTemplate(_Section, frozen=True):
    """How the accounts of the file are opened. History must not be refused for funds."""

    type: Word
    subject: Word
    prefix: Annotated[str, Meta(max_length=32)] = ""
    normal_side: Side = "credit"
    credit_limit: Annotated[int, Meta(ge=0)] | Literal["unlimited"] = "unlimited"


class OwnerLookup(_Section, frozen=True):
    """Who owns an account: a second CSV of the same format, beside the imported file."""

    file: Word
    account: Word
    owner: Word
    where: dict[str, str] = {}


class ColumnMap(_Section, frozen=True):
    """A validated column map. Make one with `ColumnMap.load`."""

    source: Source
    columns: Columns
    amount: Amount
    types: dict[str, MappedType]
    account: AccountTemplate
    file: FileFormat = FileFormat()
    dates: DateFormat = field(name="date", default=DateFormat())
    stated_balance: StatedBalance = StatedBalance()
    owner: OwnerLookup | None = None

    @classmethod
    def load(cls, path_or_shipped_name: str | Path) -> ColumnMap:
        """Read a map by path, or a shipped one by its bare name ('berka')."""
        name = str(path_or_shipped_name)
        try:
            document = tomllib.loads(_text_of(name))
            column_map = msgspec.convert(document, cls)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ColumnMapRefused(f"{name}: {error}", file=name) from error
        contradiction = column_map.contradiction()
        if contradiction:
            raise ColumnMapRefused(f"{name}: {contradiction}", file=name)
        return column_map

    def for_book(self, book: str) -> ColumnMap:
        """Return the same map for another book."""
        source = msgspec.structs.replace(self.source, book=book)
        return msgspec.structs.replace(self, source=source)

    def contradiction(self) -> str | None:
        """Return what the types cannot say about the map, or None when it is sound."""
        amount = self.amount
        if not is_currency(amount.currency):
            return f"amount.currency: {amount.currency!r} is no ISO 4217 currency"
        if amount.decimals > EXPONENTS[amount.currency]:
            return f"amount.decimals: {amount.currency} has {EXPONENTS[amount.currency]}"
        if amount.decimal_separator == amount.thousands_separator:
            return "amount: decimal and thousands separator are the same character"
        return self._types_contradiction() or self._format_contradiction()

    @property
    def amount_format(self) -> AmountFormat:
        """How the amount and balance columns are read."""
        return AmountFormat(
            decimals=self.amount.decimals,
            exponent=EXPONENTS[self.amount.currency],
            decimal_separator=self.amount.decimal_separator,
            thousands_separator=self.amount.thousands_separator,
        )

    @property
    def rounding_minor(self) -> int:
        """The source's rounding step in minor units; written with a point in the map."""
        plain = AmountFormat(self.amount.decimals, EXPONENTS[self.amount.currency])
        return parse_minor(self.stated_balance.rounding, plain)

    def _types_contradiction(self) -> str | None:
        if self.amount.sign == "side":
            if self.columns.type is not None:
                return "columns.type and amount.sign = 'side' both say the side: keep one"
            if set(self.types) != {"+", "-"}:
                return "types: with amount.sign = 'side' exactly '+' and '-' are named"
        elif self.columns.type is None:
            return "columns.type is missing (or set amount.sign = 'side')"
        return None if self.types else "types: no type is mapped"

    def _format_contradiction(self) -> str | None:
        if self.file.delimiter == self.file.quote:
            return "file: delimiter and quote are the same character"
        try:
            "".encode(self.file.encoding)
        except LookupError:
            return f"file.encoding: {self.file.encoding!r} is unknown"
        try:
            if self.rounding_minor < 0:
                return "stated_balance.rounding is negative"
        except FieldRefused as refused:
            return f"stated_balance.rounding: {refused.detail}"
        return None


def shipped_maps() -> tuple[str, ...]:
    """Return the bare names of the maps that come with the product."""
    folder = resources.files("infra.csv_import") / "maps"
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def _text_of(name: str) -> str:
    if name in shipped_maps() and not Path(name).is_file():
        return (resources.files("infra.csv_import") / "maps" / f"{name}.toml").read_text("utf-8")
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        shipped = ", ".join(shipped_maps())
        why = getattr(error, "strerror", None) or str(error)
        raise ColumnMapRefused(f"{name}: {why} (shipped maps: {shipped})", file=name) from error
