"""What can be shown wrong about rules before any operation arrives.

Invariant: a rule refused here could never be right: it names something that is not there,
touches a controlled subject other than by legs, or cannot balance whatever the amounts.
What depends on the amounts is left to `voucher_for`, which parks it as `unbalanced`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from accounting.chart import Chart
from accounting.rule_document import TAKE_KINDS, AmountLine, Rule, RuleLine, TakeLines
from accounting.ruleset_errors import Place, RuleError

LocatedRule = tuple[Rule, Place]


def rule_errors(rules: Sequence[LocatedRule], chart: Chart) -> list[RuleError]:
    """Check the rules against the chart and against each other."""
    errors = _identity_errors(rules) + _overlap_errors(rules)
    for rule, place in rules:
        wrong = _subject_errors(rule, place, chart) + _name_errors(rule, place)
        if not wrong:
            wrong = _take_errors(rule, place, chart) + _balance_errors(rule, place, chart)
        errors += wrong
    return errors


def taken_subjects(take: TakeLines, chart: Chart) -> frozenset[str]:
    """Give the postable subjects whose legs a take accepts."""
    if not take.subjects:
        return chart.leaves - chart.off_balance
    return frozenset[str]().union(*(chart.leaves_under(code) for code in take.subjects))


def _identity_errors(rules: Sequence[LocatedRule]) -> list[RuleError]:
    seen: set[str] = set()
    errors: list[RuleError] = []
    for rule, place in rules:
        if rule.rule_id in seen:
            message = f"rule {rule.rule_id} is declared twice"
            errors.append(place.at("id").error(rule.rule_id, "duplicate_rule", message))
        seen.add(rule.rule_id)
    return errors


def _overlap_errors(rules: Sequence[LocatedRule]) -> list[RuleError]:
    """Refuse two rules of one business type that are effective on the same date."""
    errors: list[RuleError] = []
    ordered = sorted(rules, key=lambda r: (r[0].business_type, r[0].effective_from, r[0].rule_id))
    for (earlier, _), (later, place) in combinations(ordered, 2):
        same_type = earlier.business_type == later.business_type
        if same_type and earlier.is_effective(later.effective_from):
            message = (
                f"effective from {later.effective_from}, when {earlier.rule_id} for the same "
                f"business type {later.business_type} is effective too"
            )
            at = place.at("effective_from")
            errors.append(at.error(later.rule_id, "overlapping_rules", message))
    return errors


def _lines(rule: Rule, place: Place) -> Iterator[tuple[RuleLine, Place]]:
    """Walk all lines of all vouchers with their places (`lines` or `vouchers` form)."""
    for voucher_no, lines in enumerate(rule.vouchers):
        plain = (*place.path, "lines", 0) in place.lines
        body = place.at("lines") if plain else place.at("vouchers", voucher_no)
        for line_no, line in enumerate(lines):
            yield line, body.at(line_no)


def _subject_errors(rule: Rule, place: Place, chart: Chart) -> list[RuleError]:
    """Check every subject that a line names; controlled ones are posted by legs alone."""
    errors: list[RuleError] = []
    for line, at in _lines(rule, place):
        codes = line.subjects if isinstance(line, TakeLines) else (line.subject,)
        for code in codes:
            if code not in chart.subjects:
                message = f"subject {code} is not in the chart"
                errors.append(at.error(rule.rule_id, "dangling_subject", message))
            elif isinstance(line, AmountLine) and code not in chart.leaves:
                message = f"subject {code} is not a leaf: it cannot be posted to"
                errors.append(at.error(rule.rule_id, "subject_not_leaf", message))
            elif isinstance(line, AmountLine) and code in chart.controlled:
                message = f"subject {code} is controlled: only legs may post to it"
                errors.append(at.error(rule.rule_id, "amount_on_controlled", message))
    return errors


def _name_errors(rule: Rule, place: Place) -> list[RuleError]:
    """Check that each name is given once and each reference names something."""
    errors: list[RuleError] = []
    names = set(rule.amounts)
    for line, at in _lines(rule, place):
        if isinstance(line, TakeLines) and line.name is not None:
            if line.name in names:
                message = f"the name {line.name!r} is given twice"
                errors.append(at.error(rule.rule_id, "duplicate_name", message))
            names.add(line.name)
    for line, at in _lines(rule, place):
        if isinstance(line, AmountLine):
            for _, name in line.terms:
                if name not in names:
                    message = f"{name!r} is neither a named amount nor the `as` of a take"
                    errors.append(at.error(rule.rule_id, "unknown_amount", message))
    return errors


def _take_errors(rule: Rule, place: Place, chart: Chart) -> list[RuleError]:
    """Refuse takes that want the same legs, and takes that mix in single-entry subjects."""
    errors: list[RuleError] = []
    taken: dict[str, set[str]] = {}
    for line, at in _lines(rule, place):
        if not isinstance(line, TakeLines):
            continue
        subjects = taken_subjects(line, chart)
        for kind in TAKE_KINDS[line.kind]:
            both = subjects & taken.setdefault(kind, set())
            if both:
                message = f"{kind} legs on {min(both)} are taken by an earlier line too"
                errors.append(at.error(rule.rule_id, "overlapping_takes", message))
                break
            taken[kind] |= subjects
        if subjects & chart.off_balance and subjects - chart.off_balance:
            message = "one take mixes subjects on and off the balance sheet"
            errors.append(at.error(rule.rule_id, "mixed_take", message))
    return errors


def _balance_errors(rule: Rule, place: Place, chart: Chart) -> list[RuleError]:
    """Refuse a voucher whose debits - credits have one sign for all positive amounts.

    Each taken sum and named amount is an unknown > 0. If the difference is zero for all of
    them the voucher always balances; if all its terms have one sign it never does. That
    is asked twice: with every optional amount given, and with none.
    """
    for voucher_no, lines in enumerate(rule.vouchers):
        difference = _difference(lines, chart)
        optional = {name for name, required in rule.amounts.items() if not required}
        without = {name: n for name, n in difference.items() if name not in optional}
        for unknowns, when in ((difference, ""), (without, " when no optional amount is given")):
            signs = {n > 0 for n in unknowns.values()}
            if len(signs) == 1:
                side = "debits" if True in signs else "credits"
                message = (
                    f"voucher {voucher_no + 1} cannot balance{when}: "
                    f"{side} exceed by {' + '.join(_word(name) for name in sorted(unknowns))}"
                )
                return [place.error(rule.rule_id, "unbalanced_rule", message)]
    return []


def _difference(lines: Sequence[RuleLine], chart: Chart) -> dict[str, int]:
    """Add up debits - credits as a sum of unknowns, single-entry lines left out."""
    total: dict[str, int] = {}
    for line_no, line in enumerate(lines):
        if isinstance(line, TakeLines):
            if taken_subjects(line, chart) <= chart.off_balance:
                continue
            terms: tuple[tuple[int, str], ...] = ((1, line.name or f"#{line_no + 1}"),)
        elif line.subject in chart.off_balance:
            continue
        else:
            terms = line.terms
        for sign, name in terms:
            total[name] = total.get(name, 0) + (sign if line.side == "debit" else -sign)
    return {name: n for name, n in total.items() if n}


def _word(name: str) -> str:
    return f"the legs of line {name[1:]}" if name.startswith("#") else name
