"""Reasons against an operation as a whole, before its legs are decided one by one. Pure.

Invariant: of several reasons the first declared in `RejectionReason` is the answer. What can be
said of every leg at once (accounts, currencies, dates) is compared over the whole operation;
standing, holds, limits and funds depend on the legs before and are the first leg's that fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ledger import operation as op
from ledger.account import LegContext
from ledger.business_types import BusinessType
from ledger.errors import Rejection, RejectionReason
from ledger.legs import Lookup, goes_to_suspense
from ledger.stripes import is_engine_account, whole_of

R = RejectionReason
_ORDER = {reason: place for place, reason in enumerate(R)}
_OUT = ("debit", "capture")


def duplicate_refusal(kind: BusinessType, legs: Sequence[op.Leg]) -> Rejection | None:
    """Refuse an account on both sides where money must change hands (`distinct_accounts`)."""
    if not kind.distinct_accounts or len({leg.account for leg in legs}) == len(legs):
        return None
    paying = {leg.account for leg in legs if leg.kind in _OUT}
    for leg_no, leg in enumerate(legs, start=1):
        if leg.kind == "credit" and leg.account in paying:
            return Rejection(R.DUPLICATE_ACCOUNT, leg_no, leg.account)
    return None


def dates_refusal(
    kind: BusinessType, operation: op.Operation, business_date: str, closed_through: str | None
) -> Rejection | None:
    """Refuse a date where none may be said, none where it must be, and a closed one."""
    if operation.business_date is None and not kind.history:
        return None
    if operation.business_date is None:
        return Rejection(R.HISTORY_ONLY, detail="history needs its business_date")
    if not kind.history:
        return Rejection(R.NOT_HISTORY, detail="only history states its business_date")
    if closed_through is not None and business_date <= closed_through:
        return Rejection(R.DATE_CLOSED, detail=f"closed through {closed_through}")
    return None


def first_declared(
    found: Rejection, legs: tuple[op.Leg, ...], context: LegContext, lookup: Lookup
) -> Rejection:
    """Return what was found, or a reason of any leg that is declared before it."""
    of_legs = _reasons_of_legs(legs, context, lookup)
    return min((found, *of_legs), key=lambda rejection: _ORDER[rejection.reason])


def _reasons_of_legs(
    legs: tuple[op.Leg, ...], context: LegContext, lookup: Lookup
) -> Iterator[Rejection]:
    for leg_no, leg in enumerate(legs, start=1):
        account = lookup(leg.account)
        if account is not None and account.striping is not None:
            account = whole_of(account, lookup)
        if goes_to_suspense(account, leg, context):
            continue
        if account is None:
            yield Rejection(R.UNKNOWN_ACCOUNT, leg_no, leg.account)
        elif is_engine_account(account):
            yield Rejection(R.ENGINE_ACCOUNT, leg_no, leg.account)
        elif account.currency != leg.currency:
            yield Rejection(R.CURRENCY_MISMATCH, leg_no, leg.account)
        elif account.business_date is not None and context.business_date < account.business_date:
            yield Rejection(R.DATE_BEFORE_ACCOUNT, leg_no, leg.account)
    duplicate = duplicate_refusal(context.business_type, legs)
    if duplicate is not None:
        yield duplicate
