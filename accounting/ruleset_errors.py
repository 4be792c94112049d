"""What is wrong with a chart or a rule, as data: file, rule, line, code, message.

Invariant: nothing here raises for user data; an error's line is the closest line known,
and 0 where the content has no file (a document read back from the log).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import msgspec

Path: TypeAlias = tuple[str | int, ...]


class RuleError(msgspec.Struct, frozen=True):
    """One finding. `rule` is the rule id or the subject code, "" when it has none yet."""

    file: str
    rule: str
    line: int
    code: str
    message: str

    def __str__(self) -> str:
        """Show as compilers do, so that editors jump to the line."""
        owner = f" {self.rule}:" if self.rule else ""
        return f"{self.file}:{self.line}:{owner} {self.message} [{self.code}]"


@dataclass(frozen=True)
class Place:
    """Where a piece of content stands: its file and its path in it, with the lines known."""

    file: str = ""
    lines: Mapping[Path, int] = field(default_factory=dict)
    path: Path = ()

    def at(self, *inside: str | int) -> Place:
        """Give the place of something inside this one."""
        return Place(self.file, self.lines, self.path + inside)

    def line(self) -> int:
        """Give the line of the longest known part of the path."""
        for length in range(len(self.path), 0, -1):
            found = self.lines.get(self.path[:length])
            if found is not None:
                return found
        return 0

    def error(self, rule: str, code: str, message: str) -> RuleError:
        """Make the finding that stands here."""
        return RuleError(self.file, rule, self.line(), code, message)


class Entry(NamedTuple):
    """One raw table of the content (a subject, a rule, a setting) and where it stands."""

    raw: dict[str, Any]
    place: Place


class Shape(NamedTuple):
    """What a field must be; dates are TOML dates or ISO strings."""

    type: type
    required: bool = False


def field_errors(entry: Entry, shapes: Mapping[str, Shape], rule: str) -> list[RuleError]:
    """Check one table's fields strictly: unknown, missing and wrong-typed ones."""
    errors: list[RuleError] = []
    for name, value in entry.raw.items():
        shape = shapes.get(name)
        place = entry.place.at(name)
        if shape is None:
            errors.append(place.error(rule, "unknown_field", f"unknown field {name!r}"))
        elif shape.type is dt.date:
            if iso_date(value) is None:
                errors.append(place.error(rule, "bad_date", f"{name}: {value!r} is not a date"))
        elif not isinstance(value, shape.type) or (value == "" and shape.type is str):
            message = f"{name}: expected {shape.type.__name__}, got {value!r}"
            errors.append(place.error(rule, "wrong_type", message))
    for name, shape in shapes.items():
        if shape.required and name not in entry.raw:
            errors.append(entry.place.error(rule, "missing_field", f"missing field {name!r}"))
    return errors


def iso_date(value: object) -> str | None:
    """Read a TOML date or an ISO string as 'YYYY-MM-DD'; None when it is neither."""
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, str) and len(value) == 10:
        try:
            return dt.date.fromisoformat(value).isoformat()
        except ValueError:
            return None
    return None


def string_list(value: object) -> tuple[str, ...] | None:
    """Read one string or a list of strings; None when it is neither, or empty."""
    if isinstance(value, str) and value:
        return (value,)
    if isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
        return tuple(value)
    return None
