"""What a client asks for and what it is answered: strict structs, parsed in one pass.

Invariant: amounts are integers 1 … 2^63−1 in minor units; no coercion (float, boolean and
string are refused), no unknown field, no NUL character. The fingerprint is of the parsed
request with its schema version, so field order and white space do not matter.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from operator import attrgetter
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, field

from ledger.errors import InvalidRequest, LedgerError
from ledger.events import (
    BookedLeg,
    Issue,
    NamedAmount,
    OrderNumbers,
    TouchedAccount,
)
from ledger.money import AMOUNT_MAX, is_currency

REQUEST_SCHEMA = 1
OPERATION_BYTES_MAX = 256 * 1024  # Rule (relay): an encoded operation, refused before decide
LEGS_MAX = 500
BUFFER_MS_MIN, BUFFER_MS_MAX = 100, 60_000
STRIPES_MAX = 64
INTERNAL_PREFIXES = ("expire:", "daybook:")

Name = Annotated[str, Meta(min_length=1, max_length=64)]
OperationId = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=500)]
Amount = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
AmountOrZero = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
CurrencyCode = Annotated[str, Meta(min_length=3, max_length=3)]
LegKind = Literal["credit", "debit", "hold", "release", "capture", "freeze", "unfreeze"]
PaymentStatus = Literal["receive_only", "normal", "blocked", "partial_stop"]


class _Strict(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A part of a request: unknown fields are refused."""


class Leg(_Strict, frozen=True, gc=False, omit_defaults=True):
    """One instruction on one account. Which optional fields a kind needs: `LEG_FIELDS`."""

    kind: LegKind
    account: Name
    amount_minor: Amount = field(name="amount")
    currency: CurrencyCode
    hold_id: Name | None = None
    expires_at: dt.datetime | None = None
    freeze_id: Name | None = None
    authority: Name | None = None
    order_number: Name | None = field(default=None, name="order")
    reason: Text | None = None
    part: Name | None = None


class RequestedAmount(_Strict, frozen=True, gc=False):
    """A named amount that states its currency."""

    amount_minor: Amount = field(name="amount")
    currency: CurrencyCode


class Operation(_Strict, frozen=True, gc=False, omit_defaults=True):
    """One client request: legs on any accounts and currencies, all booked or none."""

    business_type: Name
    legs: Annotated[tuple[Leg, ...], Meta(max_length=LEGS_MAX)] = ()
    operation_id: OperationId | None = None
    amounts: dict[Name, Amount | RequestedAmount] = {}
    orders: OrderNumbers | None = None
    original_operation_id: OperationId | None = None
    value_date: dt.date | None = None
    business_date: dt.date | None = None
    description: Text | None = None


