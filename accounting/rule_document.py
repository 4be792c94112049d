"""Posting rules as data: what a rule may say, read strictly and written canonically.

Invariant: `rule_document(read_rule(x))` is the same for every spelling of the same rule,
and reading it again gives the same rule.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import msgspec

from accounting.ruleset_errors import (
    Entry,
    Place,
    RuleError,
    Shape,
    field_errors,
    iso_date,
    string_list,
)

TAKE_KINDS = {"credit": ("credit",), "debit": ("debit", "capture"), "capture": ("capture",)}
NAME = re.compile(r"[a-z][a-z0-9_]*")
TERM = re.compile(r"\s*([+-])\s*([a-z][a-z0-9_]*)\s*")
PRESENCE = ("required", "optional")

RULE_SHAPES = {
    "id": Shape(str, required=True),
    "business_type": Shape(str, required=True),
    "effective_from": Shape(dt.date, required=True),
    "effective_to": Shape(dt.date),
    "description": Shape(str),
    "non_posting": Shape(bool),
    "must_post": Shape(bool),
    "amounts": Shape(dict),
    "lines": Shape(list),
    "vouchers": Shape(list),
}
TAKE_SHAPES = {"take": Shape(str, required=True), "subject": Shape(object), "as": Shape(str)}


class TakeLines(msgspec.Struct, frozen=True):
    """Every matching leg becomes a line on its own subject, account and side.

    `subjects` are branches of the chart; empty = every subject on the balance sheet.
    `name` is the sum of what was taken, for amount lines to use.
    """

    kind: str
    subjects: tuple[str, ...] = ()
    name: str | None = None

    @property
    def side(self) -> str:
        """Give the side of the lines: a capture is a debit from held money."""
        return "credit" if self.kind == "credit" else "debit"


class AmountLine(msgspec.Struct, frozen=True):
    """A line on a fixed subject; `terms` are signed names of taken sums and named amounts."""

    side: str
    subject: str
    terms: tuple[tuple[int, str], ...]

    @property
    def amount(self) -> str:
        """Write the terms as a person would: 'deposited - collected'."""
        words = [f"{'+' if sign > 0 else '-'} {name}" for sign, name in self.terms]
        return " ".join(words).removeprefix("+ ")


RuleLine = TakeLines | AmountLine


class Rule(msgspec.Struct, frozen=True):
    """How one business type is posted between two dates (both inclusive, ISO).

    `amounts` maps each named amount to whether it is required. `must_post`: an operation
    that leaves no line is parked; otherwise it is non-posting.
    """

    rule_id: str
    business_type: str
    effective_from: str
    effective_to: str | None = None
    description: str | None = None
    non_posting: bool = False
    must_post: bool = False
    amounts: dict[str, bool] = {}
    vouchers: tuple[tuple[RuleLine, ...], ...] = ()

    def is_effective(self, business_date: str) -> bool:
        """Tell whether the rule applies on a date."""
        return self.effective_from <= business_date and (
            self.effective_to is None or business_date <= self.effective_to
        )


def read_rule(entry: Entry) -> Rule | list[RuleError]:
    """Read one `[[rule]]` table; every finding of its shape is named."""
    raw, place = entry
    rule_id = str(raw.get("id", ""))
    errors = field_errors(entry, RULE_SHAPES, rule_id)
    if not errors:
        errors += _head_errors(raw, place, rule_id)
        amounts, wrong_amounts = _read_amounts(raw, place, rule_id)
        vouchers, wrong_lines = _read_vouchers(raw, place, rule_id)
        errors += wrong_amounts + wrong_lines
    if errors:
        return errors
    return Rule(
        rule_id=rule_id,
        business_type=raw["business_type"],
        effective_from=str(iso_date(raw["effective_from"])),
        effective_to=iso_date(raw.get("effective_to")),
        description=raw.get("description"),
        non_posting=raw.get("non_posting", False),
        must_post=raw.get("must_post", False),
        amounts=amounts,
        vouchers=vouchers,
    )


def rule_document(rule: Rule) -> dict[str, Any]:
    """Give the canonical content of a rule: defaults left out, one form for each thing."""
    document: dict[str, Any] = {
        "id": rule.rule_id,
        "business_type": rule.business_type,
        "effective_from": rule.effective_from,
    }
    if rule.effective_to is not None:
        document["effective_to"] = rule.effective_to
    if rule.description is not None:
        document["description"] = rule.description
    if rule.non_posting:
        document["non_posting"] = True
        return document
    if rule.must_post:
        document["must_post"] = True
    document["amounts"] = {
        name: "required" if required else "optional" for name, required in rule.amounts.items()
    }
    document["vouchers"] = [[_line_document(line) for line in lines] for lines in rule.vouchers]
    return document


def _line_document(line: RuleLine) -> dict[str, Any]:
    if isinstance(line, AmountLine):
        return {line.side: line.subject, "amount": line.amount}
    document: dict[str, Any] = {"take": line.kind}
    if line.subjects:
        document["subject"] = list(line.subjects)
    if line.name is not None:
        document["as"] = line.name
    return document


def _head_errors(raw: dict[str, Any], place: Place, rule_id: str) -> list[RuleError]:
    """Check what is not lines: the dates' order, and that the rule says exactly one thing."""
    errors: list[RuleError] = []
    start, end = iso_date(raw["effective_from"]), iso_date(raw.get("effective_to"))
    if start and end and end < start:
        message = f"effective_to {end} is before effective_from {start}"
        errors.append(place.at("effective_to").error(rule_id, "bad_date_range", message))
    bodies = [name for name in ("lines", "vouchers") if name in raw]
    if raw.get("non_posting") and (bodies or raw.get("amounts") or raw.get("must_post")):
        message = "a non-posting rule has no lines, vouchers, amounts or must_post"
        errors.append(place.error(rule_id, "non_posting_with_lines", message))
    if not raw.get("non_posting") and len(bodies) != 1:
        message = "a posting rule has either `lines` or `vouchers`"
        errors.append(place.error(rule_id, "no_lines" if not bodies else "two_bodies", message))
    return errors


