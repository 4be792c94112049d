"""evolve(account, event) → account: the fold that makes a head from a stream. Checks nothing.

Invariant: a head in the database equals the fold of all events of its stream; live posting,
audit and replay use this one function. It reads no clock: `booked_at` comes with the event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import msgspec

from ledger import events as ev
from ledger.account import Accepted, Account, Buffering, CreditTerms, Freeze, Hold, Limit, Striping
from ledger.buffers import APPLY, BUFFER, is_buffer
from ledger.codec import account_stream

_copy: Callable[[Account], Account] = attrgetter("__copy__")(Account)  # a fifth of copy.copy()


def opened(event: ev.AccountOpened) -> Account:
    """Return the account that its first event makes."""
    return Account(
        book_id=event.book_id,
        number=event.account,
        owner=event.owner,
        type=event.type,
        subject=event.subject,
        currency=event.currency,
        normal_side=event.normal_side,
        parent=event.parent,
        credit_limit_minor=event.credit_limit_minor,
        status="open",
        lost=False,
        payment_status=event.payment_status,
        partial_types=(),
        partial_amount_minor=None,
        reserve_minor=0,
        balance_minor=0,
        held_minor=0,
        frozen_minor=0,
        version=event.version,
        business_date=event.business_date,
        previous_balance_minor=0,
        day_debits_minor=0,
        day_credits_minor=0,
        debit_total_minor=0,
        credit_total_minor=0,
        whole_freezes=0,
        opened_at=event.booked_at,
        opened_by=event.principal,
        opened_date=event.business_date,
        stream_id=account_stream(event.book_id, event.account),
    )


def evolve(account: Account | None, event: ev.AccountEvent) -> Account:
    """Return the account after the event; `account` is None before `AccountOpened`."""
    if account is None:
        assert isinstance(event, ev.AccountOpened)
        return opened(event)
    after = _copy(account)
    advance(after, event)
    return after


def advance(account: Account, event: ev.AccountEvent) -> None:
    """Change an account in place: for a reader of the whole log, who keeps no earlier state."""
    account.version = event.version
    if event.business_date != account.business_date:
        # The day's first booking rolls yesterday's balance.
        account.business_date = event.business_date
        account.previous_balance_minor = account.balance_minor
        account.day_debits_minor = 0
        account.day_credits_minor = 0
    _EVOLVE[type(event)](account, event)


def fold(events: Iterable[ev.AccountEvent]) -> Account | None:
    """Return the account that a stream makes, None for an empty stream."""
    account: Account | None = None
    for event in events:
        account = evolve(account, event)
    return account


def _credited(after: Account, event: ev.AccountCredited) -> None:
    after.balance_minor = event.balance_minor
    after.day_credits_minor += event.amount_minor
    after.credit_total_minor += event.amount_minor
    if after.limits and after.normal_side != "credit":
        _use_limit(after, event)
    if after.type == BUFFER:
        _count_accepted(after, event, credit_minor=event.amount_minor)


def _debited(after: Account, event: ev.AccountDebited) -> None:
    after.balance_minor = event.balance_minor
    after.day_debits_minor += event.amount_minor
    after.debit_total_minor += event.amount_minor
    if after.limits and after.normal_side != "debit":
        _use_limit(after, event)
    if after.type == BUFFER:
        _count_accepted(after, event, debit_minor=event.amount_minor)


def _count_accepted(
    after: Account,
    event: ev.AccountCredited | ev.AccountDebited,
    *,
    debit_minor: int = 0,
    credit_minor: int = 0,
) -> None:
    """Keep what waits on a buffer account; its application takes all of it."""
    if not is_buffer(after):
        return
    if event.business_type == APPLY.code:
        after.accepted = None
        return
    before = after.accepted or Accepted(event.booked_at, 0, 0, 0)
    after.accepted = Accepted(
        before.since,
        before.entries + 1,
        before.debits_minor + debit_minor,
        before.credits_minor + credit_minor,
    )


def _held(after: Account, event: ev.AmountHeld) -> None:
    after.held_minor = event.held_minor
    hold = Hold(event.amount_minor, event.operation_id, event.payout, event.expires_at)
    after.holds = {**after.holds, event.hold_id: hold}
    if after.limits:
        _use_limit(after, event)


def _reduce_hold(after: Account, event: ev.HoldReleased | ev.HoldCaptured | ev.HoldExpired) -> None:
    after.held_minor = event.held_minor
    holds = dict(after.holds)
    hold = holds.pop(event.hold_id)
    left = hold.amount_minor - event.amount_minor
    if left:
        holds[event.hold_id] = msgspec.structs.replace(hold, amount_minor=left)
    after.holds = holds


def _captured(after: Account, event: ev.HoldCaptured) -> None:
    _reduce_hold(after, event)
    after.balance_minor = event.balance_minor
    after.day_debits_minor += event.amount_minor
    after.debit_total_minor += event.amount_minor


def _amount_frozen(after: Account, event: ev.AmountFrozen) -> None:
    after.frozen_minor = event.frozen_minor
    freeze = Freeze(event.amount_minor, event.authority, event.order_number, event.reason)
    after.freezes = {**after.freezes, event.freeze_id: freeze}


def _amount_unfrozen(after: Account, event: ev.AmountUnfrozen) -> None:
    after.frozen_minor = event.frozen_minor
    freezes = dict(after.freezes)
    freeze = freezes.pop(event.freeze_id)
    left = (freeze.amount_minor or 0) - event.amount_minor
    if left:
        freezes[event.freeze_id] = msgspec.structs.replace(freeze, amount_minor=left)
    after.freezes = freezes


def _use_limit(
    after: Account, event: ev.AccountCredited | ev.AccountDebited | ev.AmountHeld
) -> None:
    limit = after.limits.get(event.business_type)
    if limit is None:
        return
    same_day = limit.used_date == event.business_date
    same_operation = limit.used_operation == event.operation_id
    used = Limit(
        limit.per_operation_minor,
        limit.per_day_amount_minor,
        limit.per_day_count,
        event.business_date,
        (limit.used_amount_minor if same_day else 0) + event.amount_minor,
        (limit.used_count if same_day else 0) + (0 if same_operation else 1),
        event.operation_id,
        (limit.used_operation_minor if same_operation else 0) + event.amount_minor,
    )
    after.limits = {**after.limits, event.business_type: used}


def _frozen(after: Account, event: ev.AccountFrozen) -> None:
    freeze = Freeze(None, event.authority, event.order_number, event.reason)
    after.freezes = {**after.freezes, event.freeze_id: freeze}
    after.whole_freezes += 1


def _unfrozen(after: Account, event: ev.AccountUnfrozen) -> None:
    after.freezes = {k: v for k, v in after.freezes.items() if k != event.freeze_id}
    after.whole_freezes -= 1


def _closed(after: Account, _event: ev.AccountClosed) -> None:
    after.status = "closed"


def _loss_reported(after: Account, _event: ev.AccountLossReported) -> None:
    after.lost = True


def _found(after: Account, _event: ev.AccountFound) -> None:
    after.lost = False


def _payment_status_set(after: Account, event: ev.PaymentStatusSet) -> None:
    after.payment_status = event.payment_status
    after.partial_types = tuple(event.partial_types)
    after.partial_amount_minor = event.partial_amount_minor


def _reserve_set(after: Account, event: ev.ReserveSet) -> None:
    after.reserve_minor = event.reserve_minor


def _credit_limit_set(after: Account, event: ev.CreditLimitSet) -> None:
    after.credit_limit_minor = event.credit_limit_minor
    dated = event.valid_from is not None or event.valid_to is not None
    terms = CreditTerms(event.agreement, event.valid_from, event.valid_to)
    after.credit_terms = terms if dated else None


def _limit_set(after: Account, event: ev.LimitSet) -> None:
    limits = dict(after.limits)
    old = limits.pop(event.business_type, None)
    new = (event.per_operation_minor, event.per_day_amount_minor, event.per_day_count)
    if new != (None, None, None):
        used = msgspec.structs.astuple(old)[3:] if old is not None else ()
        limits[event.business_type] = Limit(*new, *used)
    after.limits = limits


def _buffering_set(after: Account, event: ev.BufferingSet) -> None:
    after.buffering = Buffering(
        event.buffer_ms,
        event.directions,
        event.agreement,
        event.valid_from,
        event.valid_to,
        event.entries_max,
    )


def _stripes_set(after: Account, event: ev.StripesSet) -> None:
    opened = 0 if after.striping is None else after.striping.opened
    after.striping = Striping(event.stripes, max(event.stripes, opened))


def _nothing(after: Account, event: ev.CourtInquiryRegistered) -> None:
    """An inquiry is written down; the account is as it was."""


_EVOLVE: dict[type, Callable[[Account, Any], None]] = {
    ev.AccountCredited: _credited,
    ev.AccountDebited: _debited,
    ev.AmountHeld: _held,
    ev.HoldReleased: _reduce_hold,
    ev.HoldExpired: _reduce_hold,
    ev.HoldCaptured: _captured,
    ev.AmountFrozen: _amount_frozen,
    ev.AmountUnfrozen: _amount_unfrozen,
    ev.AccountFrozen: _frozen,
    ev.AccountUnfrozen: _unfrozen,
    ev.AccountClosed: _closed,
    ev.AccountLossReported: _loss_reported,
    ev.AccountFound: _found,
    ev.PaymentStatusSet: _payment_status_set,
    ev.ReserveSet: _reserve_set,
    ev.CreditLimitSet: _credit_limit_set,
    ev.LimitSet: _limit_set,
    ev.BufferingSet: _buffering_set,
    ev.StripesSet: _stripes_set,
    ev.CourtInquiryRegistered: _nothing,
}
