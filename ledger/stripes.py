"""Striping of hot accounts: one account, its inflows on n streams. Pure.

A credit of an account with stripes is booked on one of its *stripe accounts*
`STRIPE-<k>-<number>` (same subject, currency and side; opened by the engine); the account itself,
the *home*, keeps standing, holds, freezes, limits and all money out. Invariant: a leg is decided
on the *whole* account, home and stripes in one, which is what the account would be without
striping; a stripe is never below zero, and a home below zero has empty stripes.

What leaves a stripe is gathered to its home (`gathering.py`) and by nothing else, so the
turnovers of the whole are what came in less what was gathered.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import lru_cache

import msgspec

from ledger import events as ev
from ledger.account import Account, LegContext, decide_leg, flow_of
from ledger.buffers import BUFFER, is_buffer
from ledger.engine_accounts import opened_below
from ledger.errors import Rejection
from ledger.operation import Leg

STRIPE = "stripe"  # the type of stripe accounts
STRIPE_PREFIX = "STRIPE-"
# Numbers that begin so are opened by the engine alone.
STRIPE_NUMBER = re.compile(r"STRIPE-([1-9]|[1-5][0-9]|6[0-4])-")
ENGINE_TYPES = frozenset({BUFFER, STRIPE})
Find = Callable[[str], Account | None]


def stripe_number(number: str, stripe: int) -> str:
    """Return the number of an account's first, second … stripe account."""
    return f"{STRIPE_PREFIX}{stripe}-{number}"


def stripe_numbers(account: Account, above: int = 0) -> tuple[str, ...]:
    """Return the numbers of all stripe accounts that may hold money, those above one of them."""
    if account.striping is None:
        return ()
    return _stripe_numbers(account.number, above, account.striping.opened)


@lru_cache(maxsize=1_000)  # every leg on an account with stripes asks for them
def _stripe_numbers(number: str, above: int, opened: int) -> tuple[str, ...]:
    return tuple(stripe_number(number, each) for each in range(above + 1, opened + 1))


def is_stripe(account: Account) -> bool:
    """Tell whether the account is a stripe account, which the engine alone posts to."""
    if account.type != STRIPE or account.parent is None:
        return False
    return is_stripe_number(account.number, account.parent)


def is_stripe_number(number: str, home: str) -> bool:
    """Tell whether a number is that of a stripe account of `home`."""
    return number.startswith(STRIPE_PREFIX) and (
        number[len(STRIPE_PREFIX) :].partition("-")[2] == home
    )


def is_engine_account(account: Account) -> bool:
    """Tell whether the engine alone posts to an account: a buffer or a stripe account."""
    return is_buffer(account) or is_stripe(account)


def is_striped(leg: ev.BookedLeg) -> bool:
    """Tell whether a booked leg lies on a stripe of its account."""
    intended = leg.intended_account
    return intended is not None and is_stripe_number(leg.account, intended)


def stripes_of(account: Account, find: Find, above: int = 0) -> Iterator[Account]:
    """Return the stripe accounts that are there, in order, those above one of them."""
    home = account.number
    for number in stripe_numbers(account, above):
        stripe = find(number)
        if stripe is not None and stripe.parent == home and stripe.type == STRIPE:
            yield stripe


def whole_of(home: Account, find: Find) -> Account:
    """Return the account as it would be without striping; its version is the home's."""
    stripes = list(stripes_of(home, find))
    if not stripes:
        return home
    whole = copy(home)
    date = max([each.business_date or "" for each in stripes], default="")
    if date > (home.business_date or ""):
        whole.business_date = date
        whole.previous_balance_minor = home.balance_minor
        whole.day_debits_minor = whole.day_credits_minor = 0
    else:
        date = home.business_date or ""
    credit = home.normal_side == "credit"
    for stripe in stripes:
        whole.balance_minor += stripe.balance_minor
        today = stripe.business_date == date
        before = stripe.previous_balance_minor if today else stripe.balance_minor
        whole.previous_balance_minor += before
        net = stripe.balance_minor - before
        if credit:  # what was gathered is in the home's credits already
            whole.day_credits_minor += net
            whole.credit_total_minor += stripe.balance_minor
        else:
            whole.day_debits_minor += net
            whole.debit_total_minor += stripe.balance_minor
    return whole


def decide_on_whole(
    home: Account, leg: Leg, leg_no: int, context: LegContext, find: Find
) -> ev.Moved | Rejection:
    """Decide a leg as the whole account takes it; return the event of its home."""
    whole = whole_of(home, find)
    decision = decide_leg(whole, leg, leg_no, context)
    if isinstance(decision, Rejection) or whole is home:
        return decision
    moved_minor = decision.balance_minor - decision.balance_before_minor
    return msgspec.structs.replace(
        decision,
        balance_before_minor=home.balance_minor,
        balance_minor=home.balance_minor + moved_minor,
    )


def stripe_for(
    home: Account, leg: Leg, leg_no: int, legs: Iterable[Leg], operation_id: str
) -> str | None:
    """Return the number of the stripe account that takes a leg; None: the home itself does.

    The home takes what goes out, what comes in while it is below zero, and an inflow on which
    another one of the operation's `legs` may draw. Any process says the same stripe.
    """
    striping = home.striping
    if striping is None or not striping.stripes or flow_of(home, leg.kind) != "in":
        return None
    if home.balance_minor < 0:
        return None
    if any(each.kind != leg.kind for each in legs if each.account == leg.account):
        return None
    place = zlib.crc32(f"{operation_id}:{leg_no}".encode()) % striping.stripes
    return stripe_number(home.number, place + 1)


def stripe_opened(
    home: Account, number: str, context: LegContext, *, principal: str
) -> ev.AccountOpened:
    """Return the opening of one of an account's stripe accounts, below it in the tree."""
    return opened_below(home, number, STRIPE, context, credit_limit_minor=0, principal=principal)


def date_of(account: Account, open_date: str, find: Find) -> str:
    """Return the day that the engine's own operation on an account falls on."""
    if account.striping is not None:
        account = whole_of(account, find)
    return max(open_date, account.business_date or "")


def wholes(accounts: Iterable[Account], homes: Iterable[str], find: Find) -> Iterator[Account]:
    """Return what an answer says of touched accounts: those with stripes as one each."""
    striped = dict.fromkeys(homes)
    for account in accounts:
        if account.number not in striped and not is_stripe(account):
            yield account
    for number in striped:
        home = find(number)
        assert home is not None
        yield whole_of(home, find)
