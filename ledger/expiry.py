"""Expiry of holds: the engine's own operation `expire:<account>:<hold>:<opener>`. Pure.

Invariant (Rule: holds): a hold expires only by this event, only when it was opened with an
expiry, and with the batch's `booked_at`; the opener's id makes the operation id unique when
a hold id is used again later.
"""

from __future__ import annotations

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account, Hold, LegContext
from ledger.business_types import BusinessType
from ledger.evolve import evolve
from ledger.legs import ENGINE, Legs, booked_leg


def expired_holds(account: Account, booked_at: str) -> list[tuple[str, Hold]]:
    """Return the account's holds whose expiry has come, by hold id."""
    return [
        (hold_id, hold)
        for hold_id, hold in sorted(account.holds.items())
        if hold.expires_at is not None and hold.expires_at <= booked_at
    ]


def decide_expiry(
    account: Account,
    hold_id: str,
    hold: Hold,
    *,
    kind: BusinessType,
    date: str,
    booked_at: str,
) -> tuple[op.Submission, LegContext, Legs]:
    """Return the engine's operation that frees a hold's money, decided."""
    operation_id = f"expire:{account.number}:{hold_id}:{hold.operation_id}"
    event = ev.HoldExpired(
        account.number,
        operation_id,
        1,
        kind.code,
        hold.amount_minor,
        account.balance_minor,
        account.balance_minor,
        account.held_minor - hold.amount_minor,
        account.version + 1,
        date,
        date,
        booked_at,
        hold_id,
    )
    after = evolve(account, event)
    leg = op.Leg("release", account.number, hold.amount_minor, account.currency, hold_id)
    operation = op.Operation(kind.code, (leg,), operation_id)
    submission = op.Submission(
        account.book_id,
        ENGINE,
        operation_id,
        op.fingerprint_of(account.book_id, operation),
        operation,
    )
    legs = Legs(
        {account.number: after},
        [(account.number, event)],
        [booked_leg(leg, 1, after)],
        [],
        {hold.operation_id: "expired"},
        striped=None if account.striping is None else {account.number},
    )
    context = LegContext(operation_id, kind, date, date, booked_at)
    return submission, context, legs
