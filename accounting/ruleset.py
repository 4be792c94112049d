"""A ruleset: one chart and its posting rules, published as a whole and known by its hash.

Invariant: the hash is of the canonical content alone. Formatting, key order, comments and
the split into files do not change it; any change of meaning does. A ruleset read back from
the log gives the same vouchers as on the day it was published.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from accounting.chart import (
    Chart,
    chart_errors,
    chart_from_document,
    read_settings,
    read_subjects,
)
from accounting.rule_checks import LocatedRule, rule_errors, taken_subjects
from accounting.rule_document import TAKE_KINDS, Rule, TakeLines, read_rule, rule_document
from accounting.ruleset_errors import Entry, Place, RuleError
from accounting.shapes import AmountStep, PostingPlan, Step, TakeStep
from ledger.money import EXPONENTS

DOCUMENT_FORMAT = 1


class InvalidRulesetError(ValueError):
    """A document is not a ruleset; `errors` says why."""

    def __init__(self, errors: Sequence[RuleError]) -> None:
        """Keep the findings; the text shows the first."""
        super().__init__(str(errors[0]) if errors else "not a ruleset")
        self.errors = tuple(errors)


class Ruleset:
    """A chart and rules ready for `voucher_for`: validated, hashed, compiled once."""

    def __init__(self, version: str, chart: Chart, rules: Iterable[Rule]) -> None:
        """Compile; the caller has validated (`build_ruleset`) or read what was."""
        self.version = version
        self.chart = chart
        self.rules = tuple(sorted(rules, key=lambda rule: rule.rule_id))
        self.currencies = frozenset(chart.settings.currencies or EXPONENTS)
        self.hash = document_hash(self.to_document())
        self._plans: dict[str, list[PostingPlan]] = {}
        for rule in sorted(self.rules, key=lambda rule: rule.effective_from, reverse=True):
            self._plans.setdefault(rule.business_type, []).append(_plan(rule, chart))

    def plan_on(self, business_type: str, business_date: str) -> PostingPlan | None:
        """Give the rule effective for a business type on a date."""
        for plan in self._plans.get(business_type, ()):
            if plan.rule.is_effective(business_date):
                return plan
        return None

    def business_types(self) -> list[str]:
        """List the business types that have a rule on some date."""
        return sorted(self._plans)

    def to_document(self) -> dict[str, Any]:
        """Give the canonical content: JSON-able, what is published into the log."""
        return {
            "format": DOCUMENT_FORMAT,
            "version": self.version,
            "chart": self.chart.to_document(),
            "rules": [rule_document(rule) for rule in self.rules],
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Ruleset:
        """Read published content back, without judging it by today's checks.

        Raises InvalidRulesetError when the content has not the shape of a ruleset.
        """
        place = Place("document")
        if document.get("format") != DOCUMENT_FORMAT:
            message = f"unknown ruleset format {document.get('format')!r}"
            raise InvalidRulesetError([place.error("", "unknown_format", message)])
        try:
            chart = chart_from_document(document["chart"])
            read = [read_rule(Entry(raw, place.at("rule"))) for raw in document["rules"]]
            version = str(document["version"])
        except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
            message = f"not the shape of a ruleset: {error}"
            raise InvalidRulesetError([place.error("", "wrong_type", message)]) from error
        errors = [error for rule in read if isinstance(rule, list) for error in rule]
        if errors:
            raise InvalidRulesetError(errors)
        return cls(version, chart, [rule for rule in read if isinstance(rule, Rule)])


def build_ruleset(
    version: str, settings: Entry, subjects: Sequence[Entry], rules: Sequence[Entry]
) -> Ruleset | list[RuleError]:
    """Validate raw chart and rules as a whole; every finding, in order of place."""
    chart_settings, errors = read_settings(settings)
    found, wrong_subjects = read_subjects(subjects)
    errors += wrong_subjects
    errors += chart_errors(found, chart_settings, settings)
    located: list[LocatedRule] = []
    for entry in rules:
        rule = read_rule(entry)
        if isinstance(rule, list):
            errors += rule
        else:
            located.append((rule, entry.place))
    if errors:
        return _in_order(errors)
    chart = Chart([subject for subject, _ in found], chart_settings)
    errors = rule_errors(located, chart)
    if errors:
        return _in_order(errors)
    return Ruleset(version, chart, [rule for rule, _ in located])


def ruleset_from_content(document: dict[str, Any]) -> Ruleset | list[RuleError]:
    """Validate a document that is about to be published (not one that already was)."""
    place = Place("document")
    chart, rules = document.get("chart"), document.get("rules")
    version = document.get("version")
    if not isinstance(chart, dict) or not isinstance(rules, list) or not isinstance(version, str):
        message = "a ruleset has a version, a chart and rules"
        return [place.error("", "wrong_type", message)]
    subjects = chart.get("subjects", [])
    if not isinstance(subjects, list) or not all(isinstance(x, dict) for x in subjects + rules):
        return [place.error("", "wrong_type", "subjects and rules are lists of tables")]
    settings = {name: value for name, value in chart.items() if name != "subjects"}
    return build_ruleset(
        version,
        Entry(settings, place.at("chart")),
        [Entry(raw, place.at("subject", no)) for no, raw in enumerate(subjects)],
        [Entry(raw, place.at("rule", no)) for no, raw in enumerate(rules)],
    )


def document_hash(document: dict[str, Any]) -> str:
    """Hash canonical content: SHA-256 of JSON with sorted keys and no spaces."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _in_order(errors: Iterable[RuleError]) -> list[RuleError]:
    return sorted(errors, key=lambda e: (e.file, e.line, e.rule, e.code, e.message))


def _plan(rule: Rule, chart: Chart) -> PostingPlan:
    """Compile a rule: every (leg kind, subject) resolved to its takes beforehand."""
    buckets: dict[tuple[str, str], tuple[int, ...]] = {}
    redirected: dict[str, tuple[int, ...]] = {}
    names: list[str | None] = []
    vouchers: list[tuple[Step, ...]] = []
    for lines in rule.vouchers:
        steps: list[Step] = []
        for line in lines:
            if isinstance(line, TakeLines):
                bucket = len(names)
                names.append(line.name)
                for kind in TAKE_KINDS[line.kind]:
                    redirected.setdefault(kind, (bucket,))
                    for code in taken_subjects(line, chart):
                        buckets[kind, code] = (*buckets.get((kind, code), ()), bucket)
                steps.append(TakeStep(bucket))
            else:
                off_balance = line.subject in chart.off_balance
                steps.append(AmountStep(line.side, line.subject, line.terms, off_balance))
        vouchers.append(tuple(steps))
    required = tuple(name for name, is_required in rule.amounts.items() if is_required)
    return PostingPlan(rule, required, buckets, redirected, tuple(names), tuple(vouchers), {})
