"""An account and what a leg may do to it: pure `decide_leg`; no clock, no database.

`decide_leg` looks at a leg and an account and returns the event or the first `Rejection`
that applies; `ledger/evolve.py` folds events and checks nothing, so that a stricter rule
never breaks an old stream. Invariant: available = balance − held − frozen − reserve + credit limit
(− stopped amount under a partial stop), and money out never takes it below zero.

What a leg does in each standing of the account is one table, `STANDING_REFUSES`; `in` is a
leg on the account's normal side, `out` the other side.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from msgspec import field

from ledger import events as ev
from ledger.business_types import BusinessType
from ledger.errors import Rejection, RejectionReason
from ledger.money import AMOUNT_MAX
from ledger.operation import Leg

R = RejectionReason

STANDING_REFUSES: dict[RejectionReason, frozenset[str]] = {
    R.ACCOUNT_CLOSED: frozenset({"in", "out", "hold", "capture", "release", "freeze", "unfreeze"}),
    R.ACCOUNT_FROZEN: frozenset({"in", "out", "hold", "capture"}),
    R.ACCOUNT_LOST: frozenset({"out", "hold"}),
    R.ACCOUNT_BLOCKED: frozenset({"in", "out", "hold"}),
    R.ACCOUNT_RECEIVE_ONLY: frozenset({"out", "hold"}),
    R.ACCOUNT_PARTIAL_STOP: frozenset({"out", "hold"}),
}
_STATUS_REASON = {
    "blocked": R.ACCOUNT_BLOCKED,
    "receive_only": R.ACCOUNT_RECEIVE_ONLY,
    "partial_stop": R.ACCOUNT_PARTIAL_STOP,
}


class Hold(msgspec.Struct, frozen=True, gc=False):
    """Money set aside; `payout` holds are ended by their payout's outcome only."""

    amount_minor: int
    operation_id: str
    payout: bool = False
    expires_at: str | None = None


class Freeze(msgspec.Struct, frozen=True, gc=False):
    """A freeze in force; `amount_minor` None freezes the whole account."""

    amount_minor: int | None
    authority: str
    order_number: str
    reason: str


class Limit(msgspec.Struct, frozen=True, gc=False):
    """One business type's limits on an account and what the day has used of them."""

    per_operation_minor: int | None
    per_day_amount_minor: int | None
    per_day_count: int | None
    used_date: str | None = None
    used_amount_minor: int = 0
    used_count: int = 0
    used_operation: str | None = None
    used_operation_minor: int = 0


class Buffering(msgspec.Struct, frozen=True, gc=False):
    """An agreement on buffered posting; `buffer_ms` 0 says that it has been ended."""

    buffer_ms: int
    directions: str
    agreement: str
    valid_from: str | None
    valid_to: str | None
    entries_max: int


class CreditTerms(msgspec.Struct, frozen=True, gc=False):
    """The signed agreement behind a credit limit; None at either end is open."""

    agreement: str
    valid_from: str | None
    valid_to: str | None

    def in_force(self, date: str) -> bool:
        """Tell whether the agreement covers a business date (its first and last day do)."""
        return (self.valid_from or "") <= date <= (self.valid_to or date)


class Striping(msgspec.Struct, frozen=True, gc=False):
    """Over how many stripe accounts inflows go (0: none any more), and how many there have been."""

    stripes: int
    opened: int


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """What waits on a buffer account: since when, how many entries, gross on each side."""

    since: str
    entries: int
    debits_minor: int
    credits_minor: int


_NONE: dict[str, Any] = {}  # of every account that has none: three objects less for each of them


