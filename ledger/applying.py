"""Application of what was accepted: the engine's own operation `daybook:apply:<account>:<version>`.

Pure. Invariant: it empties the buffer account, and the account (or suspense) takes exactly
what leaves it, gross on each side: one sum of what came in, one of what went out. `version`
is the buffer account's, so each fill is applied once, by whichever engine comes first.

What the account cannot take any more: a credit goes to suspense with an issue; a debit has
been promised, so it is booked on the account in any standing, with an issue.
"""

from __future__ import annotations

import msgspec

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account, LegContext, moved
from ledger.buffers import APPLY
from ledger.errors import Rejection
from ledger.evolve import evolve
from ledger.legs import ENGINE, Legs, Lookup, SuspenseOf, booked_leg, goes_to_suspense, suspend
from ledger.stripes import decide_on_whole

PREFIX = "daybook:apply:"
BOOKED_ANYWAY = "booked_anyway"  # the issue's code: the account's standing was passed over
_OTHER: dict[op.LegKind, op.LegKind] = {"credit": "debit", "debit": "credit"}


class Application(msgspec.Struct, frozen=True):
    """What an application is decided on: the account, its buffer account, day and instant."""

    account: Account
    buffer: Account
    open_date: str
    booked_at: str


def decide_application(
    given: Application, lookup: Lookup, suspense: SuspenseOf
) -> tuple[op.Submission, LegContext, Legs]:
    """Return the operation that applies what waits, decided; nothing can stop it."""
    account, buffer = given.account, given.buffer
    requested = _requested(account, buffer)
    operation_id = f"{PREFIX}{account.number}:{buffer.version}"
    date = max(given.open_date, account.business_date or "", buffer.business_date or "")
    context = LegContext(operation_id, APPLY, date, date, given.booked_at)
    legs = Legs({}, [], [], [], {})
    if account.striping is not None:
        legs.striped = {account.number}
    for leg_no, leg in enumerate(requested, start=1):
        target = account if leg.account == account.number else buffer
        before = legs.accounts.get(leg.account, target)
        decision: ev.Moved | Rejection = moved(before, leg, leg_no, context)
        if target is account:
            decision = decide_on_whole(before, leg, leg_no, context, lookup)
        if isinstance(decision, Rejection) and goes_to_suspense(before, leg, context):
            found = suspend(legs, leg, leg_no, context, decision, lookup, suspense)
            legs.booked.append(booked_leg(leg, leg_no, found))
            continue
        if isinstance(decision, Rejection):
            legs.issues.append(_booked_anyway(leg, leg_no, decision))
            decision = moved(before, leg, leg_no, context)
        after = evolve(before, decision)
        legs.accounts[after.number] = after
        legs.events.append((after.number, decision))
        legs.booked.append(booked_leg(leg, leg_no, after))
    operation = op.Operation(APPLY.code, requested, operation_id)
    fingerprint = op.fingerprint_of(account.book_id, operation)
    submission = op.Submission(account.book_id, ENGINE, operation_id, fingerprint, operation)
    return submission, context, legs


def _requested(account: Account, buffer: Account) -> tuple[op.Leg, ...]:
    """Return the legs: what came in first, so that the account is never short in between."""
    accepted = buffer.accepted
    assert accepted is not None, "only what waits is applied"
    inward: op.LegKind = "credit" if account.normal_side == "credit" else "debit"
    sums = {"credit": accepted.credits_minor, "debit": accepted.debits_minor}
    return tuple(
        op.Leg(kind, number, sums[side], account.currency)
        for side in (inward, _OTHER[inward])
        if sums[side]
        for number, kind in ((buffer.number, _OTHER[side]), (account.number, side))
    )


def _booked_anyway(leg: op.Leg, leg_no: int, why: Rejection) -> ev.Issue:
    return ev.Issue(
        BOOKED_ANYWAY,
        leg_no,
        leg.account,
        leg.account,
        leg.amount_minor,
        leg.currency,
        why.reason,
    )
