"""The ledger tests' words: legs, operations, commands, accounts, batches.

decided(batch(post("recharge", credit("C-1", 100))), given(account("C-1")))
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable
from typing import Any

import msgspec

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account, LegContext
from ledger.batch import Decided, Job, Loaded, decide_batch
from ledger.business_types import BusinessType, load_business_types
from ledger.codec import decode_event
from ledger.errors import RejectionReason
from ledger.evolve import evolve
from ledger.original import Original

BOOK = "main"
DAY = "2026-01-31"
AT = "2026-01-31T08:00:00.000000Z"
LATER = "2026-01-31T09:00:00.000000Z"
TODAY = dt.date.fromisoformat(DAY)
PRINCIPAL = "gateway"
TYPES = load_business_types()
_numbers = itertools.count(1)


# --- requests -----------------------------------------------------------------------------


def leg(kind: str, number: str, amount_minor: int, currency: str = "CNY", **more: Any) -> op.Leg:
    """Say a leg: kind, account, amount."""
    return op.Leg(kind, number, amount_minor, currency, **more)  # type: ignore[arg-type]


def credit(number: str, amount_minor: int, **more: Any) -> op.Leg:
    """A credit leg."""
    return leg("credit", number, amount_minor, **more)


def debit(number: str, amount_minor: int, **more: Any) -> op.Leg:
    """A debit leg."""
    return leg("debit", number, amount_minor, **more)


def hold(number: str, amount_minor: int, hold_id: str = "h", **more: Any) -> op.Leg:
    """A hold leg; `expires_at` is an instant in words or a datetime."""
    expires_at = more.pop("expires_at", None)
    if isinstance(expires_at, str):
        expires_at = dt.datetime.fromisoformat(expires_at)
    return leg("hold", number, amount_minor, hold_id=hold_id, expires_at=expires_at, **more)


def release(number: str, amount_minor: int, hold_id: str = "h") -> op.Leg:
    """A release leg."""
    return leg("release", number, amount_minor, hold_id=hold_id)


def capture(number: str, amount_minor: int, hold_id: str = "h", **more: Any) -> op.Leg:
    """A capture leg."""
    return leg("capture", number, amount_minor, hold_id=hold_id, **more)


def freeze(
    number: str, amount_minor: int, freeze_id: str = "f", authority: str = "court"
) -> op.Leg:
    """A leg that freezes an amount."""
    return leg(
        "freeze",
        number,
        amount_minor,
        freeze_id=freeze_id,
        authority=authority,
        order_number="order-1",
        reason="case 1",
    )


def unfreeze(
    number: str, amount_minor: int, freeze_id: str = "f", authority: str = "court"
) -> op.Leg:
    """A leg that lifts an amount's freeze."""
    return leg(
        "unfreeze",
        number,
        amount_minor,
        freeze_id=freeze_id,
        authority=authority,
        order_number="order-2",
        reason="case 1 is settled",
    )


def post(
    business_type: str, *legs: op.Leg, operation_id: str | None = None, **more: Any
) -> op.Submission:
    """A parsed operation on its way to the engine; ids are made up when the case has none."""
    for name in ("business_date", "value_date"):
        if isinstance(more.get(name), str):
            more[name] = dt.date.fromisoformat(more[name])
    operation_id = operation_id or f"op-{next(_numbers)}"
    body = op.Operation(business_type, legs, operation_id, **more)
    return submission(operation_id, body)


def open_account(number: str, *, operation_id: str | None = None, **more: Any) -> op.Submission:
    """A command that opens an account (a customer's in CNY unless the case says otherwise)."""
    if isinstance(more.get("business_date"), str):
        more["business_date"] = dt.date.fromisoformat(more["business_date"])
    facts = {"owner": f"owner of {number}", "type": "customer", "subject": "2001.01"}
    facts = {**facts, "currency": "CNY", **more}
    operation_id = operation_id or f"open-{number}"
    return submission(
        operation_id, op.OpenAccount(operation_id=operation_id, account=number, **facts)
    )


