"""From one operation to its vouchers: the only place where double entry is made.

Invariant: each leg that moves money becomes exactly one line on its account's subject and
on its own side, or the operation is parked. So a controlled subject equals the sum of its
ledger accounts by construction. Same operation and same ruleset give the same outcome, for
ever: no clock, no I/O, no randomness.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from accounting.rule_document import Rule
from accounting.ruleset import Ruleset
from accounting.ruleset_errors import RuleError
from accounting.ruleset_files import load_ruleset
from accounting.shapes import LEGS_MAX, SHAPES_MAX, PostingPlan, Shape, key_of, shape_of
from accounting.voucher import Voucher, VoucherLine, currency_differences
from ledger.buffers import APPLY
from ledger.events import MOVEMENT_KINDS, BookedLeg, NamedAmount, OperationBooked
from ledger.gathering import GATHER
from ledger.money import AMOUNT_MAX

__all__ = [
    "NonPosting",
    "Parked",
    "ParkedReason",
    "Rule",
    "RuleError",
    "Ruleset",
    "Vouchered",
    "load_ruleset",
    "voucher_for",
]

# The rule ids of what the engine applied from a buffer account, or gathered from stripes.
ENGINE_RULES = {APPLY.code: "engine.apply", GATHER.code: "engine.gather"}


class ParkedReason(StrEnum):
    """Why an operation has no voucher yet, in the order in which they are looked for."""

    NO_RULE = "no_rule"
    UNKNOWN_CURRENCY = "unknown_currency"
    UNMAPPED_SUBJECT = "unmapped_subject"
    SUBJECT_NOT_POSTABLE = "subject_not_postable"
    MISSING_NAMED_AMOUNT = "missing_named_amount"
    UNKNOWN_NAMED_AMOUNT = "unknown_named_amount"
    LEG_NOT_COVERED = "leg_not_covered"
    LEG_COVERED_TWICE = "leg_covered_twice"
    NON_POSTING_MOVES_MONEY = "non_posting_moves_money"
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    NOTHING_TO_POST = "nothing_to_post"
    UNBALANCED = "unbalanced"
    CLOSED_PERIOD = "closed_period"


class Parked(msgspec.Struct, frozen=True, gc=False):
    """The operation waits for a person: the first reason that applies, and what it met."""

    reason: ParkedReason
    detail: str


class NonPosting(msgspec.Struct, frozen=True, gc=False):
    """The rule declares that there is nothing to post, or nothing was left to post."""

    rule_id: str
    ruleset_hash: str


Vouchered = tuple[Voucher, ...]


def voucher_for(
    operation: OperationBooked,
    ruleset: Ruleset,
    *,
    accounting_date: str | None = None,
    closed_through: str | None = None,
) -> Vouchered | NonPosting | Parked:
    """Make the vouchers of one operation, or say why there are none.

    The rule is the one effective on the operation's business date. `accounting_date` is the
    open day when a parked operation is repaired after the cut (default: the business date);
    an accounting date up to `closed_through` is parked as `closed_period`.
    """
    date = accounting_date or operation.business_date
    if operation.business_type in ENGINE_RULES:
        return _of_engine(operation, ruleset, date, closed_through)
    plan = ruleset.plan_on(operation.business_type, operation.business_date)
    if plan is None:
        detail = f"{operation.business_type} on {operation.business_date}"
        return Parked(ParkedReason.NO_RULE, detail)
    moves = [leg for leg in operation.legs if leg.kind in MOVEMENT_KINDS]
    if plan.rule.non_posting:
        return _non_posting_moved(moves) or NonPosting(plan.rule.rule_id, ruleset.hash)
    shape = _shape(operation, moves, plan, ruleset)
    if isinstance(shape, Parked):
        return shape
    bodies = _bodies(shape, moves, operation.amounts)
    if isinstance(bodies, Parked):
        return bodies
    if not bodies:
        if plan.rule.must_post:
            return Parked(ParkedReason.NOTHING_TO_POST, f"rule {plan.rule.rule_id}")
        return NonPosting(plan.rule.rule_id, ruleset.hash)
    return _vouchers(operation, plan.rule.rule_id, ruleset.hash, bodies, date, closed_through)


def _of_engine(
    operation: OperationBooked, ruleset: Ruleset, date: str, closed_through: str | None
) -> Vouchered | NonPosting | Parked:
    """Post what the engine applied or gathered; no ruleset needs a rule for it.

    Buffer, stripes and account are on one subject, so nothing moves there. What went to
    suspense instead is a line on either subject: each leg on its own side.
    """
    rule_id = ENGINE_RULES[operation.business_type]
    moves = [leg for leg in operation.legs if leg.kind in MOVEMENT_KINDS]
    if _non_posting_moved(moves) is None:
        return NonPosting(rule_id, ruleset.hash)
    parked = _unknown(operation, moves, ruleset)
    if parked is not None:
        return parked
    off_balance = ruleset.chart.off_balance
    lines = tuple(_leg_line(leg, no, off_balance) for no, leg in enumerate(moves, 1))
    unbalanced = _unbalanced([lines])
    if unbalanced is not None:
        return unbalanced
    return _vouchers(operation, rule_id, ruleset.hash, [lines], date, closed_through)


def _vouchers(
    operation: OperationBooked,
    rule_id: str,
    ruleset_hash: str,
    bodies: Sequence[tuple[VoucherLine, ...]],
    date: str,
    closed_through: str | None,
) -> Vouchered | Parked:
    """Date the vouchers; a date in a closed period parks them."""
    if closed_through is not None and date <= closed_through:
        return Parked(ParkedReason.CLOSED_PERIOD, f"{date} is closed through {closed_through}")
    book_id, source_id = operation.book_id, operation.operation_id
    business_date = None if date == operation.business_date else operation.business_date
    vouchers = [
        Voucher(
            book_id,
            source_id,
            ordinal,
            date,
            operation.business_type,
            rule_id,
            ruleset_hash,
            lines,
            None,
            business_date,
        )
        for ordinal, lines in enumerate(bodies, 1)
    ]
    return tuple(vouchers)


def _non_posting_moved(moves: Sequence[BookedLeg]) -> Parked | None:
    """Refuse to declare non-posting what changes a subject's balance."""
    net: dict[tuple[str, str], int] = {}
    for leg in moves:
        key = leg.subject, leg.currency
        signed_minor = leg.amount_minor if leg.kind == "credit" else -leg.amount_minor
        net[key] = net.get(key, 0) + signed_minor
    for (subject, currency), minor in sorted(net.items()):
        if minor:
            detail = f"subject {subject} moves by {minor} {currency}"
            return Parked(ParkedReason.NON_POSTING_MOVES_MONEY, detail)
    return None


