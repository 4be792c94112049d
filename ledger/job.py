"""What goes into a batch and what comes out: jobs, loaded state, records, outcomes, answers.

Invariant: an answer is built from a record alone, so the first answer can be given again for
ever, after a restart and from any process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account
from ledger.buffers import is_accepted
from ledger.codec import Row
from ledger.errors import LedgerError, Rejection
from ledger.original import Original

Recordable = ev.OperationBooked | ev.OperationRejected | ev.CommandBooked | ev.CommandRejected


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """The permanent record of an operation id: position in the log, or row in this batch."""

    event: Recordable
    position: int | None = None
    row: int | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller asks for: submissions that are answered together, of one book.

    The engine's own: `sweep`, accounts whose holds may have expired; `apply`, accounts whose
    buffers are applied (`due_only`: if they are due).
    """

    book_id: str
    submissions: tuple[op.Submission, ...]
    atomic: bool = False
    dry_run: bool = False
    sweep: tuple[str, ...] = ()
    apply: tuple[str, ...] = ()
    due_only: bool = True


class Loaded(msgspec.Struct):
    """What a batch is decided on. A number maps to None when no such account exists."""

    book_id: str
    open_date: str
    closed_through: str | None
    accounts: dict[str, Account | None]
    originals: dict[str, Original | None]
    recorded: dict[str, Recorded]
    unvouchered: frozenset[str] = frozenset()
    children: dict[str, tuple[str, ...]] = {}


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What an id came to: its record, and whether it had been there before."""

    record: Recorded
    replayed: bool = False


class Decided(msgspec.Struct):
    """Rows to append, heads to write, what each job's submissions came to.

    `apply_at` is when the first of the buffers that it begins to fill is to be applied.
    `recorded` and `originals` are what the next batch must know before this one is visible.
    """

    rows: list[Row]
    touched: dict[str, Account]
    opened: set[str]
    totals: dict[str, tuple[int, int]]
    outcomes: list[list[Outcome | LedgerError]]
    recorded: dict[str, Recorded]
    originals: dict[str, Original]
    apply_at: str | None = None


class State(msgspec.Struct, frozen=True):
    """What a batch has decided at a point that it may go back to."""

    rows: int
    touched: dict[str, Account]
    opened: set[str]
    totals: dict[str, tuple[int, int]]
    recorded: dict[str, Recorded]
    originals: dict[str, Original]


class Missing(Exception):
    """The decision reads accounts or originals that are not loaded yet: load and decide again."""

    def __init__(self, accounts: set[str] | None = None, originals: set[str] | None = None):
        super().__init__()
        self.accounts = accounts or set()
        self.originals = originals or set()


def command_account(submission: op.Submission) -> str:
    """Return the number of the account that a command is about."""
    if isinstance(submission.body, op.OpenAccount):
        return submission.body.account
    assert submission.account is not None
    return submission.account


def first_not_booked(outcomes: Sequence[Outcome | LedgerError]) -> int | None:
    """Return the index of the first error or rejection."""
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, LedgerError) or not isinstance(
            outcome.record.event, ev.OperationBooked | ev.CommandBooked
        ):
            return index
    return None


def touched_account(account: Account) -> ev.TouchedAccount:
    """Return what an answer says of an account."""
    return ev.TouchedAccount(
        account.number,
        account.currency,
        account.balance_minor,
        account.available_minor,
        account.held_minor,
        account.frozen_minor,
        account.version,
        account.previous_balance_minor,
        account.day_debits_minor,
        account.day_credits_minor,
    )


def status_of(event: Recordable) -> Literal["booked", "accepted", "rejected"]:
    """Return what a record says: booked, rejected, or accepted when a leg of it was buffered."""
    if isinstance(event, ev.OperationBooked):
        for leg in event.legs:
            if leg.intended_account is not None and is_accepted(leg):
                return "accepted"
        return "booked"
    return "booked" if isinstance(event, ev.CommandBooked) else "rejected"


def rejected(
    submission: op.Submission, rejection: Rejection, *, date: str, booked_at: str
) -> ev.OperationRejected | ev.CommandRejected:
    """Return the record of a refusal."""
    if isinstance(submission.body, op.Operation):
        return ev.OperationRejected(
            submission.book_id,
            submission.operation_id,
            submission.body.business_type,
            date,
            booked_at,
            submission.principal,
            submission.fingerprint,
            rejection.reason,
            rejection.leg_no,
            rejection.account,
            rejection.detail,
        )
    return ev.CommandRejected(
        submission.book_id,
        submission.operation_id,
        command_account(submission),
        date,
        booked_at,
        submission.principal,
        submission.fingerprint,
        rejection.reason,
        rejection.detail,
    )


def answer_of(outcome: Outcome, first_id: int, *, dry_run: bool = False) -> op.Answer:
    """Build the caller's answer from the record; `first_id` is the batch's first position."""
    record = outcome.record
    event = record.event
    position = record.position
    if position is None and record.row is not None and not dry_run:
        position = first_id + record.row
    if isinstance(event, ev.OperationBooked):
        return op.Answer(
            operation_id=event.operation_id,
            status=status_of(event),
            replayed=outcome.replayed,
            position=position,
            business_date=event.business_date,
            booked_at=event.booked_at,
            accounting_status="pending",
            accounts=event.accounts,
            legs=event.legs,
            issues=event.issues,
            dry_run=dry_run,
        )
    answer = op.Answer(
        operation_id=event.operation_id,
        status=status_of(event),
        replayed=outcome.replayed,
        position=position,
        business_date=event.business_date,
        booked_at=event.booked_at,
        accounting_status=None,
        dry_run=dry_run,
    )
    if isinstance(event, ev.CommandBooked):
        return msgspec.structs.replace(answer, accounts=(event.touched,))
    leg_no = event.leg_no if isinstance(event, ev.OperationRejected) else 0
    return msgspec.structs.replace(
        answer, code=event.reason, leg_no=leg_no, account=event.account, detail=event.detail
    )
