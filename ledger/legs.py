"""Decide the legs of one operation: all pass, or the first rejection is the answer. Pure.

Invariant: nothing of an operation is applied while its legs are decided; a must-book inflow
is never refused: what its target cannot take goes to the book's suspense account, with an
issue for a person to clear.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account, LegContext, decide_leg, flow_of, moved
from ledger.buffers import (
    accepts,
    after_ms,
    buffer_number,
    buffer_opened,
    is_buffer,
    refuse_full,
    with_accepted,
)
from ledger.errors import Rejection, RejectionReason
from ledger.evolve import evolve
from ledger.money import AMOUNT_MAX
from ledger.stripes import (
    ENGINE_TYPES,
    decide_on_whole,
    is_engine_account,
    is_stripe,
    stripe_for,
    stripe_opened,
    whole_of,
)

ENGINE = "daybook"  # the principal of what the engine does by itself
SUSPENSE_PREFIX = "SUSPENSE-"  # numbers that begin so are opened by the engine alone
Lookup = Callable[[str], Account | None]


class Legs(msgspec.Struct, gc=False):
    """The legs of one operation as decided: heads after, events, what the record says.

    `due_at`: when the first of the buffers that it begins to fill is to be applied. `striped`:
    the accounts with stripes that it touched.
    """

    accounts: dict[str, Account]
    events: list[tuple[str, ev.AccountEvent]]
    booked: list[ev.BookedLeg]
    issues: list[ev.Issue]
    openers: dict[str, str]
    due_at: str | None = None
    striped: set[str] | None = None


class SuspenseOf(msgspec.Struct, frozen=True):
    """Whose suspense accounts: the book, and the subject they tie to."""

    book_id: str
    subject: str


def suspense_number(currency: str, ordinal: int = 1) -> str:
    """Return the number of the book's first, second … suspense account in a currency."""
    return f"{SUSPENSE_PREFIX}{currency}" + (f"-{ordinal}" if ordinal > 1 else "")


def decide_legs(
    requested: tuple[op.Leg, ...], context: LegContext, lookup: Lookup, suspense: SuspenseOf
) -> Legs | Rejection:
    """Decide legs in order, each on what the ones before it left; `lookup` finds heads."""
    legs = Legs({}, [], [], [], {})
    for leg_no, leg in enumerate(requested, start=1):
        account = legs.accounts.get(leg.account) or lookup(leg.account)
        if account is None:
            decision: ev.Moved | Rejection = Rejection(
                RejectionReason.UNKNOWN_ACCOUNT, leg_no, leg.account
            )
        else:
            if leg.hold_id is not None and leg.kind != "hold":
                hold = account.holds.get(leg.hold_id)
                if hold is not None and hold.operation_id != context.operation_id:
                    legs.openers[hold.operation_id] = leg.kind
            if account.type in ENGINE_TYPES and is_engine_account(account):
                decision = Rejection(RejectionReason.ENGINE_ACCOUNT, leg_no, leg.account)
            elif account.buffering is not None and accepts(account, leg, requested, context):
                account, decision = _accept(legs, account, leg, leg_no, context, lookup)
            elif account.striping is not None:
                account, decision = _spread(legs, account, leg, leg_no, requested, context, lookup)
            else:
                decision = decide_leg(account, leg, leg_no, context)
        if isinstance(decision, Rejection):
            if not goes_to_suspense(account, leg, context):
                return decision
            account = suspend(legs, leg, leg_no, context, decision, lookup, suspense)
        else:
            assert account is not None
            account = evolve(account, decision)
            legs.accounts[account.number] = account
            legs.events.append((account.number, decision))
        legs.booked.append(booked_leg(leg, leg_no, account))
    return legs


def booked_leg(leg: op.Leg, leg_no: int, account: Account) -> ev.BookedLeg:
    """Return the record of a leg on the account that took it, as it is afterwards."""
    return ev.BookedLeg(
        leg_no,
        leg.kind,
        account.number,
        account.type,
        account.subject,
        account.currency,
        leg.amount_minor,
        account.version,
        account.balance_minor,
        account.held_minor,
        account.normal_side,
        leg.hold_id,
        leg.part,
        None if account.number == leg.account else leg.account,
    )