def _shape(
    operation: OperationBooked, moves: Sequence[BookedLeg], plan: PostingPlan, ruleset: Ruleset
) -> Shape | Parked:
    """Find the operation's shape, or say why it is impossible to post.

    Only shapes in which nothing can be refused, as with most, are remembered.
    """
    amounts = operation.amounts
    key = key_of(moves, amounts)
    shape = plan.shapes.get(key)
    if shape is None:
        parked = _refused(operation, moves, plan, ruleset)
        if parked is not None:
            return parked
        shape = shape_of(plan, moves, amounts, ruleset.chart.off_balance)
        plain = all((leg.kind, leg.subject) in plan.buckets for leg in moves)
        if plain and len(moves) <= LEGS_MAX and len(plan.shapes) < SHAPES_MAX:
            plan.shapes[key] = shape
    return shape


def _refused(
    operation: OperationBooked, moves: Sequence[BookedLeg], plan: PostingPlan, ruleset: Ruleset
) -> Parked | None:
    """Look for what makes the operation impossible to post, in the order of the reasons."""
    return (
        _unknown(operation, moves, ruleset)
        or _amounts_refused(operation, plan)
        or _coverage_refused(moves, plan, ruleset)
    )


def _unknown(
    operation: OperationBooked, moves: Sequence[BookedLeg], ruleset: Ruleset
) -> Parked | None:
    """Check currencies, then that every leg's subject is in the chart, then postable."""
    known = ruleset.currencies
    for leg in moves:
        if leg.currency not in known:
            return Parked(ParkedReason.UNKNOWN_CURRENCY, leg.currency)
    for amount in operation.amounts.values():
        if amount.currency not in known:
            return Parked(ParkedReason.UNKNOWN_CURRENCY, amount.currency)
    chart = ruleset.chart
    for leg in moves:
        if leg.subject not in chart.subjects:
            return Parked(ParkedReason.UNMAPPED_SUBJECT, _leg_text(leg))
    for leg in moves:
        if leg.subject not in chart.leaves:
            return Parked(ParkedReason.SUBJECT_NOT_POSTABLE, _leg_text(leg))
    return None