class Account(msgspec.Struct, gc=False):
    """The fold of an account's stream. Treated as immutable: `evolve` returns a new one."""

    book_id: str
    number: str
    owner: str
    type: str
    subject: str
    currency: str
    normal_side: str
    parent: str | None
    credit_limit_minor: int | None
    status: str
    lost: bool
    payment_status: str
    partial_types: tuple[str, ...]
    partial_amount_minor: int | None
    reserve_minor: int
    balance_minor: int
    held_minor: int
    frozen_minor: int
    version: int
    business_date: str | None
    previous_balance_minor: int
    day_debits_minor: int
    day_credits_minor: int
    debit_total_minor: int
    credit_total_minor: int
    whole_freezes: int
    opened_at: str
    opened_by: str
    opened_date: str
    stream_id: bytes  # `codec.account_stream` of book and number
    buffering: Buffering | None = None
    accepted: Accepted | None = None
    credit_terms: CreditTerms | None = None
    striping: Striping | None = None
    holds: dict[str, Hold] = field(default_factory=lambda: _NONE)
    freezes: dict[str, Freeze] = field(default_factory=lambda: _NONE)
    limits: dict[str, Limit] = field(default_factory=lambda: _NONE)

    @property
    def available_minor(self) -> int | None:
        """Money that may go out on the account's own date; None when it has no floor."""
        return self.available_on(self.business_date or self.opened_date)

    def available_on(self, date: str) -> int | None:
        """Return the money that may go out on a date: outside its agreement no credit counts."""
        limit, terms = self.credit_limit_minor, self.credit_terms
        if limit is None:
            return None
        if terms is not None and not terms.in_force(date):
            limit = 0
        return self.balance_minor - self.held_minor - self.frozen_minor - self.reserve_minor + limit


class LegContext(msgspec.Struct, frozen=True, gc=False):
    """What a leg is decided in; the same for all legs of an operation."""

    operation_id: str
    business_type: BusinessType
    business_date: str
    value_date: str
    booked_at: str


def flow_of(account: Account, kind: str) -> str:
    """Return `in` or `out` for a credit or debit, else the kind itself."""
    if kind in ("credit", "debit"):
        return "in" if kind == account.normal_side else "out"
    return kind


