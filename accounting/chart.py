"""The chart of accounts: a tree of subjects, validated as a whole before anything uses it.

Invariant: a `Chart` that came through `chart_errors` is a forest without cycles in which
a child has its parent's class, no branch is deeper than the named levels, and only
leaves are controlled or posted to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from accounting.ruleset_errors import Entry, RuleError, Shape, field_errors, string_list

CLASSES = ("asset", "liability", "common", "equity", "income", "expense", "off_balance")
OFF_BALANCE = "off_balance"
CODE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,31}")
LEVELS_SHIPPED = ("subject", "sub-subject", "detail")

SUBJECT_SHAPES = {
    "code": Shape(str, required=True),
    "name": Shape(str, required=True),
    "class": Shape(str, required=True),
    "parent": Shape(str),
    "controlled": Shape(bool),
}
CHART_SHAPES = {
    "levels": Shape(list),
    "suspense_subject": Shape(str),
    "currencies": Shape(list),
}


class Subject(msgspec.Struct, frozen=True, rename={"subject_class": "class"}, omit_defaults=True):
    """A node of the chart. `controlled`: its balance must equal the sum of ledger accounts."""

    code: str
    name: str
    subject_class: str
    parent: str | None = None
    controlled: bool = False


class ChartSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What belongs to the chart as a whole.

    `levels` names the depths allowed; `suspense_subject` is where redirected inflows lie;
    `currencies` restricts the books (empty = every ISO 4217 currency).
    """

    levels: tuple[str, ...] = LEVELS_SHIPPED
    suspense_subject: str | None = None
    currencies: tuple[str, ...] = ()


class Chart:
    """The validated tree with the answers that rules and sheets ask for."""

    def __init__(self, subjects: Iterable[Subject], settings: ChartSettings) -> None:
        """Index the tree once; the caller has validated it."""
        self.settings = settings
        self.subjects = {s.code: s for s in sorted(subjects, key=lambda s: s.code)}
        self.children: dict[str | None, list[str]] = {}
        for subject in self.subjects.values():
            self.children.setdefault(subject.parent, []).append(subject.code)
        self.leaves = frozenset(code for code in self.subjects if code not in self.children)
        self.controlled = frozenset(s.code for s in self.subjects.values() if s.controlled)
        self.off_balance = frozenset(
            s.code for s in self.subjects.values() if s.subject_class == OFF_BALANCE
        )

    def path(self, code: str) -> tuple[str, ...]:
        """Give the codes from the top of the tree down to `code`."""
        found: list[str] = []
        at: str | None = code
        while at is not None:
            found.append(at)
            at = self.subjects[at].parent
        return tuple(reversed(found))

    def level(self, code: str) -> int:
        """Give the depth of a subject; the top is level 1."""
        return len(self.path(code))

    def leaves_under(self, code: str) -> frozenset[str]:
        """Give the postable subjects of the branch that starts at `code`, itself included."""
        if code in self.leaves:
            return frozenset((code,))
        below = self.children.get(code, ())
        return frozenset[str]().union(*(self.leaves_under(child) for child in below))

    def in_order(self) -> list[Subject]:
        """List parents before their children, by code: the order of every sheet."""

        def branch(parent: str | None) -> list[Subject]:
            found: list[Subject] = []
            for code in self.children.get(parent, ()):
                found += [self.subjects[code], *branch(code)]
            return found

        return branch(None)

    def to_document(self) -> dict[str, Any]:
        """Give the canonical content: subjects by code, defaults left out."""
        settings = msgspec.to_builtins(self.settings)
        subjects = [msgspec.to_builtins(subject) for subject in self.subjects.values()]
        return {"levels": list(self.settings.levels), **settings, "subjects": subjects}


def chart_from_document(document: dict[str, Any]) -> Chart:
    """Read a published chart back; its shape is checked, its sense was when published."""
    subjects = msgspec.convert(document.get("subjects", []), list[Subject])
    settings = {name: value for name, value in document.items() if name != "subjects"}
    return Chart(subjects, msgspec.convert(settings, ChartSettings))


