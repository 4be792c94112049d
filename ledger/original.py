"""An original operation as the ledger sees it when something follows it: refund, stage, …

Pure. Invariant: the sum of refunds per funding part never exceeds that part. A funding part
is a debit or capture leg of the original (a credit leg, when it has no debit), known by the
leg's `part` or else its account number. The cumulative sums stand in the last
`OperationFollowed` row of the original's stream, whose version guards them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from ledger.business_types import STAGE_AFTER, BusinessType, BusinessTypes, Stage
from ledger.errors import Rejection, RejectionReason
from ledger.events import (
    BookedLeg,
    LedgerEvent,
    OperationBooked,
    OperationFollowed,
    OperationRejected,
)
from ledger.operation import Operation

R = RejectionReason


class Part(msgspec.Struct, frozen=True, gc=False):
    """One funding part: how much, and the leg kind that gives it back."""

    currency: str
    amount_minor: int
    refund_kind: str


class Original(msgspec.Struct, frozen=True):
    """An operation that is there to be followed, and what has followed it so far."""

    operation_id: str
    parts: dict[str, Part]
    holds: tuple[tuple[str, str], ...]
    refunded: dict[str, int]
    stage: Stage | None
    version: int
    booked: bool = True


def known_original(
    first: LedgerEvent, last: OperationFollowed | None, version: int, types: BusinessTypes
) -> Original | None:
    """Return what an operation's first row and, if any, its last make of it as an original.

    One that was rejected is known, but not booked; an account's command is no original.
    """
    if isinstance(first, OperationRejected):
        return Original(first.operation_id, {}, (), {}, None, version, booked=False)
    if isinstance(first, OperationBooked):
        return original_of(first, last, version, types)
    return None


def original_of(
    booked: OperationBooked, last: OperationFollowed | None, version: int, types: BusinessTypes
) -> Original:
    """Return the original made from its first row and, if any, its last."""
    kind = types.types.get(booked.business_type)
    return Original(
        booked.operation_id,
        _parts(booked.legs),
        tuple((leg.account, leg.hold_id or "") for leg in booked.legs if leg.kind == "hold"),
        dict(last.refunded) if last is not None else {},
        _stage(last.stage if last is not None else None, kind),
        version,
    )


def _stage(followed: str | None, kind: BusinessType | None) -> Stage | None:
    if followed is not None:
        stage: Stage = msgspec.convert(followed, Stage)
        return stage
    return kind.stage if kind is not None else None


def _parts(legs: Iterable[BookedLeg]) -> dict[str, Part]:
    movements = [leg for leg in legs if leg.kind in ("debit", "capture", "credit")]
    paid = [leg for leg in movements if leg.kind != "credit"]
    refund_kind = "credit" if paid else "debit"
    parts: dict[str, Part] = {}
    for leg in paid or movements:
        name = part_name(leg.part, leg.intended_account or leg.account)
        before = parts[name].amount_minor if name in parts else 0
        parts[name] = Part(leg.currency, before + leg.amount_minor, refund_kind)
    return parts


def part_name(part: str | None, account: str) -> str:
    """Return the funding part a leg belongs to: named, or its account."""
    return part if part is not None else account


def refund_of(
    original: Original, legs: Iterable[tuple[int, str, str, str, int]]
) -> dict[str, int] | Rejection:
    """Return the refunded sums per part after a refund, or the first reason against it.

    `legs`: (leg number, kind, part name, currency, amount in minor units).
    """
    refunded = dict(original.refunded)
    kinds = {part.refund_kind for part in original.parts.values()}
    found = False
    for leg_no, kind, name, currency, amount_minor in legs:
        if kind not in kinds:
            continue
        found = True
        part = original.parts.get(name)
        if part is None or part.currency != currency:
            return Rejection(R.REFUND_PART_UNKNOWN, leg_no, None, name)
        refunded[name] = refunded.get(name, 0) + amount_minor
        if refunded[name] > part.amount_minor:
            left = part.amount_minor - original.refunded.get(name, 0)
            return Rejection(R.REFUND_EXCEEDS_PART, leg_no, None, f"{name}: {left} left")
    if not found:
        return Rejection(R.REFUND_PART_UNKNOWN, 0, None, "no leg gives a part back")
    return refunded


def refunded_after(
    original: Original | None, kind: BusinessType, operation: Operation
) -> dict[str, int] | Rejection:
    """Return the refunded sums per part after an operation, or the first reason against it."""
    if original is None:
        return {}
    if not kind.refund:
        return dict(original.refunded)
    return refund_of(
        original,
        [
            (no, leg.kind, part_name(leg.part, leg.account), leg.currency, leg.amount_minor)
            for no, leg in enumerate(operation.legs, start=1)
        ],
    )


def stage_refusal(original: Original, stage: Stage) -> Rejection | None:
    """Refuse a payout stage that does not follow from the original's."""
    if original.stage in STAGE_AFTER[stage]:
        return None
    return Rejection(R.PAYOUT_STAGE, 0, None, f"{original.stage} → {stage}")


def relation_of(
    kind: BusinessType, original: Original | None, openers: Mapping[str, str]
) -> str | None:
    """Return how an operation relates to its original, or to the first hold's opener."""
    if original is not None:
        if kind.refund:
            return "refund"
        if kind.correction:
            return "correction"
        if kind.stage is not None:
            return kind.stage
    if openers:
        return next(iter(openers.values()))
    return "reference" if original is not None else None