def _amounts_refused(operation: OperationBooked, plan: PostingPlan) -> Parked | None:
    """Check the named amounts: none required is missing, none given would be forgotten."""
    for name in plan.required:
        if name not in operation.amounts:
            return Parked(ParkedReason.MISSING_NAMED_AMOUNT, name)
    unknown = operation.amounts.keys() - plan.rule.amounts.keys()
    return Parked(ParkedReason.UNKNOWN_NAMED_AMOUNT, min(unknown)) if unknown else None


def _coverage_refused(
    moves: Sequence[BookedLeg], plan: PostingPlan, ruleset: Ruleset
) -> Parked | None:
    """Check that every leg is wanted by exactly one take."""
    wanted = [(leg, _buckets_of(leg, plan, ruleset)) for leg in moves]
    for leg, buckets in wanted:
        if not buckets:
            return Parked(ParkedReason.LEG_NOT_COVERED, _leg_text(leg))
    for leg, buckets in wanted:
        if len(buckets) > 1:
            return Parked(ParkedReason.LEG_COVERED_TWICE, _leg_text(leg))
    return None


def _buckets_of(leg: BookedLeg, plan: PostingPlan, ruleset: Ruleset) -> tuple[int, ...]:
    """Find the takes that want a leg; one redirected to suspense counts as its intention."""
    found = plan.buckets.get((leg.kind, leg.subject))
    if found is not None:
        return found
    redirected = leg.intended_account is not None
    if redirected and leg.subject == ruleset.chart.settings.suspense_subject:
        return plan.redirected.get(leg.kind, ())
    return ()


def _bodies(
    shape: Shape, moves: Sequence[BookedLeg], amounts: dict[str, NamedAmount]
) -> list[tuple[VoucherLine, ...]] | Parked:
    """Write the lines of each voucher; vouchers without a line are left out.

    A signed sum of zero leaves no line, one below zero parks.
    """
    values: list[BookedLeg | NamedAmount] = [*moves, *amounts.values()]
    bodies: list[tuple[VoucherLine, ...]] = []
    doubtful = shape.currencies > 1
    for line_shapes in shape.vouchers:
        lines: list[VoucherLine] = []
        balance_minor = no = 0
        for side, subject, currency, off_balance, weight, which, terms in line_shapes:
            account: str | None = None
            if which >= 0:
                minor, account = moves[which].amount_minor, moves[which].account
            else:
                minor = 0
                for sign, at in terms:
                    minor += sign * values[at].amount_minor
                if not 0 <= minor <= AMOUNT_MAX:
                    detail = f"{side} {subject} would be {minor} {currency}"
                    return Parked(ParkedReason.AMOUNT_OUT_OF_RANGE, detail)
                if not minor:
                    continue
            no += 1
            balance_minor += weight * minor
            lines.append(VoucherLine(no, side, subject, currency, minor, account, off_balance))
        doubtful = doubtful or balance_minor != 0
        if lines:
            bodies.append(tuple(lines))
    return (_unbalanced(bodies) if doubtful else None) or bodies


def _unbalanced(bodies: Sequence[tuple[VoucherLine, ...]]) -> Parked | None:
    for ordinal, body in enumerate(bodies, 1):
        differences = currency_differences(body)
        for currency, minor in sorted(differences.items()) if differences else ():
            detail = f"voucher {ordinal}: debits - credits = {minor} {currency}"
            return Parked(ParkedReason.UNBALANCED, detail)
    return None


def _leg_line(leg: BookedLeg, line_no: int, off_balance: frozenset[str]) -> VoucherLine:
    """Copy a leg to a line: own subject, own account, own side."""
    side = "credit" if leg.kind == "credit" else "debit"
    return VoucherLine(
        line_no,
        side,
        leg.subject,
        leg.currency,
        leg.amount_minor,
        leg.account,
        leg.subject in off_balance,
    )


def _leg_text(leg: BookedLeg) -> str:
    return f"leg {leg.no}: {leg.kind} {leg.account} on subject {leg.subject}"
