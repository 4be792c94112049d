"""Buffered posting of hot accounts: which legs are accepted, when they are due. Pure.

A leg on an account with a buffering agreement is booked at once on the account's *buffer
account* `BUFFER-<number>` (same subject, currency and side; opened by the engine) and moved
to the account itself by the engine's own operation (`applying.py`). Invariant: an accepted
amount is an ordinary durable event; what waits on a buffer account is its balance, and the
sum of account and buffer account is what the account would have without buffering.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from copy import copy
from functools import lru_cache

from ledger import events as ev
from ledger.account import Accepted, Account, Buffering, LegContext, flow_of, instant_text
from ledger.business_types import BusinessType
from ledger.engine_accounts import opened_below
from ledger.errors import BufferFull, Rejection, RejectionReason
from ledger.money import AMOUNT_MAX
from ledger.operation import Leg

BUFFER = "buffer"  # the type of buffer accounts
BUFFER_PREFIX = "BUFFER-"  # numbers that begin so are opened by the engine alone
APPLY = BusinessType(code="buffer_apply", must_book=True, internal=True, returns_money=True)


def buffer_number(number: str) -> str:
    """Return the number of an account's buffer account."""
    return BUFFER_PREFIX + number


def is_buffer(account: Account) -> bool:
    """Tell whether the account is a buffer account, which the engine alone posts to."""
    return account.type == BUFFER and account.number.startswith(BUFFER_PREFIX)


def is_accepted(leg: ev.BookedLeg) -> bool:
    """Tell whether a booked leg waits on its account's buffer account."""
    intended = leg.intended_account
    return intended is not None and leg.account == buffer_number(intended)


def accepts(account: Account, leg: Leg, legs: Iterable[Leg], context: LegContext) -> bool:
    """Tell whether the leg is buffered: the agreement is valid and covers its direction.

    Booked at once are history and legs with a value date of their own (what is applied later
    as one sum could not keep their dates), and a leg that another one of the operation's
    `legs` may draw on.
    """
    agreed = account.buffering
    if agreed is None or not agreed.buffer_ms or leg.kind not in ("credit", "debit"):
        return False
    date = context.business_date
    if context.business_type.history or context.value_date != date:
        return False
    if date < (agreed.valid_from or "") or (agreed.valid_to is not None and date > agreed.valid_to):
        return False
    if any(each.kind != leg.kind for each in legs if each.account == leg.account):
        return False
    if flow_of(account, leg.kind) == "in":
        return True
    no_floor = account.credit_limit_minor is None
    return agreed.directions == "both" and no_floor and not account.limits


def with_accepted(account: Account, accepted: Accepted | None) -> Account:
    """Return the account as it will be when what waits has been applied."""
    if accepted is None:
        return account
    net = accepted.credits_minor - accepted.debits_minor
    ahead = copy(account)
    ahead.balance_minor += net if account.normal_side == "credit" else -net
    ahead.debit_total_minor += accepted.debits_minor
    ahead.credit_total_minor += accepted.credits_minor
    return ahead


def refuse_full(
    account: Account, buffer: Account | None, leg: Leg, leg_no: int, context: LegContext
) -> Rejection | None:
    """Push back: the buffer is too old (nobody applies it), too long, or cannot count so much.

    Raises `BufferFull` for business types that retry; those that return money always pass.
    """
    if buffer is None:
        return None
    counted = buffer.debit_total_minor + buffer.credit_total_minor + leg.amount_minor
    if counted > AMOUNT_MAX:
        return Rejection(RejectionReason.AMOUNT_OVERFLOW, leg_no, account.number)
    accepted, agreed, kind = buffer.accepted, account.buffering, context.business_type
    if accepted is None or agreed is None or kind.returns_money:
        return None
    overdue = context.booked_at > after_ms(accepted.since, 2 * agreed.buffer_ms)
    if not overdue and accepted.entries < agreed.entries_max:
        return None
    why = f"{accepted.entries} entries wait since {accepted.since}"
    if kind.when_busy == "fail" and not kind.must_book:
        return Rejection(RejectionReason.ACCOUNT_BUSY, leg_no, account.number, why)
    raise BufferFull(f"account {account.number}: {why}")


def due_at(accepted: Accepted, agreed: Buffering | None) -> str:
    """Return the instant from which what waits is applied: half the bound leaves time to do it."""
    return after_ms(accepted.since, 0 if agreed is None else agreed.buffer_ms // 2)


@lru_cache(maxsize=1_024)
def after_ms(instant: str, milliseconds: int) -> str:
    """Return an instant of the log, later by some milliseconds (asked for each accepted leg)."""
    at = dt.datetime.fromisoformat(instant)
    return instant_text(at + dt.timedelta(milliseconds=milliseconds))


def buffer_opened(account: Account, context: LegContext, *, principal: str) -> ev.AccountOpened:
    """Return the opening of an account's buffer account, with the account above it in the tree."""
    return opened_below(
        account,
        buffer_number(account.number),
        BUFFER,
        context,
        credit_limit_minor=None if account.credit_limit_minor is None else 0,
        principal=principal,
    )