def _read_amounts(
    raw: dict[str, Any], place: Place, rule_id: str
) -> tuple[dict[str, bool], list[RuleError]]:
    found: dict[str, bool] = {}
    errors: list[RuleError] = []
    for name, presence in sorted(raw.get("amounts", {}).items()):
        found[name] = presence == "required"
        if presence not in PRESENCE:
            message = f"amounts.{name}: expected 'required' or 'optional', got {presence!r}"
            errors.append(place.at("amounts", name).error(rule_id, "wrong_type", message))
        if not NAME.fullmatch(name):
            message = f"{name!r} is not a name of small letters, digits and _"
            errors.append(place.at("amounts", name).error(rule_id, "bad_name", message))
    return found, errors


def _read_vouchers(
    raw: dict[str, Any], place: Place, rule_id: str
) -> tuple[tuple[tuple[RuleLine, ...], ...], list[RuleError]]:
    if "lines" in raw:
        bodies = [(raw["lines"], place.at("lines"))]
    else:
        whole = place.at("vouchers")
        bodies = [(lines, whole.at(no)) for no, lines in enumerate(raw.get("vouchers", []))]
    found: list[tuple[RuleLine, ...]] = []
    errors: list[RuleError] = []
    for lines, at in bodies:
        if not isinstance(lines, list) or not lines:
            errors.append(at.error(rule_id, "no_lines", "a voucher has at least one line"))
            continue
        read = [_read_line(line, at.at(no), rule_id) for no, line in enumerate(lines)]
        errors += [line for line in read if isinstance(line, RuleError)]
        found.append(tuple(line for line in read if not isinstance(line, RuleError)))
    return tuple(found), errors


def _read_line(raw: object, place: Place, rule_id: str) -> RuleLine | RuleError:
    if not isinstance(raw, dict):
        return place.error(rule_id, "wrong_type", "a line is a table in braces")
    if "take" in raw:
        return _read_take(raw, place, rule_id)
    sides = [side for side in ("debit", "credit") if side in raw]
    if len(sides) != 1:
        message = "a line has exactly one of `take`, `debit` and `credit`"
        return place.error(rule_id, "bad_line", message)
    shapes = {sides[0]: Shape(str, required=True), "amount": Shape(str, required=True)}
    wrong = field_errors(Entry(raw, place), shapes, rule_id)
    if wrong:
        return wrong[0]
    terms = read_terms(raw["amount"])
    if terms is None:
        message = f"amount {raw['amount']!r} is not names joined by + and -"
        return place.at("amount").error(rule_id, "bad_amount", message)
    return AmountLine(sides[0], raw[sides[0]], terms)


def _read_take(raw: dict[str, Any], place: Place, rule_id: str) -> RuleLine | RuleError:
    wrong = field_errors(Entry(raw, place), TAKE_SHAPES, rule_id)
    if wrong:
        return wrong[0]
    subjects = string_list(raw["subject"]) if "subject" in raw else ()
    name = raw.get("as")
    if raw["take"] not in TAKE_KINDS:
        message = f"take {raw['take']!r} is not one of {', '.join(TAKE_KINDS)}"
        return place.at("take").error(rule_id, "bad_line", message)
    if subjects is None:
        message = "subject: expected a subject code or a list of them"
        return place.at("subject").error(rule_id, "wrong_type", message)
    if name is not None and not NAME.fullmatch(name):
        message = f"{name!r} is not a name of small letters, digits and _"
        return place.at("as").error(rule_id, "bad_name", message)
    return TakeLines(raw["take"], tuple(sorted(set(subjects))), name)


def read_terms(amount: str) -> tuple[tuple[int, str], ...] | None:
    """Read 'a + b - c' as signed names; None when it is anything else."""
    text = amount.strip()
    if not text.startswith(("+", "-")):
        text = f"+{text}"
    terms: list[tuple[int, str]] = []
    at = 0
    while at < len(text):
        match = TERM.match(text, at)
        if match is None:
            return None
        terms.append((1 if match[1] == "+" else -1, match[2]))
        at = match.end()
    return tuple(terms)
