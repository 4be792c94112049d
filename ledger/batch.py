"""Decide a batch in memory: jobs in, rows of the log and new heads out. Pure.

Invariant: a batch gives what its operations give one at a time; an operation's legs all pass
or none apply; a rejected one never disturbs its neighbours; the same inputs give the same
bytes, so the engine may decide again with a later `booked_at`.
"""

from __future__ import annotations

import msgspec

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account, LegContext, decide_leg, flow_of, instant_text
from ledger.business_types import BusinessType, BusinessTypes
from ledger.codec import Row, account_stream, operation_stream, row_of
from ledger.commands import CommandContext, decide_change, decide_open
from ledger.errors import (
    LedgerError,
    OperationIdReused,
    Rejection,
    RejectionReason,
    VersionMismatch,
)
from ledger.evolve import evolve
from ledger.original import Original, original_of, part_name, refund_of, stage_refusal

R = RejectionReason
ENGINE = "daybook"  # the principal of what the engine does by itself
Recordable = ev.OperationBooked | ev.OperationRejected | ev.CommandBooked | ev.CommandRejected


class Recorded(msgspec.Struct, frozen=True):
    """The permanent record of an operation id: position in the log, or row in this batch."""

    event: Recordable
    position: int | None = None
    row: int | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller asks for: submissions that are answered together, of one book."""

    book_id: str
    submissions: tuple[op.Submission, ...]
    atomic: bool = False
    dry_run: bool = False
    sweep: tuple[str, ...] = ()


class Loaded(msgspec.Struct):
    """What a batch is decided on. A number maps to None when no such account exists."""

    book_id: str
    open_date: str
    closed_through: str | None
    accounts: dict[str, Account | None]
    originals: dict[str, Original | None]
    recorded: dict[str, Recorded]
    unvouchered: frozenset[str] = frozenset()


class Outcome(msgspec.Struct, frozen=True):
    """What an id came to: its record, and whether it had been there before."""

    record: Recorded
    replayed: bool = False


class Decided(msgspec.Struct):
    """Rows to append, heads to write, what each job's submissions came to."""

    rows: list[Row]
    touched: dict[str, Account]
    opened: set[str]
    totals: dict[str, tuple[int, int]]
    outcomes: list[list[Outcome | LedgerError]]


class Missing(Exception):
    """The decision reads accounts or originals that are not loaded yet: load and decide again."""

    def __init__(self, accounts: set[str] | None = None, originals: set[str] | None = None):
        super().__init__()
        self.accounts = accounts or set()
        self.originals = originals or set()


def decide_batch(
    jobs: list[Job], loaded: Loaded, types: BusinessTypes, booked_at: str
) -> Decided:
    """Decide all jobs in order on `loaded`, which is left as it was. Raises `Missing`."""
    decider = _Decider(loaded, types, booked_at)
    decider.expire_holds()
    outcomes = [decider.decide_job(job) for job in jobs]
    return Decided(
        decider.rows, decider.touched, decider.opened, decider.totals, outcomes
    )


def suspense_number(currency: str) -> str:
    """Return the number of the book's suspense account in a currency."""
    return f"SUSPENSE-{currency}"


class _Legs(msgspec.Struct):
    """The legs of one operation while they are decided: nothing of it is applied yet."""

    accounts: dict[str, Account]
    events: list[tuple[str, ev.AccountEvent]]
    booked: list[ev.BookedLeg]
    issues: list[ev.Issue]
    openers: dict[str, str]


