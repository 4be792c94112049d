"""The facts the ledger writes down: one struct per event, past tense, never edited.

Streams: one per account (`Account…`, `Amount…`, `Hold…`), one per operation (first row
`OperationBooked` or `OperationRejected`; later rows `OperationFollowed`), one per account
command's id (`CommandBooked`/`CommandRejected`) and one per book (`BookOpened`, `DayOpened`).
Invariant: a struct's JSON is its schema (`ledger/event_schemas/`, diffed by a test);
money fields are `…_minor` in Python and plain words on the wire; a field that is None
or empty is left out. `booked_at` is a UTC instant with microseconds.
"""

from __future__ import annotations

import msgspec
from msgspec import field


class _Fact(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What every event has in common: immutable, compact on the wire."""


# --- account stream -----------------------------------------------------------------------


class AccountOpened(_Fact, frozen=True, gc=False, kw_only=True):
    """An account came to be; version 1 of its stream."""

    book_id: str
    account: str
    owner: str
    type: str
    subject: str
    currency: str
    normal_side: str
    parent: str | None = None
    credit_limit_minor: int | None = field(default=0, name="credit_limit")
    payment_status: str = "normal"
    version: int
    business_date: str
    booked_at: str
    principal: str
    command_id: str


class _Moved(_Fact, frozen=True, gc=False):
    """A change of balance, hold or frozen amount by one leg. Field order is the hot path's."""

    account: str
    operation_id: str
    leg_no: int
    business_type: str
    amount_minor: int = field(name="amount")
    balance_before_minor: int = field(name="balance_before")
    balance_minor: int = field(name="balance")
    held_minor: int = field(name="held")
    version: int
    business_date: str
    value_date: str
    booked_at: str


class AccountCredited(_Moved, frozen=True, gc=False):
    """A credit leg was booked. `intended_account`: on suspense, buffer and stripe accounts only."""

    intended_account: str | None = None


class AccountDebited(_Moved, frozen=True, gc=False):
    """A debit leg was booked."""

    intended_account: str | None = None


class AmountHeld(_Moved, frozen=True, gc=False):
    """Money was set aside under `hold_id`; it expires only if `expires_at` is there."""

    hold_id: str = ""
    payout: bool = False
    expires_at: str | None = None


class HoldReleased(_Moved, frozen=True, gc=False):
    """All or part of a hold was given back."""

    hold_id: str = ""


class HoldCaptured(_Moved, frozen=True, gc=False):
    """All or part of a hold was taken: a debit from held money."""

    hold_id: str = ""


class HoldExpired(_Moved, frozen=True, gc=False):
    """A hold opened with an expiry ran out; written by the engine itself."""

    hold_id: str = ""


class AmountFrozen(_Moved, frozen=True, gc=False):
    """An authority froze an amount; only the same authority lifts it."""

    freeze_id: str = ""
    authority: str = ""
    order_number: str = field(default="", name="order")
    reason: str = ""
    frozen_minor: int = field(default=0, name="frozen")


class AmountUnfrozen(_Moved, frozen=True, gc=False):
    """The authority that froze an amount lifted all or part of it."""

    freeze_id: str = ""
    authority: str = ""
    order_number: str = field(default="", name="order")
    reason: str = ""
    frozen_minor: int = field(default=0, name="frozen")


class _Administered(_Fact, frozen=True, gc=False, kw_only=True):
    """A change of an account's standing: who, when, why, which order."""

    account: str
    version: int
    business_date: str
    booked_at: str
    principal: str
    command_id: str
    reason: str = ""
    authority: str = ""
    order_number: str = field(default="", name="order")


class AccountClosed(_Administered, frozen=True, gc=False, kw_only=True):
    """The account takes nothing more."""


class AccountFrozen(_Administered, frozen=True, gc=False, kw_only=True):
    """The whole account was frozen under `freeze_id`."""

    freeze_id: str


class AccountUnfrozen(_Administered, frozen=True, gc=False, kw_only=True):
    """The authority lifted its freeze of the whole account."""

    freeze_id: str


class AccountLossReported(_Administered, frozen=True, gc=False, kw_only=True):
    """The owner reported the account's instrument lost: money out stops."""


class AccountFound(_Administered, frozen=True, gc=False, kw_only=True):
    """The loss report was lifted."""


class PaymentStatusSet(_Administered, frozen=True, gc=False, kw_only=True):
    """receive_only, normal, blocked or partial_stop (with its types and amount)."""

    payment_status: str
    partial_types: tuple[str, ...] = ()
    partial_amount_minor: int | None = field(default=None, name="partial_amount")


class ReserveSet(_Administered, frozen=True, gc=False, kw_only=True):
    """The amount that must stay for agreed direct debits."""

    reserve_minor: int = field(name="reserve")


class CreditLimitSet(_Administered, frozen=True, gc=False, kw_only=True):
    """How far below zero the balance may go; None = no bound.

    Outside the days of its agreement, first and last included, it counts as 0.
    """

    credit_limit_minor: int | None = field(name="credit_limit")
    agreement: str = ""
    valid_from: str | None = None
    valid_to: str | None = None


class LimitSet(_Administered, frozen=True, gc=False, kw_only=True):
    """Limits of one business type on this account; all None = lifted."""

    business_type: str
    per_operation_minor: int | None = field(default=None, name="per_operation")
    per_day_amount_minor: int | None = field(default=None, name="per_day_amount")
    per_day_count: int | None = None


class BufferingSet(_Administered, frozen=True, gc=False, kw_only=True):
    """Buffered posting was agreed on, or ended (`buffer_ms` 0)."""

    buffer_ms: int
    directions: str = "in"
    agreement: str = ""
    valid_from: str | None = None
    valid_to: str | None = None
    entries_max: int


class StripesSet(_Administered, frozen=True, gc=False, kw_only=True):
    """Inflows go over so many stripe accounts from here on; 0 = on the account itself."""

    stripes: int


class CourtInquiryRegistered(_Administered, frozen=True, gc=False, kw_only=True):
    """A court or authority asked about the account; nothing changed."""


# --- operation stream ---------------------------------------------------------------------


class BookedLeg(_Fact, frozen=True, gc=False):
    """One leg as it was booked; `intended_account` if suspense, its buffer or a stripe took it."""

    no: int
    kind: str
    account: str
    account_type: str
    subject: str
    currency: str
    amount_minor: int = field(name="amount")
    version: int
    balance_minor: int = field(name="balance")
    held_minor: int = field(name="held")
    normal_side: str
    hold_id: str | None = None
    part: str | None = None
    intended_account: str | None = None


class NamedAmount(_Fact, frozen=True, gc=False):
    """An amount beside the legs that only accounting needs."""

    amount_minor: int = field(name="amount")
    currency: str


class OrderNumbers(_Fact, frozen=True, gc=False, forbid_unknown_fields=True):
    """Trade, payment and channel order numbers (1:n, n on reroute)."""

    trade: str | None = None
    payment: str | None = None
    channel: tuple[str, ...] = ()


class TouchedAccount(_Fact, frozen=True, gc=False):
    """A touched account after the operation: what the answer carries.

    An account with stripes is one with them; `version` is that of its own stream.
    """

    account: str
    currency: str
    balance_minor: int = field(name="balance")
    available_minor: int | None = field(name="available")
    held_minor: int = field(name="held")
    frozen_minor: int = field(name="frozen")
    version: int
    previous_balance_minor: int = field(name="previous_balance")
    day_debits_minor: int = field(name="day_debits")
    day_credits_minor: int = field(name="day_credits")


class Issue(_Fact, frozen=True, gc=False):
    """Something a person must clear: money that could not be placed."""

    code: str
    leg_no: int
    account: str
    intended_account: str
    amount_minor: int = field(name="amount")
    currency: str
    reason: str


class OperationBooked(_Fact, frozen=True, gc=False):
    """Version 1 of an operation's stream: every leg was booked. The permanent record.

    `also_follows` names the openers of other holds that its legs release or capture.
    """

    book_id: str
    operation_id: str
    business_type: str
    business_date: str
    value_date: str
    booked_at: str
    principal: str
    fingerprint: str
    legs: tuple[BookedLeg, ...]
    accounts: tuple[TouchedAccount, ...]
    amounts: dict[str, NamedAmount] = {}
    orders: OrderNumbers | None = None
    original_operation_id: str | None = None
    relation: str | None = None
    description: str | None = None
    issues: tuple[Issue, ...] = ()
    also_follows: tuple[str, ...] = ()

    @property
    def originals(self) -> tuple[str, ...]:
        """Give every operation that it follows by name, the one it names itself first."""
        if self.original_operation_id is None:
            return ()
        return (self.original_operation_id, *self.also_follows)


class OperationRejected(_Fact, frozen=True, gc=False):
    """Version 1 of an operation's stream: nothing was booked, for ever."""

    book_id: str
    operation_id: str
    business_type: str
    business_date: str
    booked_at: str
    principal: str
    fingerprint: str
    reason: str
    leg_no: int = 0
    account: str | None = None
    detail: str = ""


class OperationFollowed(_Fact, frozen=True, gc=False):
    """Version ≥ 2 of the *original's* stream: a refund, capture, stage … of it was booked.

    `refunded` is cumulative per funding part, so the last row alone guards the cap.
    """

    operation_id: str
    by_operation_id: str
    relation: str
    business_date: str
    booked_at: str
    refunded: dict[str, int] = {}
    stage: str | None = None


# --- account commands, books --------------------------------------------------------------


class CommandBooked(_Fact, frozen=True, gc=False):
    """Version 1 of an account command's stream: which event it became."""

    book_id: str
    operation_id: str
    account: str
    event: str
    version: int
    business_date: str
    booked_at: str
    principal: str
    fingerprint: str
    touched: TouchedAccount


class CommandRejected(_Fact, frozen=True, gc=False):
    """Version 1 of an account command's stream: refused, for ever."""

    book_id: str
    operation_id: str
    account: str
    business_date: str
    booked_at: str
    principal: str
    fingerprint: str
    reason: str
    detail: str = ""


class BookOpened(_Fact, frozen=True, gc=False):
    """A book came to be, with its first open business date."""

    book_id: str
    name: str
    open_business_date: str
    booked_at: str
    principal: str


class DayOpened(_Fact, frozen=True, gc=False):
    """The open business date moved; nothing dated before it is appended any more."""

    book_id: str
    business_date: str
    previous_date: str
    booked_at: str
    principal: str


Moved = (
    AccountCredited
    | AccountDebited
    | AmountHeld
    | HoldReleased
    | HoldCaptured
    | HoldExpired
    | AmountFrozen
    | AmountUnfrozen
)
Administered = (
    AccountClosed
    | AccountFrozen
    | AccountUnfrozen
    | AccountLossReported
    | AccountFound
    | PaymentStatusSet
    | ReserveSet
    | CreditLimitSet
    | LimitSet
    | BufferingSet
    | StripesSet
    | CourtInquiryRegistered
)
AccountEvent = AccountOpened | Moved | Administered
OperationEvent = OperationBooked | OperationRejected | OperationFollowed
CommandEvent = CommandBooked | CommandRejected
BookEvent = BookOpened | DayOpened
LedgerEvent = AccountEvent | OperationEvent | CommandEvent | BookEvent

MOVEMENT_KINDS = frozenset({"credit", "debit", "capture"})