def read_settings(entry: Entry) -> tuple[ChartSettings, list[RuleError]]:
    """Read the `[chart]` table."""
    errors = field_errors(entry, CHART_SHAPES, "")
    for name in ("levels", "currencies"):
        if isinstance(entry.raw.get(name), list) and string_list(entry.raw[name]) is None:
            message = f"{name}: expected a list of strings"
            errors.append(entry.place.at(name).error("", "wrong_type", message))
    if errors:
        return ChartSettings(), errors
    currencies = tuple(sorted(entry.raw.get("currencies", ())))
    levels = tuple(entry.raw.get("levels", LEVELS_SHIPPED))
    return ChartSettings(levels, entry.raw.get("suspense_subject"), currencies), []


def read_subjects(entries: Sequence[Entry]) -> tuple[list[tuple[Subject, Entry]], list[RuleError]]:
    """Read the `[[subject]]` tables; a table with a wrong shape is left out and named."""
    found: list[tuple[Subject, Entry]] = []
    errors: list[RuleError] = []
    for entry in entries:
        code = str(entry.raw.get("code", ""))
        wrong = field_errors(entry, SUBJECT_SHAPES, code)
        if not wrong and not CODE_PATTERN.fullmatch(code):
            wrong = [entry.place.at("code").error(code, "bad_code", f"bad subject code {code!r}")]
        if not wrong and entry.raw["class"] not in CLASSES:
            message = f"class {entry.raw['class']!r} is not one of {', '.join(CLASSES)}"
            wrong = [entry.place.at("class").error(code, "unknown_class", message)]
        errors += wrong
        if not wrong:
            found.append((msgspec.convert(entry.raw, Subject), entry))
    return found, errors


def chart_errors(
    found: Sequence[tuple[Subject, Entry]], settings: ChartSettings, settings_entry: Entry
) -> list[RuleError]:
    """Validate the tree as a whole: duplicates, parents, cycles, classes, depth, control."""
    errors: list[RuleError] = []
    by_code: dict[str, Subject] = {}
    for subject, entry in found:
        if subject.code in by_code:
            message = f"subject {subject.code} is declared twice"
            errors.append(entry.place.error(subject.code, "duplicate_subject", message))
        by_code.setdefault(subject.code, subject)
    parents = {subject.parent for subject in by_code.values()}
    for subject, entry in found:
        errors += _subject_errors(subject, entry, by_code, len(settings.levels))
        if subject.controlled and subject.code in parents:
            message = f"{subject.code} is controlled but has subjects below it"
            errors.append(entry.place.error(subject.code, "controlled_not_leaf", message))
    suspense = settings.suspense_subject
    if suspense is not None and (suspense not in by_code or suspense in parents):
        message = f"suspense_subject {suspense} is not a leaf of the chart"
        place = settings_entry.place.at("suspense_subject")
        errors.append(place.error(suspense, "dangling_suspense", message))
    return errors


def _subject_errors(
    subject: Subject, entry: Entry, by_code: dict[str, Subject], level_max: int
) -> list[RuleError]:
    """Check one subject's way up to the top."""
    place = entry.place.at("parent")
    seen = [subject.code]
    at = subject
    while at.parent is not None:
        if at.parent == subject.code:
            way = " > ".join([*seen, subject.code])
            return [place.error(subject.code, "parent_cycle", f"parents form a cycle: {way}")]
        if at.parent in seen:
            return []  # above it there is a cycle, named at the subjects that form it
        if at.parent not in by_code:
            if at is not subject:
                return []  # named at the subject whose parent is missing
            message = f"parent {at.parent} is not in the chart"
            return [place.error(subject.code, "dangling_parent", message)]
        at = by_code[at.parent]
        seen.append(at.code)
    errors: list[RuleError] = []
    if len(seen) > level_max:
        message = f"level {len(seen)} is deeper than the {level_max} levels of the chart"
        errors.append(place.error(subject.code, "too_deep", message))
    if subject.parent is not None:
        parent = by_code[subject.parent]
        if parent.subject_class != subject.subject_class:
            message = (
                f"class {subject.subject_class} under {parent.code} of class {parent.subject_class}"
            )
            place = entry.place.at("class")
            errors.append(place.error(subject.code, "class_mismatch", message))
    return errors