class _Decider:
    """Holds the batch's state: heads as touched so far, rows so far, records so far."""

    def __init__(self, loaded: Loaded, types: BusinessTypes, booked_at: str) -> None:
        self.loaded = loaded
        self.types = types
        self.booked_at = booked_at
        self.rows: list[Row] = []
        self.touched: dict[str, Account] = {}
        self.opened: set[str] = set()
        self.totals: dict[str, tuple[int, int]] = {}
        self.recorded: dict[str, Recorded] = {}
        self.originals: dict[str, Original] = {}

    # --- jobs -----------------------------------------------------------------------------

    def decide_job(self, job: Job) -> list[Outcome | LedgerError]:
        """Decide one job; an atomic one is all booked or all rejected, a dry run leaves no trace."""
        if not (job.atomic or job.dry_run):
            return [self._decide(submission) for submission in job.submissions]
        before = self._state()
        outcomes = [self._decide(submission) for submission in job.submissions]
        if job.atomic and (guilty := _first_not_booked(outcomes)) is not None:
            self._restore(before)
            outcomes = self._reject_all(job, outcomes, guilty)
        if job.dry_run:
            self._restore(before)
        return outcomes

    def _state(self) -> tuple[object, ...]:
        return (
            len(self.rows),
            dict(self.touched),
            set(self.opened),
            dict(self.totals),
            dict(self.recorded),
            dict(self.originals),
        )

    def _restore(self, state: tuple[object, ...]) -> None:
        del self.rows[state[0] :]  # type: ignore[misc]
        self.touched, self.opened, self.totals, self.recorded, self.originals = (  # type: ignore[assignment]
            dict(state[1]),  # type: ignore[call-overload]
            set(state[2]),  # type: ignore[call-overload]
            dict(state[3]),  # type: ignore[call-overload]
            dict(state[4]),  # type: ignore[call-overload]
            dict(state[5]),  # type: ignore[call-overload]
        )

    def _reject_all(
        self, job: Job, outcomes: list[Outcome | LedgerError], guilty: int
    ) -> list[Outcome | LedgerError]:
        """Record every new operation of an atomic batch as rejected; errors record nothing."""
        errors = [o for o in outcomes if isinstance(o, LedgerError)]
        if errors:
            return [
                o if isinstance(o, LedgerError) or o.replayed else errors[0] for o in outcomes
            ]
        result: list[Outcome | LedgerError] = []
        for submission, outcome in zip(job.submissions, outcomes, strict=True):
            assert isinstance(outcome, Outcome)
            event = outcome.record.event
            if outcome.replayed:
                result.append(outcome)
            elif isinstance(event, ev.OperationRejected | ev.CommandRejected):
                rejection = Rejection(
                    R(event.reason), getattr(event, "leg_no", 0), event.account, event.detail
                )
                result.append(self._reject(submission, rejection))
            else:
                why = f"operation {guilty + 1} of the batch was not booked"
                result.append(
                    self._reject(submission, Rejection(R.ATOMIC_BATCH_REJECTED, detail=why))
                )
        return result

    def _decide(self, submission: op.Submission) -> Outcome | LedgerError:
        operation_id = submission.operation_id
        record = self.loaded.recorded.get(operation_id) or self.recorded.get(operation_id)
        if record is not None:
            if record.event.fingerprint == submission.fingerprint:
                return Outcome(record, replayed=True)
            return OperationIdReused(f"operation id {operation_id!r} has another body")
        if isinstance(submission.body, op.Operation):
            return self._decide_operation(submission, submission.body)
        return self._decide_command(submission, submission.body)

    # --- operations -----------------------------------------------------------------------

    def _decide_operation(self, submission: op.Submission, operation: op.Operation) -> Outcome:
        kind = self.types.types[operation.business_type]
        date = operation.business_date
        business_date = self.loaded.open_date if date is None else date.isoformat()
        value = operation.value_date
        context = LegContext(
            submission.operation_id,
            kind,
            business_date,
            business_date if value is None else value.isoformat(),
            self.booked_at,
        )
        rejection = self._dates_refusal(kind, operation, business_date)
        if rejection is not None:
            return self._reject(submission, rejection)
        original: Original | None = None
        if operation.original_operation_id is not None or kind.refund or kind.correction or (
            kind.stage not in (None, "held")
        ):
            found = self._find_original(operation, kind)
            if isinstance(found, Rejection):
                return self._reject(submission, found)
            original = found
        legs = self._decide_legs(operation.legs, context)
        if isinstance(legs, Rejection):
            return self._reject(submission, legs)
        refunded: dict[str, int] = {}
        if original is not None:
            checked = self._check_original(original, kind, operation, legs)
            if isinstance(checked, Rejection):
                return self._reject(submission, checked)
            refunded = checked
        return self._book(submission, operation, context, legs, original, refunded)

    def _dates_refusal(
        self, kind: BusinessType, operation: op.Operation, business_date: str
    ) -> Rejection | None:
        if operation.business_date is None and not kind.history:
            return None
        if operation.business_date is None:
            return Rejection(R.HISTORY_ONLY, detail="history needs its business_date")
        if not kind.history:
            return Rejection(R.NOT_HISTORY, detail="only history states its business_date")
        closed = self.loaded.closed_through
        if closed is not None and business_date <= closed:
            return Rejection(R.DATE_CLOSED, detail=f"closed through {closed}")
        return None

    def _find_original(
        self, operation: op.Operation, kind: BusinessType
    ) -> Original | Rejection:
        original_id = operation.original_operation_id
        if original_id is None:
            return Rejection(R.UNKNOWN_ORIGINAL, detail="original_operation_id is needed")
        original = self._original(original_id)
        if original is None:
            return Rejection(R.UNKNOWN_ORIGINAL, detail=original_id)
        if kind.stage is not None:
            refusal = stage_refusal(original, kind.stage)
            if refusal is not None:
                return refusal
        return original

    def _original(self, operation_id: str) -> Original | None:
        """Return an original as this batch has left it; None when it is not booked."""
        if operation_id in self.originals:
            return self.originals[operation_id]
        record = self.recorded.get(operation_id)
        if record is not None:
            if not isinstance(record.event, ev.OperationBooked):
                return None
            return original_of(record.event, None, 1, self.types)
        if operation_id not in self.loaded.originals:
            raise Missing(originals={operation_id})
        return self.loaded.originals[operation_id]

    def _check_original(
        self, original: Original, kind: BusinessType, operation: op.Operation, legs: _Legs
    ) -> dict[str, int] | Rejection:
        if kind.stage in ("succeeded", "failed"):
            for account, hold_id in original.holds:
                head = legs.accounts.get(account) or self._account(account)
                if head is not None and hold_id in head.holds:
                    return Rejection(R.PAYOUT_INCOMPLETE, 0, account, hold_id)
        if not kind.refund:
            return dict(original.refunded)
        return refund_of(
            original,
            [
                (no, leg.kind, part_name(leg.part, leg.account), leg.currency, leg.amount_minor)
                for no, leg in enumerate(operation.legs, start=1)
            ],
        )

    # --- legs -----------------------------------------------------------------------------

    def _account(self, number: str) -> Account | None:
        account = self.touched.get(number)
        if account is not None:
            return account
        try:
            return self.loaded.accounts[number]
        except KeyError:
            raise Missing(accounts={number}) from None

    def _decide_legs(
        self, requested: tuple[op.Leg, ...], context: LegContext
    ) -> _Legs | Rejection:
        legs = _Legs({}, [], [], [], {})
        for leg_no, leg in enumerate(requested, start=1):
            account = legs.accounts.get(leg.account) or self._account(leg.account)
            if account is None:
                decision: ev.Moved | Rejection = Rejection(
                    R.UNKNOWN_ACCOUNT, leg_no, leg.account
                )
            else:
                if leg.hold_id is not None and leg.kind != "hold":
                    hold = account.holds.get(leg.hold_id)
                    if hold is not None:
                        legs.openers[hold.operation_id] = leg.kind
                decision = decide_leg(account, leg, leg_no, context)
            if isinstance(decision, Rejection):
                if not self._goes_to_suspense(account, leg, context):
                    return decision
                decision = self._suspend(legs, leg, leg_no, context, decision)
                account = legs.accounts[decision.account]
            else:
                assert account is not None
                account = evolve(account, decision)
                legs.accounts[account.number] = account
                legs.events.append((account.number, decision))
            legs.booked.append(
                ev.BookedLeg(
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
            )
        return legs

    def _goes_to_suspense(self, account: Account | None, leg: op.Leg, context: LegContext) -> bool:
        """Must-book inflows are never refused: the channel has already taken the money."""
        if not context.business_type.must_book or leg.kind not in ("credit", "debit"):
            return False
        if account is None:
            return leg.kind == "credit"
        return flow_of(account, leg.kind) == "in" and account.normal_side == "credit"

    def _suspend(
        self, legs: _Legs, leg: op.Leg, leg_no: int, context: LegContext, why: Rejection
    ) -> ev.AccountCredited:
        """Credit the book's suspense account instead, with an issue for a person to clear."""
        number = suspense_number(leg.currency)
        account = legs.accounts.get(number) or self._account(number)
        if account is None:
            opening = self._open_suspense(number, leg.currency, context)
            legs.events.append((number, opening))
            account = evolve(None, opening)
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
            context.business_date,
            context.value_date,
            self.booked_at,
            leg.account,
        )
        legs.accounts[number] = evolve(account, event)
        legs.events.append((number, event))
        legs.issues.append(
            ev.Issue(
                "suspense", leg_no, number, leg.account, leg.amount_minor, leg.currency, why.reason
            )
        )
        return event

    def _open_suspense(
        self, number: str, currency: str, context: LegContext
    ) -> ev.AccountOpened:
        return ev.AccountOpened(
            book_id=self.loaded.book_id,
            account=number,
            owner=ENGINE,
            type="suspense",
            subject=self.types.suspense_subject,
            currency=currency,
            normal_side="credit",
            version=1,
            business_date=context.business_date,
            booked_at=self.booked_at,
            principal=ENGINE,
            command_id=f"daybook:open:{number}",
        )

    # --- writing down ---------------------------------------------------------------------

    def _book(
        self,
        submission: op.Submission,
        operation: op.Operation,
        context: LegContext,
        legs: _Legs,
        original: Original | None,
        refunded: dict[str, int],
    ) -> Outcome:
        kind = context.business_type
        original_id = operation.original_operation_id
        if original_id is None and legs.openers:
            original_id = next(iter(legs.openers))
        event = ev.OperationBooked(
            self.loaded.book_id,
            context.operation_id,
            kind.code,
            context.business_date,
            context.value_date,
            self.booked_at,
            submission.principal,
            submission.fingerprint,
            tuple(legs.booked),
            tuple(touched_account(account) for account in legs.accounts.values()),
            _named_amounts(operation),
            operation.orders,
            original_id,
            _relation(kind, original, legs),
            operation.description,
            tuple(legs.issues),
        )
        record = self._record(event)
        for number, account_event in legs.events:
            self._add_account_event(number, account_event)
        self.touched.update(legs.accounts)
        self._add_totals(legs.booked)
        followed: dict[str, str] = dict(legs.openers)
        if original is not None:
            followed[original.operation_id] = event.relation or "reference"
        for followed_id, relation in followed.items():
            self._follow(followed_id, relation, context, kind, refunded)
        return Outcome(record)

    def _record(self, event: Recordable) -> Recorded:
        """Append the first row of an operation's or command's stream."""
        record = Recorded(event, row=len(self.rows))
        stream = operation_stream(self.loaded.book_id, event.operation_id)
        self.rows.append(row_of(stream, 1, event))
        self.recorded[event.operation_id] = record
        return record

    def _add_account_event(self, number: str, event: ev.AccountEvent) -> None:
        if type(event) is ev.AccountOpened:
            self.opened.add(number)
        stream = account_stream(self.loaded.book_id, number)
        self.rows.append(row_of(stream, event.version, event))

    def _add_totals(self, legs: list[ev.BookedLeg]) -> None:
        moved: dict[str, int] = {}
        for leg in legs:
            if leg.kind in ev.MOVEMENT_KINDS:
                moved[leg.currency] = moved.get(leg.currency, 0) + leg.amount_minor
        for currency, amount_minor in (moved or {"": 0}).items():
            count, amount_before = self.totals.get(currency, (0, 0))
            self.totals[currency] = (count + 1, amount_before + amount_minor)

    def _follow(
        self,
        original_id: str,
        relation: str,
        context: LegContext,
        kind: BusinessType,
        refunded: dict[str, int],
    ) -> None:
        """Append to the original's stream; its version guards the cap against a rival."""
        original = self._original(original_id)
        if original is None:
            return
        stage = kind.stage if relation == kind.stage else original.stage
        sums = refunded if kind.refund else original.refunded
        event = ev.OperationFollowed(
            original_id,
            context.operation_id,
            relation,
            context.business_date,
            self.booked_at,
            sums,
            stage,
        )
        version = original.version + 1
        stream = operation_stream(self.loaded.book_id, original_id)
        self.rows.append(row_of(stream, version, event))
        self.originals[original_id] = msgspec.structs.replace(
            original, refunded=sums, stage=stage, version=version
        )

    def _reject(self, submission: op.Submission, rejection: Rejection) -> Outcome:
        common = (self.loaded.book_id, submission.operation_id)
        if isinstance(submission.body, op.Operation):
            event: Recordable = ev.OperationRejected(
                *common,
                submission.body.business_type,
                self.loaded.open_date,
                self.booked_at,
                submission.principal,
                submission.fingerprint,
                rejection.reason,
                rejection.leg_no,
                rejection.account,
                rejection.detail,
            )
        else:
            event = ev.CommandRejected(
                *common,
                command_account(submission),
                self.loaded.open_date,
                self.booked_at,
                submission.principal,
                submission.fingerprint,
                rejection.reason,
                rejection.detail,
            )
        return Outcome(self._record(event))

    # --- commands, expiry -----------------------------------------------------------------

    def _decide_command(
        self, submission: op.Submission, body: op.OpenAccount | op.Change
    ) -> Outcome | LedgerError:
        number = command_account(submission)
        account = self._account(number)
        date = self.loaded.open_date
        if isinstance(body, op.OpenAccount) and body.business_date is not None:
            date = body.business_date.isoformat()
        context = CommandContext(
            submission.operation_id,
            submission.principal,
            date,
            self.booked_at,
            number in self.loaded.unvouchered,
        )
        if isinstance(body, op.OpenAccount):
            closed = self.loaded.closed_through
            if closed is not None and date <= closed:
                return self._reject(submission, Rejection(R.DATE_CLOSED, 0, number, closed))
            decision: ev.AccountEvent | Rejection = decide_open(
                body,
                book_id=self.loaded.book_id,
                existing=account,
                parent=self._account(body.parent) if body.parent is not None else None,
                context=context,
            )
        elif account is None:
            decision = Rejection(R.UNKNOWN_ACCOUNT, 0, number)
        elif submission.if_version is not None and submission.if_version != account.version:
            return VersionMismatch(f"account {number} is at version {account.version}")
        else:
            decision = decide_change(account, body, context)
        if isinstance(decision, Rejection):
            return self._reject(submission, decision)
        return self._book_command(submission, account, decision)

    def _book_command(
        self, submission: op.Submission, account: Account | None, event: ev.AccountEvent
    ) -> Outcome:
        after = evolve(account, event)
        number = after.number
        record = self._record(
            ev.CommandBooked(
                self.loaded.book_id,
                submission.operation_id,
                number,
                type(event).__name__,
                after.version,
                event.business_date,
                self.booked_at,
                submission.principal,
                submission.fingerprint,
                touched_account(after),
            )
        )
        self._add_account_event(number, event)
        self.touched[number] = after
        return Outcome(record)

    def expire_holds(self) -> None:
        """Book `expire:<account>:<hold>` for every loaded hold whose expiry has come."""
        for number in sorted(n for n, a in self.loaded.accounts.items() if a and a.holds):
            account = self.loaded.accounts[number]
            assert account is not None
            for hold_id, hold in sorted(account.holds.items()):
                if hold.expires_at is not None and hold.expires_at <= self.booked_at:
                    self._expire(number, hold_id, hold.amount_minor, hold.operation_id)

    def _expire(self, number: str, hold_id: str, amount_minor: int, opener: str) -> None:
        account = self._account(number)
        assert account is not None
        operation_id = f"expire:{number}:{hold_id}:{opener}"
        business_date = max(self.loaded.open_date, account.business_date or "")
        event = ev.HoldExpired(
            number,
            operation_id,
            1,
            "hold_expiry",
            amount_minor,
            account.balance_minor,
            account.balance_minor,
            account.held_minor - amount_minor,
            account.version + 1,
            business_date,
            business_date,
            self.booked_at,
            hold_id,
        )
        after = evolve(account, event)
        leg = op.Leg("release", number, amount_minor, account.currency, hold_id=hold_id)
        operation = op.Operation("hold_expiry", (leg,), operation_id)
        booked = ev.BookedLeg(
            1,
            "release",
            number,
            after.type,
            after.subject,
            after.currency,
            amount_minor,
            after.version,
            after.balance_minor,
            after.held_minor,
            after.normal_side,
            hold_id,
        )
        legs = _Legs({number: after}, [(number, event)], [booked], [], {opener: "expired"})
        submission = op.Submission(
            self.loaded.book_id,
            ENGINE,
            operation_id,
            op.fingerprint_of(self.loaded.book_id, operation),
            operation,
        )
        context = LegContext(
            operation_id,
            self.types.types["hold_expiry"],
            business_date,
            business_date,
            self.booked_at,
        )
        self._book(submission, operation, context, legs, None, {})