def _accept(
    legs: Legs, account: Account, leg: op.Leg, leg_no: int, context: LegContext, lookup: Lookup
) -> tuple[Account, ev.Moved | Rejection]:
    """Decide a leg as its account could take it, then credit or debit its buffer account.

    Return the account that the leg is booked on with the event, or the account that refuses.
    """
    number = buffer_number(account.number)
    buffer = legs.accounts.get(number) or lookup(number)
    accepted = None if buffer is None else buffer.accepted
    whole = account
    if account.striping is not None:
        whole = whole_of(account, lambda each: legs.accounts.get(each) or lookup(each))
    decision = decide_leg(with_accepted(whole, accepted), leg, leg_no, context)
    if isinstance(decision, Rejection):
        return account, decision
    if buffer is not None and not is_buffer(buffer):  # opened by a caller, in the old days
        if account.striping is not None:
            return _spread(legs, account, leg, leg_no, (leg,), context, lookup)
        return account, decide_leg(account, leg, leg_no, context)
    full = refuse_full(account, buffer, leg, leg_no, context)
    if full is not None:
        return account, full
    if buffer is None:
        opening = buffer_opened(account, context, principal=ENGINE)
        legs.events.append((number, opening))
        buffer = evolve(None, opening)
    if accepted is None and account.buffering is not None:
        due = after_ms(context.booked_at, account.buffering.buffer_ms // 2)
        legs.due_at = due if legs.due_at is None else min(due, legs.due_at)
    return buffer, moved(buffer, leg, leg_no, context, account.number)


def _spread(
    legs: Legs,
    home: Account,
    leg: op.Leg,
    leg_no: int,
    requested: tuple[op.Leg, ...],
    context: LegContext,
    lookup: Lookup,
) -> tuple[Account, ev.Moved | Rejection]:
    """Decide a leg as the whole account takes it, then book it on the home or on a stripe.

    Return the account that the leg is booked on with the event, or the account that refuses.
    """

    def find(number: str) -> Account | None:
        return legs.accounts.get(number) or lookup(number)

    decision = decide_on_whole(home, leg, leg_no, context, find)
    if isinstance(decision, Rejection):
        return home, decision
    legs.striped = (legs.striped or set()) | {home.number}
    number = stripe_for(home, leg, leg_no, requested, context.operation_id)
    if number is None:
        return home, decision
    stripe = find(number)
    if stripe is None:
        opening = stripe_opened(home, number, context, principal=ENGINE)
        legs.events.append((number, opening))
        stripe = evolve(None, opening)
    elif not is_stripe(stripe):  # opened by a caller, in the old days
        return home, decision
    return stripe, moved(stripe, leg, leg_no, context, home.number)


def goes_to_suspense(account: Account | None, leg: op.Leg, context: LegContext) -> bool:
    """Tell whether the leg is an inflow that the outside world has already done."""
    if not context.business_type.must_book or leg.kind != "credit":
        return False
    return account is None or flow_of(account, leg.kind) == "in"


def suspend(
    legs: Legs,
    leg: op.Leg,
    leg_no: int,
    context: LegContext,
    why: Rejection,
    lookup: Lookup,
    suspense: SuspenseOf,
) -> Account:
    """Credit the suspense account instead; it is opened when the book has none yet."""
    account = _suspense_for(legs, leg, context, lookup, suspense)
    number = account.number
    event = ev.AccountCredited(
        number,
        context.operation_id,
        leg_no,
        context.business_type.code,
        leg.amount_minor,
        account.balance_minor,
        account.balance_minor + leg.amount_minor,
        account.held_minor,
        account.version + 1,
        max(context.business_date, account.business_date or ""),
        context.value_date,
        context.booked_at,
        leg.account,
    )
    legs.accounts[number] = evolve(account, event)
    legs.events.append((number, event))
    legs.issues.append(
        ev.Issue(
            "suspense",
            leg_no,
            number,
            leg.account,
            leg.amount_minor,
            leg.currency,
            why.reason,
        )
    )
    return legs.accounts[number]


def _suspense_for(
    legs: Legs, leg: op.Leg, context: LegContext, lookup: Lookup, suspense: SuspenseOf
) -> Account:
    """Return the first suspense account that can still count the amount, or open the next one."""
    for ordinal in itertools.count(1):
        number = suspense_number(leg.currency, ordinal)
        account = legs.accounts.get(number) or lookup(number)
        if account is None:
            opening = _suspense_opened(number, leg.currency, context, suspense)
            legs.events.append((number, opening))
            return evolve(None, opening)
        if account.credit_total_minor + leg.amount_minor <= AMOUNT_MAX:
            return account
    raise AssertionError("ordinals do not end")


def _suspense_opened(
    number: str, currency: str, context: LegContext, suspense: SuspenseOf
) -> ev.AccountOpened:
    return ev.AccountOpened(
        book_id=suspense.book_id,
        account=number,
        owner=ENGINE,
        type="suspense",
        subject=suspense.subject,
        currency=currency,
        normal_side="credit",
        version=1,
        business_date=context.business_date,
        booked_at=context.booked_at,
        principal=ENGINE,
        command_id=f"daybook:open:{number}",
    )
