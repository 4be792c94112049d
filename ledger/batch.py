"""Decide a batch in memory: jobs in, rows of the log and new heads out. Pure.

Invariant: a batch gives what its operations give one at a time; an operation's legs all pass
or none apply; a rejected one never disturbs its neighbours; the same inputs give the same
bytes, so the engine may decide again with a later `booked_at`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter

import msgspec

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account, LegContext
from ledger.applying import Application, decide_application
from ledger.booked import add_totals, booked_record
from ledger.buffers import buffer_number, due_at
from ledger.business_types import BusinessType, BusinessTypes
from ledger.closing import has_unended, open_below
from ledger.codec import Row, operation_stream, row_of
from ledger.commands import CommandContext, decide_change, decide_open
from ledger.errors import (
    BufferFull,
    LedgerError,
    OperationIdReused,
    Rejection,
    RejectionReason,
    VersionMismatch,
)
from ledger.evolve import evolve
from ledger.expiry import decide_expiry, expired_holds
from ledger.gathering import Taken, decide_gathering, left_behind, shortages
from ledger.job import (
    Decided,
    Job,
    Loaded,
    Missing,
    Outcome,
    Recordable,
    Recorded,
    State,
    command_account,
    first_not_booked,
    rejected,
    touched_account,
)
from ledger.legs import Legs, SuspenseOf, decide_legs
from ledger.original import (
    Original,
    known_original,
    refunded_after,
    stage_refusal,
)
from ledger.refusals import dates_refusal, duplicate_refusal, first_declared
from ledger.stripes import date_of, whole_of

R = RejectionReason


def decide_batch(jobs: list[Job], loaded: Loaded, types: BusinessTypes, booked_at: str) -> Decided:
    """Decide all jobs in order on `loaded`, which is left as it was. Raises `Missing`."""
    decider = _Decider(loaded, types, booked_at)
    decider.expire_holds()
    for job in jobs:
        decider.apply_buffers(job)
    outcomes = [decider.decide_job(job) for job in jobs]
    return Decided(
        decider.rows,
        decider.touched,
        decider.opened,
        decider.totals,
        outcomes,
        decider.recorded,
        decider.originals,
        decider.apply_at,
    )


class _Decider:
    """Holds the batch's state: heads as touched so far, rows so far, records so far."""

    def __init__(self, loaded: Loaded, types: BusinessTypes, booked_at: str) -> None:
        self.loaded = loaded
        self.types = types
        self.booked_at = booked_at
        self.suspense = SuspenseOf(loaded.book_id, types.suspense_subject)
        self.rows: list[Row] = []
        self.touched: dict[str, Account] = {}
        self.opened: set[str] = set()
        self.totals: dict[str, tuple[int, int]] = {}
        self.recorded: dict[str, Recorded] = {}
        self.originals: dict[str, Original] = {}
        self.apply_at: str | None = None

    # --- jobs -----------------------------------------------------------------------------

    def decide_job(self, job: Job) -> list[Outcome | LedgerError]:
        """Decide one job: atomic is all booked or all rejected, a dry run leaves no trace."""
        if not (job.atomic or job.dry_run):
            return [self._decide(submission) for submission in job.submissions]
        before = self._state()
        outcomes = [self._decide(submission) for submission in job.submissions]
        if job.atomic and (guilty := first_not_booked(outcomes)) is not None:
            self._restore(before)
            outcomes = self._reject_all(job, outcomes, guilty)
        if job.dry_run:
            self._restore(before)
        return outcomes

    def _state(self) -> State:
        return State(
            len(self.rows),
            dict(self.touched),
            set(self.opened),
            dict(self.totals),
            dict(self.recorded),
            dict(self.originals),
        )

    def _restore(self, state: State) -> None:
        del self.rows[state.rows :]
        self.touched, self.opened = dict(state.touched), set(state.opened)
        self.totals, self.recorded = dict(state.totals), dict(state.recorded)
        self.originals = dict(state.originals)

    def _reject_all(
        self, job: Job, outcomes: list[Outcome | LedgerError], guilty: int
    ) -> list[Outcome | LedgerError]:
        """Record every new operation of an atomic batch as rejected; errors record nothing."""
        errors = [o for o in outcomes if isinstance(o, LedgerError)]
        if errors:
            pairs = zip(outcomes, map(self._known, job.submissions), strict=True)
            return [o if o in errors or known else errors[0] for o, known in pairs]
        result: list[Outcome | LedgerError] = []
        for submission, outcome in zip(job.submissions, outcomes, strict=True):
            assert isinstance(outcome, Outcome)
            event = outcome.record.event
            if record := self._known(submission):  # before this job, or a moment ago
                result.append(Outcome(record, replayed=True))
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
        record = self._known(submission)
        if record is not None:
            if record.event.fingerprint == submission.fingerprint:
                return Outcome(record, replayed=True)
            return OperationIdReused(f"operation id {submission.operation_id!r} has another body")
        if isinstance(submission.body, op.Operation):
            return self._decide_operation(submission, submission.body)
        return self._decide_command(submission, submission.body)

    def _known(self, submission: op.Submission) -> Recorded | None:
        """Return what is on record of an id: before the batch, or in it."""
        operation_id = submission.operation_id
        return self.loaded.recorded.get(operation_id) or self.recorded.get(operation_id)

    # --- operations -----------------------------------------------------------------------

    def _decide_operation(
        self, submission: op.Submission, operation: op.Operation
    ) -> Outcome | BufferFull:
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
        try:
            found = self._booked_or_refused(submission, operation, context)
        except BufferFull as full:
            return full
        if isinstance(found, Rejection):
            first = first_declared(found, operation.legs, context, self._account)
            return self._reject(submission, first)
        return found

    def _booked_or_refused(
        self, submission: op.Submission, operation: op.Operation, context: LegContext
    ) -> Outcome | Rejection:
        """Book the operation, or return a reason against it; then nothing is applied."""
        kind = context.business_type
        closed_through = self.loaded.closed_through
        rejection = duplicate_refusal(kind, operation.legs) or dates_refusal(
            kind, operation, context.business_date, closed_through
        )
        if rejection is not None:
            return rejection
        original: Original | None = None
        follows = kind.refund or kind.correction or kind.stage not in (None, "held")
        if follows or operation.original_operation_id is not None:
            found = self._find_original(operation, kind)
            if isinstance(found, Rejection):
                return found
            original = found
        refunded = refunded_after(original, kind, operation)
        if isinstance(refunded, Rejection):
            return refunded
        legs = decide_legs(operation.legs, context, self._account, self.suspense)
        while isinstance(legs, Rejection):
            # Nobody is refused for want of money that has been accepted already.
            if legs.reason is not R.INSUFFICIENT_FUNDS or not self._apply(legs.account or ""):
                return legs
            legs = decide_legs(operation.legs, context, self._account, self.suspense)
        if original is not None and kind.stage in ("succeeded", "failed"):
            unfinished = self._unfinished_payout(original, legs)
            if unfinished is not None:
                return unfinished
        if legs.striped is not None and self._gather_for(legs, context.business_date):
            again = decide_legs(operation.legs, context, self._account, self.suspense)
            assert isinstance(again, Legs), "the whole is what it was"
            legs = again
        return self._book(submission, operation, context, legs, original, refunded)

    def _find_original(self, operation: op.Operation, kind: BusinessType) -> Original | Rejection:
        original_id = operation.original_operation_id
        if original_id is None:
            return Rejection(R.UNKNOWN_ORIGINAL, detail="original_operation_id is needed")
        original = self._original(original_id)
        if original is None:
            return Rejection(R.UNKNOWN_ORIGINAL, detail=original_id)
        if not original.booked:
            return Rejection(R.ORIGINAL_NOT_BOOKED, detail=original_id)
        if kind.stage is not None:
            refusal = stage_refusal(original, kind.stage)
            if refusal is not None:
                return refusal
        return original

    def _original(self, operation_id: str) -> Original | None:
        """Return an original as this batch has left it; None when nobody knows it."""
        if operation_id in self.originals:
            return self.originals[operation_id]
        record = self.recorded.get(operation_id)
        if record is not None:
            return known_original(record.event, None, 1, self.types)
        if operation_id not in self.loaded.originals:
            raise Missing(originals={operation_id})
        return self.loaded.originals[operation_id]

    def _unfinished_payout(self, original: Original, legs: Legs) -> Rejection | None:
        for account, hold_id in original.holds:
            head = legs.accounts.get(account) or self._account(account)
            if head is not None and hold_id in head.holds:
                return Rejection(R.PAYOUT_INCOMPLETE, 0, account, hold_id)
        return None

    # --- legs -----------------------------------------------------------------------------

    def _account(self, number: str) -> Account | None:
        account = self.touched.get(number)
        if account is not None:
            return account
        try:
            return self.loaded.accounts[number]
        except KeyError:
            raise Missing(accounts={number}) from None

    # --- writing down ---------------------------------------------------------------------

    def _book(
        self,
        submission: op.Submission,
        operation: op.Operation,
        context: LegContext,
        legs: Legs,
        original: Original | None,
        refunded: dict[str, int],
    ) -> Outcome:
        event = booked_record(submission, operation, context, legs, original, self._account)
        record = self._record(event)
        self._add_account_events(legs.events, legs.accounts)
        self.touched.update(legs.accounts)
        if legs.due_at is not None:
            self.apply_at = min(legs.due_at, self.apply_at or legs.due_at)
        add_totals(self.totals, legs.booked)
        if original is None and not legs.openers:
            return Outcome(record)
        followed: dict[str, str] = dict(legs.openers)
        if original is not None:
            followed[original.operation_id] = event.relation or "reference"
        for followed_id, relation in followed.items():
            self._follow(followed_id, relation, context, context.business_type, refunded)
        return Outcome(record)

    def _record(self, event: Recordable) -> Recorded:
        """Append the first row of an operation's or command's stream."""
        record = Recorded(event, row=len(self.rows))
        stream = operation_stream(self.loaded.book_id, event.operation_id)
        self.rows.append(row_of(stream, 1, event))
        self.recorded[event.operation_id] = record
        return record

    def _add_account_events(
        self, events: Iterable[tuple[str, ev.AccountEvent]], accounts: Mapping[str, Account]
    ) -> None:
        rows = self.rows
        for number, event in events:
            if type(event) is ev.AccountOpened:
                self.opened.add(number)
            rows.append(row_of(accounts[number].stream_id, event.version, event))

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
        if original is None or not original.booked:
            return
        stage = kind.stage if relation == kind.stage else original.stage
        sums = refunded if relation == "refund" else original.refunded
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
        date, at = self.loaded.open_date, self.booked_at
        return Outcome(self._record(rejected(submission, rejection, date=date, booked_at=at)))

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
            waiting=self._waiting(number) is not None,
        )
        if isinstance(body, op.CloseAccount):
            context = msgspec.structs.replace(
                context,
                unvouchered=has_unended(number, self.loaded, self.recorded.values()),
                children=open_below(number, self.loaded, self.touched),
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
            decision = decide_change(self._whole(account), body, context)
            if isinstance(decision, ev.StripesSet):
                taken = left_behind(account, decision.stripes, self._account)
                if self._gather(account, taken, date):
                    account = self.touched[number]
                    decision = decide_change(self._whole(account), body, context)
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
                touched_account(self._whole(after)),
            )
        )
        self._add_account_events([(number, event)], {number: after})
        self.touched[number] = after
        return Outcome(record)

    def expire_holds(self) -> None:
        """Book the expiry of every loaded hold whose time has come, in account order."""
        loaded = self.loaded.accounts.items()
        holders = [(n, each) for n, each in loaded if each is not None and each.holds]
        for number, account in sorted(holders, key=itemgetter(0)):
            for hold_id, hold in expired_holds(account, self.booked_at):
                current = self._account(number)
                assert current is not None
                submission, context, legs = decide_expiry(
                    current,
                    hold_id,
                    hold,
                    kind=self.types.types["hold_expiry"],
                    date=date_of(current, self.loaded.open_date, self._account),
                    booked_at=self.booked_at,
                )
                assert isinstance(submission.body, op.Operation)
                self._book(submission, submission.body, context, legs, None, {})

    def apply_buffers(self, job: Job) -> None:
        """Apply what was accepted for the job's accounts, in account order."""
        for number in sorted(job.apply):
            buffer = self._waiting(number)
            if buffer is None or buffer.accepted is None:
                continue
            account = self._account(number)
            assert account is not None
            if not job.due_only or due_at(buffer.accepted, account.buffering) <= self.booked_at:
                self._apply(number)

    def _waiting(self, number: str) -> Account | None:
        """Return the account's buffer account if something waits on it."""
        account = self._account(number)
        if account is None or account.buffering is None:
            return None
        buffer = self._account(buffer_number(number))
        return buffer if buffer is not None and buffer.accepted is not None else None

    def _apply(self, number: str) -> bool:
        """Book the application of what waits for an account; False when there is nothing."""
        account, buffer = self._account(number), self._waiting(number)
        if account is None or buffer is None:
            return False
        date = date_of(account, self.loaded.open_date, self._account)
        given = Application(account, buffer, date, self.booked_at)
        submission, context, legs = decide_application(given, self._account, self.suspense)
        if legs.striped is not None and self._gather_for(legs, context.business_date):
            return self._apply(number)
        assert isinstance(submission.body, op.Operation)
        self._book(submission, submission.body, context, legs, None, {})
        return True

    # --- stripes --------------------------------------------------------------------------

    def _whole(self, account: Account) -> Account:
        return account if account.striping is None else whole_of(account, self._account)

    def _gather_for(self, legs: Legs, date: str) -> bool:
        """Gather what legs would take from homes that do not have it; False: nothing was."""
        short = list(shortages(legs, self._account))
        for home, taken in short:
            self._gather(home, taken, date)
        return bool(short)

    def _gather(self, home: Account, taken: Taken, date: str) -> bool:
        """Book the gathering of what is taken from stripes; False when there is nothing."""
        if not taken:
            return False
        submission, context, legs = decide_gathering(home, taken, date, self.booked_at)
        assert isinstance(submission.body, op.Operation)
        self._book(submission, submission.body, context, legs, None, {})
        return True
