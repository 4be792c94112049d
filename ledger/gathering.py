"""Gathering of stripes: the engine's own operation `daybook:gather:<account>:<version>`.

Pure. Invariant: it moves money from stripe accounts to their home and changes nothing of the whole
account, so it asks for no standing; `version` is the home's, so each is booked once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ledger import operation as op
from ledger.account import Account, LegContext, moved
from ledger.business_types import BusinessType
from ledger.evolve import evolve
from ledger.legs import ENGINE, Legs, booked_leg
from ledger.stripes import Find, stripes_of

PREFIX = "daybook:gather:"
GATHER = BusinessType(code="stripe_gather", must_book=True, internal=True, returns_money=True)
Taken = list[tuple[Account, int]]  # from which stripe, how much


def shortages(legs: Legs, find: Find) -> Iterator[tuple[Account, Taken]]:
    """Return the homes that these legs take below zero, and what lies on their stripes for it."""
    for number in sorted(legs.striped or ()):
        after = legs.accounts.get(number)
        home = find(number)
        if after is None or home is None or after.balance_minor >= 0:
            continue
        if taken := _in_order(home, -after.balance_minor, find):
            yield home, taken


def _in_order(home: Account, missing_minor: int, find: Find) -> Taken:
    """Return all that lies on the first stripes that have it: what is over pays the next debits."""
    taken: Taken = []
    for stripe in stripes_of(home, find):
        if missing_minor <= 0:
            break
        if stripe.balance_minor:
            taken.append((stripe, stripe.balance_minor))
            missing_minor -= stripe.balance_minor
    return taken


def left_behind(home: Account, stripes: int, find: Find) -> Taken:
    """Return what lies on the stripes above so many: all of it goes home."""
    above = stripes_of(home, find, stripes)
    return [(stripe, stripe.balance_minor) for stripe in above if stripe.balance_minor]


def decide_gathering(
    home: Account, taken: Sequence[tuple[Account, int]], date: str, booked_at: str
) -> tuple[op.Submission, LegContext, Legs]:
    """Return the operation that moves what is taken from stripes to their home, decided."""
    inward: op.LegKind = "credit" if home.normal_side == "credit" else "debit"
    outward: op.LegKind = "debit" if inward == "credit" else "credit"
    operation_id = f"{PREFIX}{home.number}:{home.version}"
    context = LegContext(operation_id, GATHER, date, date, booked_at)
    moves = [(stripe, outward, amount_minor) for stripe, amount_minor in taken]
    moves.append((home, inward, sum(amount_minor for _, amount_minor in taken)))
    legs = Legs({}, [], [], [], {}, striped={home.number})
    requested: list[op.Leg] = []
    for leg_no, (account, kind, amount_minor) in enumerate(moves, start=1):
        leg = op.Leg(kind, account.number, amount_minor, account.currency)
        event = moved(account, leg, leg_no, context)
        after = evolve(account, event)
        legs.accounts[after.number] = after
        legs.events.append((after.number, event))
        legs.booked.append(booked_leg(leg, leg_no, after))
        requested.append(leg)
    operation = op.Operation(GATHER.code, tuple(requested), operation_id)
    fingerprint = op.fingerprint_of(home.book_id, operation)
    return op.Submission(home.book_id, ENGINE, operation_id, fingerprint, operation), context, legs
