"""Shapes: what all operations of one rule with the same legs and amounts have in common.

Which lines they get, and of which amounts each is the sum, is worked out once and remembered with
the rule's plan. Invariant: a shape depends on the plan and on sides, subjects, currencies and
names alone, never on an amount or an account; so it holds for every operation that has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from accounting.rule_document import Rule
from ledger.events import BookedLeg, NamedAmount

SHAPES_MAX = 1_000  # shapes of a rule
LEGS_MAX = 8  # longer ones come in too many shapes to be met again


class TakeStep(NamedTuple):
    """Make a line of each leg in one bucket."""

    bucket: int


class AmountStep(NamedTuple):
    """Make a line on a fixed subject for each currency of the signed sum."""

    side: str
    subject: str
    terms: tuple[tuple[int, str], ...]
    off_balance: bool


Step = TakeStep | AmountStep


class LineShape(NamedTuple):
    """What is fixed of a line. It copies the movement leg `leg`, or (-1) sums up `terms`.

    A term is a sign and which of the operation's movement legs, then named amounts, it is.
    `weight` is what the line counts for in the balance: 1, -1, or 0 off the balance sheet.
    """

    side: str
    subject: str
    currency: str
    off_balance: bool
    weight: int
    leg: int
    terms: tuple[tuple[int, int], ...]


class Shape(NamedTuple):
    """The lines of each voucher; `currencies` says how many have to balance in the largest."""

    vouchers: tuple[tuple[LineShape, ...], ...]
    currencies: int


ShapeKey = tuple[str | None, ...]


class PostingPlan(NamedTuple):
    """A rule made ready for the hot path.

    `buckets` maps (leg kind, subject) to every take that wants the leg, by number: exactly
    one in a valid ruleset. `redirected` maps a leg kind to the first take of that kind, for
    legs that were redirected to suspense. `names` gives each bucket's name, if any. `shapes`
    are those met so far.
    """

    rule: Rule
    required: tuple[str, ...]
    buckets: dict[tuple[str, str], tuple[int, ...]]
    redirected: dict[str, tuple[int, ...]]
    names: tuple[str | None, ...]
    vouchers: tuple[tuple[Step, ...], ...]
    shapes: dict[ShapeKey, Shape]


def key_of(moves: Sequence[BookedLeg], amounts: dict[str, NamedAmount]) -> ShapeKey:
    """Name a shape: side, subject and currency of the movement legs, names of the amounts."""
    key: list[str | None] = []
    for leg in moves:
        key += (leg.kind, leg.subject, leg.currency)
    if amounts:
        key.append(None)  # here the legs end
        for name, amount in amounts.items():
            key += (name, amount.currency)
    return tuple(key)


def shape_of(
    plan: PostingPlan,
    moves: Sequence[BookedLeg],
    amounts: dict[str, NamedAmount],
    off_balance: frozenset[str],
) -> Shape:
    """Work out a shape; every leg is known to be taken by exactly one bucket."""
    taken: list[list[int]] = [[] for _ in plan.names]
    named: dict[str, list[tuple[str, int]]] = {}  # name → currency and which leg or amount
    for which, (name, amount) in enumerate(amounts.items(), len(moves)):
        named.setdefault(name, []).append((amount.currency, which))
    for which, leg in enumerate(moves):
        bucket = (plan.buckets.get((leg.kind, leg.subject)) or plan.redirected[leg.kind])[0]
        taken[bucket].append(which)
        name_of_bucket = plan.names[bucket]
        if name_of_bucket is not None:
            named.setdefault(name_of_bucket, []).append((leg.currency, which))
    vouchers: list[tuple[LineShape, ...]] = []
    for steps in plan.vouchers:
        lines: list[LineShape] = []
        for step in steps:
            if isinstance(step, TakeStep):
                lines += (_leg_shape(moves[at], at, off_balance) for at in taken[step.bucket])
            else:
                lines += _amount_shapes(step, named)
        vouchers.append(tuple(lines))
    counts = [len({line.currency for line in lines if line.weight}) for lines in vouchers]
    return Shape(tuple(vouchers), max(counts, default=0))


def _leg_shape(leg: BookedLeg, which: int, off_balance: frozenset[str]) -> LineShape:
    """Copy a leg to a line: own subject, own side."""
    side = "credit" if leg.kind == "credit" else "debit"
    outside = leg.subject in off_balance
    weight = _weight(side, outside)
    return LineShape(side, leg.subject, leg.currency, outside, weight, which, ())


def _amount_shapes(step: AmountStep, named: dict[str, list[tuple[str, int]]]) -> list[LineShape]:
    """Give a signed sum a line for each currency that is in it."""
    terms: dict[str, list[tuple[int, int]]] = {}
    for sign, name in step.terms:
        for currency, which in named.get(name, ()):
            terms.setdefault(currency, []).append((sign, which))
    weight = _weight(step.side, step.off_balance)
    return [
        LineShape(
            step.side, step.subject, currency, step.off_balance, weight, -1, tuple(terms[currency])
        )
        for currency in sorted(terms)
    ]


def _weight(side: str, off_balance: bool) -> int:
    return 0 if off_balance else 1 if side == "debit" else -1