def command_account(submission: op.Submission) -> str:
    """Return the number of the account that a command is about."""
    if isinstance(submission.body, op.OpenAccount):
        return submission.body.account
    assert submission.account is not None
    return submission.account


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


def _named_amounts(operation: op.Operation) -> dict[str, ev.NamedAmount]:
    if not operation.amounts:
        return {}
    currency = operation.legs[0].currency if operation.legs else ""
    return {
        name: ev.NamedAmount(amount.amount_minor, amount.currency)
        if isinstance(amount, op.RequestedAmount)
        else ev.NamedAmount(amount, currency)
        for name, amount in sorted(operation.amounts.items())
    }


def _relation(kind: BusinessType, original: Original | None, legs: _Legs) -> str | None:
    if original is not None:
        if kind.refund:
            return "refund"
        if kind.correction:
            return "correction"
        if kind.stage is not None:
            return kind.stage
    if legs.openers:
        return next(iter(legs.openers.values()))
    return "reference" if original is not None else None


def _first_not_booked(outcomes: list[Outcome | LedgerError]) -> int | None:
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, LedgerError) or not isinstance(
            outcome.record.event, ev.OperationBooked | ev.CommandBooked
        ):
            return index
    return None


def answer_of(outcome: Outcome, first_id: int, *, dry_run: bool = False) -> op.Answer:
    """Build the caller's answer from the record; `first_id` is the batch's first position."""
    record = outcome.record
    event = record.event
    position = record.position
    if position is None and record.row is not None and not dry_run:
        position = first_id + record.row
    booked = isinstance(event, ev.OperationBooked | ev.CommandBooked)
    common = op.Answer(
        operation_id=event.operation_id,
        status="booked" if booked else "rejected",
        replayed=outcome.replayed,
        position=position,
        business_date=event.business_date,
        booked_at=event.booked_at,
        accounting_status="pending" if isinstance(event, ev.OperationBooked) else None,
        dry_run=dry_run,
    )
    if isinstance(event, ev.OperationBooked):
        return msgspec.structs.replace(
            common, accounts=event.accounts, legs=event.legs, issues=event.issues
        )
    if isinstance(event, ev.CommandBooked):
        return msgspec.structs.replace(common, accounts=(event.touched,))
    leg_no = event.leg_no if isinstance(event, ev.OperationRejected) else 0
    return msgspec.structs.replace(
        common, code=event.reason, leg_no=leg_no, account=event.account, detail=event.detail
    )


__all__ = ["Decided", "Job", "Loaded", "Missing", "Outcome", "answer_of", "decide_batch", "instant_text"]
