"""What an audit says: a verdict that names the first difference, and a digest kept outside.

Invariant: a difference names the check, the table, the row by its key, the column, what
should stand there and what does, so that a person can look at that one row.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import msgspec

Progress = Callable[[int, int], None]
ROW = "*"  # the column of a difference that is about the row as a whole
STREAM_BYTES = 16


class Difference(msgspec.Struct, frozen=True, omit_defaults=False):
    """The first thing that is not as it should be. `column` is `*` for a missing or extra row."""

    check: str
    table: str
    key: dict[str, Any]
    column: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        """Say it in one line."""
        key = ", ".join(f"{name}={value}" for name, value in self.key.items())
        return (
            f"{self.check}: {self.table} ({key}) column {self.column}: "
            f"expected {self.expected!r}, found {self.found!r}"
        )


class DifferenceFound(Exception):
    """Raised inside an audit, so that it ends at the first difference."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


class Verdict(msgspec.Struct, frozen=True):
    """What was read and whether it agrees. `checks` are those that passed, in order."""

    events: int
    commits: int
    accounts: int
    operations: int
    last_id: int
    booked_at: str
    checks: tuple[str, ...]
    notes: tuple[str, ...] = ()
    difference: Difference | None = None

    @property
    def passed(self) -> bool:
        """Tell whether nothing differs."""
        return self.difference is None


class Digest(msgspec.Struct, frozen=True):
    """The end of the log as it was seen once; kept outside, it proves a cut or rewritten log."""

    log_id: str
    incarnation: int
    last_id: int
    seal: str
    booked_at: str
    hash: str = ""

    def content_hash(self) -> str:
        """Return the hash over the other fields: a digest copied wrongly is noticed."""
        text = f"{self.log_id}\x00{self.incarnation}\x00{self.last_id}\x00{self.seal}\x00"
        return hashlib.sha256(f"daybook-digest\x00{text}{self.booked_at}".encode()).hexdigest()

    def line(self) -> str:
        """Write the digest as one line of JSON."""
        return msgspec.json.encode(self).decode()


class DigestUnreadable(ValueError):
    """The text is no digest, or not the one that was written down."""


def digest_from_line(text: str) -> Digest:
    """Read a digest back. Raises `DigestUnreadable`."""
    try:
        digest = msgspec.json.decode(text.encode(), type=Digest)
    except msgspec.MsgspecError as error:
        raise DigestUnreadable(f"no digest: {error}") from error
    if digest.hash != digest.content_hash():
        raise DigestUnreadable("the digest's own hash does not fit: it was copied wrongly")
    return digest


def differ(
    check: str, table: str, key: Mapping[str, Any], column: str, expected: Any, found: Any
) -> NoReturn:
    """End the audit with this difference."""
    shown = {name: _shown(value) for name, value in key.items()}
    raise DifferenceFound(Difference(check, table, shown, column, _shown(expected), _shown(found)))


def compare_row(
    check: str,
    table: str,
    columns: Sequence[str],
    keys: int,
    expected: Sequence[Any] | None,
    found: Sequence[Any] | None,
) -> None:
    """Compare a row with what it should be; None = no such row. The key is its first columns."""
    if expected == found:
        return
    row = expected if found is None else found
    assert row is not None
    key = dict(zip(columns[:keys], row, strict=False))
    if expected is None:
        differ(check, table, key, ROW, None, dict(zip(columns, map(_shown, row), strict=True)))
    if found is None:
        differ(check, table, key, ROW, dict(zip(columns, map(_shown, row), strict=True)), None)
    for column, should, does in zip(columns, expected, found, strict=True):
        if should != does:
            differ(check, table, key, column, should, does)


def compare_table(
    check: str,
    table: str,
    columns: Sequence[str],
    keys: int,
    *,
    expected: dict[tuple[Any, ...], tuple[Any, ...]],
    found: Iterable[tuple[Any, ...]],
) -> None:
    """Compare a table's rows with all that should be there; `expected` (by key) is used up."""
    for row in found:
        want = expected.pop(row[:keys], None)
        if want != row:
            compare_row(check, table, columns, keys, want, row)
    if expected:
        compare_row(check, table, columns, keys, expected[min(expected)], None)


def _shown(value: Any) -> Any:
    """Show stream ids as UUIDs and other bytes as hex."""
    if isinstance(value, bytes):
        return str(uuid.UUID(bytes=value)) if len(value) == STREAM_BYTES else value.hex()
    return value