class OpenAccount(_Strict, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Open an account. `overdraft_floor` −500 says the same as `credit_limit` 500."""

    operation_id: OperationId | None = None
    account: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-.0-~]+$")]
    owner: Name
    type: Name
    subject: Name
    currency: CurrencyCode
    normal_side: Literal["credit", "debit"] = "credit"
    parent: Name | None = None
    credit_limit_minor: AmountOrZero | None = field(default=0, name="credit_limit")
    overdraft_floor_minor: Annotated[int, Meta(ge=-AMOUNT_MAX, le=0)] | None = field(
        default=None, name="overdraft_floor"
    )
    payment_status: PaymentStatus = "normal"
    business_date: dt.date | None = None


class _Change(
    _Strict, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag_field="command"
):
    """A change of an account's standing, with its register: why, who ordered it."""

    operation_id: OperationId | None = None
    reason: Text = ""
    authority: Annotated[str, Meta(max_length=64)] = ""
    order_number: Annotated[str, Meta(max_length=64)] = field(default="", name="order")


class CloseAccount(_Change, frozen=True, gc=False, kw_only=True, tag="close"):
    """Close; refused while balance, hold, freeze, open child or unvouchered operation remains."""


class FreezeAccount(_Change, frozen=True, gc=False, kw_only=True, tag="freeze"):
    """Freeze the whole account; authority, order and reason are required."""

    freeze_id: Name


class UnfreezeAccount(_Change, frozen=True, gc=False, kw_only=True, tag="unfreeze"):
    """Lift a freeze of the whole account; only the same authority may, and says why."""

    freeze_id: Name


class ReportLoss(_Change, frozen=True, gc=False, kw_only=True, tag="report_loss"):
    """The owner lost the instrument: money out stops."""


class ReportFound(_Change, frozen=True, gc=False, kw_only=True, tag="report_found"):
    """The loss report is lifted."""


class SetPaymentStatus(_Change, frozen=True, gc=False, kw_only=True, tag="payment_status"):
    """Under `partial_stop`, listed business types pass; others only above the amount."""

    payment_status: PaymentStatus
    partial_types: tuple[Name, ...] = ()
    partial_amount_minor: AmountOrZero | None = field(default=None, name="partial_amount")


class SetReserve(_Change, frozen=True, gc=False, kw_only=True, tag="reserve"):
    """The amount that must stay on the account."""

    reserve_minor: AmountOrZero = field(name="reserve")


class SetCreditLimit(_Change, frozen=True, gc=False, kw_only=True, tag="credit_limit"):
    """How far below zero the balance may go; null = no bound. `agreement` is the signed one.

    Outside the agreement's first and last day it counts as 0; its first day is the open business
    date unless `valid_from` says another.
    """

    credit_limit_minor: AmountOrZero | None = field(name="credit_limit")
    agreement: Annotated[str, Meta(max_length=64)] = ""
    valid_from: dt.date | None = None
    valid_to: dt.date | None = None


class SetBuffering(_Change, frozen=True, gc=False, kw_only=True, tag="buffer"):
    """Accept inflows at once and apply them within `buffer_ms` (100 to 60,000); 0 ends it.

    `both` directions for accounts without a floor only. `entries_max` may wait before the
    API pushes back.
    """

    buffer_ms: Annotated[int, Meta(ge=0, le=BUFFER_MS_MAX)]
    directions: Literal["in", "both"] = "in"
    agreement: Annotated[str, Meta(max_length=64)] = ""
    valid_from: dt.date | None = None
    valid_to: dt.date | None = None
    entries_max: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)] = 1_000_000


class SetStripes(_Change, frozen=True, gc=False, kw_only=True, tag="stripes"):
    """Spread inflows over so many stripe accounts (1 to 64), below the account; 0 ends it.

    The account stays one: balance, available and what is refused are those of all together.
    """

    stripes: Annotated[int, Meta(ge=0, le=STRIPES_MAX)]


class SetLimit(_Change, frozen=True, gc=False, kw_only=True, tag="limit"):
    """Limits of one business type on money out and holds; leave all three out to lift them."""

    business_type: Name
    per_operation_minor: AmountOrZero | None = field(default=None, name="per_operation")
    per_day_amount_minor: AmountOrZero | None = field(default=None, name="per_day_amount")
    per_day_count: Annotated[int, Meta(ge=0, le=AMOUNT_MAX)] | None = None


class RegisterInquiry(_Change, frozen=True, gc=False, kw_only=True, tag="court_inquiry"):
    """Write a court's or authority's inquiry into the register; changes nothing else."""


Change = (
    CloseAccount
    | FreezeAccount
    | UnfreezeAccount
    | ReportLoss
    | ReportFound
    | SetPaymentStatus
    | SetReserve
    | SetCreditLimit
    | SetLimit
    | SetBuffering
    | SetStripes
    | RegisterInquiry
)
CHANGES: tuple[type[Change], ...] = get_args(Change)

LEG_FIELDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # kind: (required beside kind, account, amount, currency; allowed)
    "credit": (frozenset(), frozenset({"part"})),
    "debit": (frozenset(), frozenset({"part"})),
    "hold": (frozenset({"hold_id"}), frozenset({"hold_id", "expires_at"})),
    "release": (frozenset({"hold_id"}), frozenset({"hold_id"})),
    "capture": (frozenset({"hold_id"}), frozenset({"hold_id", "part"})),
    "freeze": (
        frozenset({"freeze_id", "authority", "order_number", "reason"}),
        frozenset({"freeze_id", "authority", "order_number", "reason"}),
    ),
    "unfreeze": (
        frozenset({"freeze_id", "authority", "order_number", "reason"}),
        frozenset({"freeze_id", "authority", "order_number", "reason"}),
    ),
}
OPTIONAL_LEG_FIELDS = (
    "hold_id",
    "expires_at",
    "freeze_id",
    "authority",
    "order_number",
    "reason",
    "part",
)
_optional_fields = attrgetter(*OPTIONAL_LEG_FIELDS)
_NONE_GIVEN = (None,) * len(OPTIONAL_LEG_FIELDS)