def command(
    number: str,
    change: op.Change,
    *,
    operation_id: str | None = None,
    if_version: int | None = None,
) -> op.Submission:
    """A command that changes an account's standing."""
    operation_id = operation_id or f"cmd-{next(_numbers)}"
    return submission(operation_id, change, account=number, if_version=if_version)


def submission(
    operation_id: str,
    body: op.Operation | op.OpenAccount | op.Change,
    *,
    account: str | None = None,
    if_version: int | None = None,
) -> op.Submission:
    """Wrap a parsed request."""
    fingerprint = op.fingerprint_of(BOOK, body, account)
    return op.Submission(BOOK, PRINCIPAL, operation_id, fingerprint, body, account, if_version)


# --- what is there ------------------------------------------------------------------------


def account(number: str = "C-1", **facts: Any) -> Account:
    """An open account as its first event makes it, with these facts changed."""
    opened = ev.AccountOpened(
        book_id=BOOK,
        account=number,
        owner=f"owner of {number}",
        type=facts.pop("type", "customer"),
        subject=facts.pop("subject", "2001.01"),
        currency=facts.pop("currency", "CNY"),
        normal_side=facts.pop("normal_side", "credit"),
        version=1,
        business_date=facts.pop("business_date", DAY),
        booked_at=AT,
        principal=PRINCIPAL,
        command_id=f"open-{number}",
    )
    return msgspec.structs.replace(evolve(None, opened), **facts)


def loaded(
    *accounts: Account,
    missing: Iterable[str] = (),
    originals: dict[str, Original | None] | None = None,
    open_date: str = DAY,
    closed_through: str | None = None,
    **more: Any,
) -> Loaded:
    """What a batch is decided on: these accounts, and these numbers that do not exist."""
    there: dict[str, Account | None] = dict.fromkeys((*missing, "SUSPENSE-CNY"))
    there.update({each.number: each for each in accounts})
    return Loaded(
        BOOK,
        open_date,
        closed_through,
        there,
        originals or {},
        more.pop("recorded", {}),
        **more,
    )


def context(business_type: str = "transfer", **more: Any) -> LegContext:
    """What a leg is decided in."""
    kind = more.pop("kind", None) or TYPES.types[business_type]
    date = more.pop("business_date", DAY)
    facts = {"operation_id": "op", "value_date": date, "booked_at": AT, **more}
    return LegContext(business_type=kind, business_date=date, **facts)


def business_type(code: str = "any", **facts: Any) -> BusinessType:
    """A business type of the test's own."""
    return BusinessType(code=code, **facts)


# --- deciding -----------------------------------------------------------------------------


def job(*submissions: op.Submission, **more: Any) -> Job:
    """One caller's job."""
    return Job(book_id=BOOK, submissions=submissions, **more)


def decide(state: Loaded, *submissions: op.Submission, at: str = AT, **more: Any) -> Decided:
    """Decide submissions as one job of one batch."""
    return decide_batch([job(*submissions, **more)], state, TYPES, at)


def events_of(decided: Decided) -> list[Any]:
    """Give a batch's rows as events."""
    return [decode_event(row.topic.decode(), row.state) for row in decided.rows]


def reasons(decided: Decided) -> list[RejectionReason | None]:
    """Give, per submission, the reason it was rejected for, None when it was booked."""
    found: list[RejectionReason | None] = []
    for outcome in decided.outcomes[0]:
        if isinstance(outcome, Exception):
            raise outcome
        reason = getattr(outcome.record.event, "reason", None)
        found.append(RejectionReason(reason) if reason else None)
    return found


def reason_of(state: Loaded, submitted: op.Submission, at: str = AT) -> RejectionReason | None:
    """Give the reason one submission is rejected for, None when it is booked."""
    return reasons(decide(state, submitted, at=at))[0]


def money(found: Account) -> tuple[int, int, int, int | None]:
    """Show balance, held, frozen and available."""
    return found.balance_minor, found.held_minor, found.frozen_minor, found.available_minor
