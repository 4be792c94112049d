"""The record of a booked operation, made from its legs as they were decided. Pure.

Invariant: what an answer says of an account with stripes is what it says of one without; on which
stripe a leg lies is in the leg.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account, LegContext
from ledger.job import touched_account
from ledger.legs import Legs, Lookup
from ledger.original import Original, relation_of
from ledger.stripes import wholes


def booked_record(
    submission: op.Submission,
    operation: op.Operation,
    context: LegContext,
    legs: Legs,
    original: Original | None,
    lookup: Lookup,
) -> ev.OperationBooked:
    """Return the permanent record of an operation whose legs have all passed."""
    heads: Iterable[Account] = legs.accounts.values()
    if legs.striped is not None:
        heads = wholes(heads, legs.striped, lambda n: legs.accounts.get(n) or lookup(n))
    kind = context.business_type
    original_id = operation.original_operation_id
    if original_id is None and legs.openers:
        original_id = next(iter(legs.openers))
    return ev.OperationBooked(
        submission.book_id,
        context.operation_id,
        kind.code,
        context.business_date,
        context.value_date,
        context.booked_at,
        submission.principal,
        submission.fingerprint,
        tuple(legs.booked),
        tuple([touched_account(account) for account in heads]),
        op.named_amounts(operation),
        operation.orders,
        original_id,
        relation_of(kind, original, legs.openers),
        operation.description,
        tuple(legs.issues),
        tuple([each for each in legs.openers if each != original_id]) if legs.openers else (),
    )


def add_totals(totals: dict[str, tuple[int, int]], legs: Iterable[ev.BookedLeg]) -> None:
    """Count an operation in the totals of its commit: by currency, how many and how much."""
    moved: dict[str, int] = {}
    for leg in legs:
        if leg.kind in ev.MOVEMENT_KINDS:
            moved[leg.currency] = moved.get(leg.currency, 0) + leg.amount_minor
    for currency, amount_minor in (moved or {"": 0}).items():
        count, amount_before = totals.get(currency, (0, 0))
        totals[currency] = (count + 1, amount_before + amount_minor)