class Submission(msgspec.Struct, frozen=True, gc=False):
    """One parsed request on its way to the engine. `account` is set for a `Change`.

    `ended_through`: of an account to be closed, what `recall.select_ended_through` has found.
    """

    book_id: str
    principal: str
    operation_id: str
    fingerprint: str
    body: Operation | OpenAccount | Change
    account: str | None = None
    if_version: int | None = None
    ended_through: dict[str, int] | None = None


class Answer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What the caller gets: only ever built from a committed record.

    `replayed` is there, and true, on batch lines answered again from the record; a single
    posting says it in a header, so that its body is the first answer, byte for byte.
    """

    operation_id: str
    status: Literal["booked", "accepted", "rejected"]
    replayed: bool = False
    position: int | None
    business_date: str
    booked_at: str
    accounting_status: str | None
    accounts: tuple[TouchedAccount, ...] = ()
    legs: tuple[BookedLeg, ...] = ()
    issues: tuple[Issue, ...] = ()
    code: str | None = None
    leg_no: int = 0
    account: str | None = None
    detail: str = ""
    dry_run: bool = False


Result = Answer | LedgerError

_canonical = msgspec.json.Encoder(order="deterministic").encode


def fingerprint_of(book_id: str, body: object, account: str | None = None) -> str:
    """Return the hex SHA-256 of the canonical parsed request with its schema version."""
    return hashlib.sha256(_canonical((REQUEST_SCHEMA, book_id, account, body))).hexdigest()


def check_operation(operation: Operation) -> None:
    """Refuse what the types cannot say: leg fields, currencies, named amounts' currency.

    Raises `InvalidRequest` with a stable code; looks at nothing but the request.
    """
    if operation.operation_id is not None:
        check_operation_id(operation.operation_id)
    for number, leg in enumerate(operation.legs, start=1):
        _check_leg(number, leg)
    _check_amounts(operation)


def check_operation_id(operation_id: str) -> None:
    """Refuse ids that the engine keeps for its own operations."""
    if operation_id.startswith(INTERNAL_PREFIXES):
        raise InvalidRequest("operation ids with this prefix are the engine's own")


def _check_leg(number: int, leg: Leg) -> None:
    if not is_currency(leg.currency):
        raise InvalidRequest(
            f"leg {number}: {leg.currency!r} is no ISO 4217 currency",
            code="unknown_currency",
            leg_no=number,
        )
    if leg.expires_at is not None and leg.expires_at.tzinfo is None:
        raise InvalidRequest(f"leg {number}: expires_at needs a UTC offset", leg_no=number)
    required, allowed = LEG_FIELDS[leg.kind]
    values = _optional_fields(leg)
    if values == _NONE_GIVEN and not required:
        return
    pairs = zip(OPTIONAL_LEG_FIELDS, values, strict=True)
    given = {name for name, value in pairs if value is not None}
    for name in sorted(required - given):
        raise InvalidRequest(f"leg {number}: {leg.kind} needs {name}", leg_no=number)
    for name in sorted(given - allowed):
        raise InvalidRequest(f"leg {number}: {leg.kind} takes no {name}", leg_no=number)


def _check_amounts(operation: Operation) -> None:
    if not operation.amounts:
        return
    currencies = {leg.currency for leg in operation.legs}
    for name, amount in operation.amounts.items():
        if isinstance(amount, RequestedAmount):
            if not is_currency(amount.currency):
                raise InvalidRequest(
                    f"amounts.{name}: {amount.currency!r} is no ISO 4217 currency",
                    code="unknown_currency",
                )
        elif len(currencies) != 1:
            raise InvalidRequest(
                f"amounts.{name}: state its currency, the legs do not have exactly one",
                code="amount_without_currency",
            )


def named_amounts(operation: Operation) -> dict[str, NamedAmount]:
    """Return the named amounts with their currencies, by name."""
    if not operation.amounts:
        return {}
    currency = operation.legs[0].currency if operation.legs else ""
    return {
        name: NamedAmount(amount.amount_minor, amount.currency)
        if isinstance(amount, RequestedAmount)
        else NamedAmount(amount, currency)
        for name, amount in sorted(operation.amounts.items())
    }