def instant_text(instant: dt.datetime) -> str:
    """Write an instant as the log does: UTC, microseconds, so that text order is time order."""
    return instant.astimezone(dt.UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def decide_leg(
    account: Account, leg: Leg, leg_no: int, context: LegContext
) -> ev.Moved | Rejection:
    """Return the event a leg becomes on this account, or the first reason against it."""
    reason = _refusal(account, leg, context)
    if reason is None:
        return _DECIDE[leg.kind](account, leg, leg_no, context)
    return Rejection(reason, leg_no, account.number)


def _refusal(account: Account, leg: Leg, context: LegContext) -> RejectionReason | None:
    """Check what every leg must pass: currency, date order, the account's standing."""
    if account.currency != leg.currency:
        return R.CURRENCY_MISMATCH
    if account.business_date is not None and context.business_date < account.business_date:
        return R.DATE_BEFORE_ACCOUNT
    if (
        account.status == "open"
        and not account.whole_freezes
        and not account.lost
        and account.payment_status == "normal"
    ):
        return None
    return standing_refusal(account, leg.kind, leg.amount_minor, context)


def standing_refusal(
    account: Account, kind: str, amount_minor: int, context: LegContext
) -> RejectionReason | None:
    """Return the reason the account's standing gives against a leg, from the one table."""
    flow = flow_of(account, kind)
    if account.status != "open" and flow in STANDING_REFUSES[R.ACCOUNT_CLOSED]:
        return R.ACCOUNT_CLOSED
    # A payout that succeeded outside has already happened: its capture is must-book.
    happened = flow == "capture" and context.business_type.must_book
    if account.whole_freezes and flow in STANDING_REFUSES[R.ACCOUNT_FROZEN] and not happened:
        return R.ACCOUNT_FROZEN
    if account.lost and flow in STANDING_REFUSES[R.ACCOUNT_LOST]:
        return R.ACCOUNT_LOST
    reason = _STATUS_REASON.get(account.payment_status)
    if reason is None or flow not in STANDING_REFUSES[reason]:
        return None
    if reason is R.ACCOUNT_PARTIAL_STOP and _passes_partial_stop(account, amount_minor, context):
        return None
    return reason


def _passes_partial_stop(account: Account, amount_minor: int, context: LegContext) -> bool:
    """Listed types pass; others may take only what lies above the stopped amount."""
    if context.business_type.code in account.partial_types:
        return True
    if account.partial_amount_minor is None:
        return False
    available = account.available_on(context.business_date)
    return available is None or available - amount_minor >= account.partial_amount_minor


def _limit_refusal(account: Account, leg: Leg, context: LegContext) -> RejectionReason | None:
    """Check the limits of this business type on money that goes out or is set aside."""
    limit = account.limits.get(context.business_type.code)
    if limit is None or context.business_type.must_book:
        return None
    same_operation = limit.used_operation == context.operation_id
    in_operation = leg.amount_minor + (limit.used_operation_minor if same_operation else 0)
    if limit.per_operation_minor is not None and in_operation > limit.per_operation_minor:
        return R.LIMIT_PER_OPERATION
    same_day = limit.used_date == context.business_date
    count = (limit.used_count if same_day else 0) + (0 if same_operation else 1)
    if limit.per_day_count is not None and count > limit.per_day_count:
        return R.LIMIT_PER_DAY_COUNT
    amount = (limit.used_amount_minor if same_day else 0) + leg.amount_minor
    if limit.per_day_amount_minor is not None and amount > limit.per_day_amount_minor:
        return R.LIMIT_PER_DAY_AMOUNT
    return None


def _decide_movement(
    account: Account, leg: Leg, leg_no: int, context: LegContext
) -> ev.AccountCredited | ev.AccountDebited | Rejection:
    amount = leg.amount_minor
    if leg.kind == account.normal_side:
        balance = account.balance_minor + amount
    else:
        reason = _limit_refusal(account, leg, context) if account.limits else None
        if reason is not None:
            return Rejection(reason, leg_no, account.number)
        available = account.available_on(context.business_date)
        if available is not None and available < amount:
            return Rejection(R.INSUFFICIENT_FUNDS, leg_no, account.number, f"available {available}")
        balance = account.balance_minor - amount
    credit = leg.kind == "credit"
    total = (account.credit_total_minor if credit else account.debit_total_minor) + amount
    if total > AMOUNT_MAX or not -AMOUNT_MAX <= balance <= AMOUNT_MAX:
        return Rejection(R.AMOUNT_OVERFLOW, leg_no, account.number)
    return moved(account, leg, leg_no, context)


def moved(
    account: Account, leg: Leg, leg_no: int, context: LegContext, intended: str | None = None
) -> ev.AccountCredited | ev.AccountDebited:
    """Return the event of a credit or debit leg that nothing is said against."""
    amount = leg.amount_minor
    inward = leg.kind == account.normal_side
    return (ev.AccountCredited if leg.kind == "credit" else ev.AccountDebited)(
        account.number,
        context.operation_id,
        leg_no,
        context.business_type.code,
        amount,
        account.balance_minor,
        account.balance_minor + (amount if inward else -amount),
        account.held_minor,
        account.version + 1,
        context.business_date,
        context.value_date,
        context.booked_at,
        intended,
    )


def _still(
    account: Account, leg: Leg, leg_no: int, context: LegContext, held_minor: int
) -> tuple[str, str, int, str, int, int, int, int, int, str, str, str]:
    """Return the common fields of an event that leaves the balance alone."""
    return (
        account.number,
        context.operation_id,
        leg_no,
        context.business_type.code,
        leg.amount_minor,
        account.balance_minor,
        account.balance_minor,
        held_minor,
        account.version + 1,
        context.business_date,
        context.value_date,
        context.booked_at,
    )


def _decide_hold(
    account: Account, leg: Leg, leg_no: int, context: LegContext
) -> ev.AmountHeld | Rejection:
    def refuse(reason: RejectionReason, detail: str = "") -> Rejection:
        return Rejection(reason, leg_no, account.number, detail)

    hold_id = leg.hold_id or ""
    if account.normal_side != "credit":
        return refuse(R.HOLD_ON_DEBIT_ACCOUNT)
    if hold_id in account.holds:
        return refuse(R.HOLD_EXISTS, hold_id)
    expires_at = instant_text(leg.expires_at) if leg.expires_at is not None else None
    if expires_at is not None and context.business_type.stage is not None:
        return refuse(R.HOLD_OF_PAYOUT, "a payout's hold never expires by itself")
    if expires_at is not None and expires_at <= context.booked_at:
        return refuse(R.HOLD_EXPIRY_PAST, expires_at)
    reason = _limit_refusal(account, leg, context)
    if reason is not None:
        return refuse(reason)
    available = account.available_on(context.business_date)
    if available is not None and available < leg.amount_minor:
        return refuse(R.INSUFFICIENT_FUNDS, f"available {available}")
    held = account.held_minor + leg.amount_minor
    if held > AMOUNT_MAX:
        return refuse(R.AMOUNT_OVERFLOW)
    payout = context.business_type.stage == "held"
    return ev.AmountHeld(*_still(account, leg, leg_no, context, held), hold_id, payout, expires_at)


def _open_hold(
    account: Account, leg: Leg, leg_no: int, context: LegContext, payout_stage: str
) -> Hold | Rejection:
    """Return the hold a release or capture names, if this business type may touch it."""
    hold = account.holds.get(leg.hold_id or "")
    if hold is None:
        return Rejection(R.UNKNOWN_HOLD, leg_no, account.number, leg.hold_id or "")
    if hold.payout != (context.business_type.stage == payout_stage):
        return Rejection(R.HOLD_OF_PAYOUT, leg_no, account.number, leg.hold_id or "")
    if leg.amount_minor > hold.amount_minor:
        return Rejection(R.HOLD_EXCEEDED, leg_no, account.number, f"held {hold.amount_minor}")
    return hold


def _decide_release(
    account: Account, leg: Leg, leg_no: int, context: LegContext
) -> ev.HoldReleased | Rejection:
    hold = _open_hold(account, leg, leg_no, context, "failed")
    if isinstance(hold, Rejection):
        return hold
    held = account.held_minor - leg.amount_minor
    return ev.HoldReleased(*_still(account, leg, leg_no, context, held), leg.hold_id or "")


def _decide_capture(
    account: Account, leg: Leg, leg_no: int, context: LegContext
) -> ev.HoldCaptured | Rejection:
    hold = _open_hold(account, leg, leg_no, context, "succeeded")
    if isinstance(hold, Rejection):
        return hold
    balance = account.balance_minor - leg.amount_minor
    if _touches_frozen(account, balance, context):
        detail = f"frozen {account.frozen_minor}"
        return Rejection(R.INSUFFICIENT_FUNDS, leg_no, account.number, detail)
    if account.debit_total_minor + leg.amount_minor > AMOUNT_MAX or balance < -AMOUNT_MAX:
        return Rejection(R.AMOUNT_OVERFLOW, leg_no, account.number)
    return ev.HoldCaptured(
        account.number,
        context.operation_id,
        leg_no,
        context.business_type.code,
        leg.amount_minor,
        account.balance_minor,
        balance,
        account.held_minor - leg.amount_minor,
        account.version + 1,
        context.business_date,
        context.value_date,
        context.booked_at,
        leg.hold_id or "",
    )


def _touches_frozen(account: Account, balance_minor: int, context: LegContext) -> bool:
    """Tell whether a capture would leave less than what is frozen, also if frozen after the hold.

    As with a freeze of the whole account, a payout that has happened outside passes.
    """
    limit = account.credit_limit_minor
    if not account.frozen_minor or limit is None or context.business_type.must_book:
        return False
    return balance_minor + limit < account.frozen_minor


def _decide_freeze(
    account: Account, leg: Leg, leg_no: int, context: LegContext
) -> ev.AmountFrozen | Rejection:
    freeze_id = leg.freeze_id or ""
    if freeze_id in account.freezes:
        return Rejection(R.FREEZE_EXISTS, leg_no, account.number, freeze_id)
    frozen = account.frozen_minor + leg.amount_minor
    if frozen > AMOUNT_MAX:
        return Rejection(R.AMOUNT_OVERFLOW, leg_no, account.number)
    return ev.AmountFrozen(
        *_still(account, leg, leg_no, context, account.held_minor),
        freeze_id,
        leg.authority or "",
        leg.order_number or "",
        leg.reason or "",
        frozen,
    )


def _decide_unfreeze(
    account: Account, leg: Leg, leg_no: int, context: LegContext
) -> ev.AmountUnfrozen | Rejection:
    freeze = account.freezes.get(leg.freeze_id or "")
    if freeze is None or freeze.amount_minor is None:
        return Rejection(R.UNKNOWN_FREEZE, leg_no, account.number, leg.freeze_id or "")
    if freeze.authority != leg.authority:
        return Rejection(R.OTHER_AUTHORITY, leg_no, account.number, freeze.authority)
    if leg.amount_minor > freeze.amount_minor:
        return Rejection(R.FREEZE_EXCEEDED, leg_no, account.number, f"frozen {freeze.amount_minor}")
    return ev.AmountUnfrozen(
        *_still(account, leg, leg_no, context, account.held_minor),
        leg.freeze_id or "",
        leg.authority or "",
        leg.order_number or "",
        leg.reason or "",
        account.frozen_minor - leg.amount_minor,
    )


_DECIDE = {
    "credit": _decide_movement,
    "debit": _decide_movement,
    "hold": _decide_hold,
    "release": _decide_release,
    "capture": _decide_capture,
    "freeze": _decide_freeze,
    "unfreeze": _decide_unfreeze,
}
