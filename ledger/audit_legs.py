"""Match, within a commit, what operations and commands claim with the account events.

Invariant: at the end of each commit nothing is left on either side: each leg was exactly
one account event of the same account, version, amount and result, and no account event
stands there by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ledger import events as ev
from ledger.account import Account
from ledger.audit_verdict import differ
from ledger.buffers import is_accepted
from ledger.codec import account_stream
from ledger.stripes import ENGINE_TYPES, is_striped, whole_of

EVENTS = "ledger.stored_events"
CHECK = "legs and account events"
LEG_KIND: dict[type, str] = {
    ev.AccountCredited: "credit",
    ev.AccountDebited: "debit",
    ev.AmountHeld: "hold",
    ev.HoldReleased: "release",
    ev.HoldCaptured: "capture",
    ev.HoldExpired: "release",
    ev.AmountFrozen: "freeze",
    ev.AmountUnfrozen: "unfreeze",
}
WITH_HOLD = (ev.AmountHeld, ev.HoldReleased, ev.HoldCaptured, ev.HoldExpired)
_EVENT_FIELDS = (
    "operation_id",
    "leg_no",
    "business_type",
    "amount",
    "balance",
    "held",
    "business_date",
    "value_date",
    "booked_at",
)
_ACCOUNT_FIELDS = ("kind", "account_type", "subject", "currency", "normal_side")
_COMMAND_FIELDS = ("event", "business_date", "booked_at", "principal", "operation_id")
_OPENED_BY_ENGINE = ENGINE_TYPES | {"suspense"}
_Leg = tuple[ev.OperationBooked, ev.BookedLeg, ev.TouchedAccount | None, int]


class Legs:
    """The open claims of the commit that is being read, by account number and version.

    `accounts`, by stream, are as the events read so far have left them. What is said of an account
    with stripes is checked when all events of its operation have been read.
    """

    def __init__(self, accounts: Mapping[bytes, Account]) -> None:
        self._accounts = accounts
        self._wholes: list[tuple[str, ev.TouchedAccount, int]] = []
        self._legs: dict[tuple[str, int], _Leg] = {}
        self._commands: dict[tuple[str, int], tuple[ev.CommandBooked, int]] = {}

    def claim(self, operation: ev.OperationBooked, position: int) -> None:
        """Expect an account event for each leg of a booked operation."""
        self._check_wholes()
        touched = {account.account: account for account in operation.accounts}
        for leg in operation.legs:
            after = touched.get(leg.account)
            if after is not None and after.version == leg.version:
                del touched[leg.account]
            else:
                after = None
            key = (leg.account, leg.version)
            if key in self._legs:
                _unlike(position, f"state.legs[{leg.no}].version", "a version of its own", key[1])
            self._legs[key] = (operation, leg, after, position)
        if operation.issues:
            _check_issues(operation, position)
        for number, whole in touched.items():
            if any(leg.intended_account == number and is_striped(leg) for leg in operation.legs):
                self._wholes.append((operation.book_id, whole, position))
                continue
            _unlike(position, f"state.accounts[{number}]", "the version of a leg", None)

    def claim_command(self, command: ev.CommandBooked, position: int) -> None:
        """Expect the account event that a command became."""
        self._check_wholes()
        self._commands[command.account, command.version] = (command, position)

    def settle(self, event: ev.Moved, account: Account, position: int) -> None:
        """Match an account event with its leg; `account` is as the event left it."""
        claim = self._legs.pop((event.account, event.version), None)
        if claim is None:
            _unlike(position, "state", "a leg of a booked operation of this commit", None)
        operation, leg, touched, _ = claim
        claimed = (
            operation.operation_id,
            leg.no,
            operation.business_type,
            leg.amount_minor,
            leg.balance_minor,
            leg.held_minor,
            operation.business_date,
            operation.value_date,
            operation.booked_at,
        )
        found = (
            event.operation_id,
            event.leg_no,
            event.business_type,
            event.amount_minor,
            event.balance_minor,
            event.held_minor,
            event.business_date,
            event.value_date,
            event.booked_at,
        )
        # The suspense account may be at a later day than the inflow it takes.
        later = leg.intended_account is not None and event.business_date > operation.business_date
        if claimed != found and not (later and claimed[:6] + claimed[7:] == found[:6] + found[7:]):
            _unlike_field(position, _EVENT_FIELDS, claimed, found)
        kept = (account.type, account.subject, account.currency, account.normal_side)
        claimed_kept = (leg.account_type, leg.subject, leg.currency, leg.normal_side)
        if claimed_kept != kept or leg.kind != LEG_KIND[type(event)]:
            _unlike_field(
                position,
                _ACCOUNT_FIELDS,
                (LEG_KIND[type(event)], *kept),
                (leg.kind, *claimed_kept),
            )
        if leg.hold_id is not None or isinstance(event, WITH_HOLD):
            hold_id = getattr(event, "hold_id", None)
            if leg.hold_id != hold_id:
                _unlike(position, "state.hold_id", leg.hold_id, hold_id)
        if leg.intended_account is not None:
            intended = getattr(event, "intended_account", None)
            if intended != leg.intended_account:
                _unlike(position, "state.intended_account", leg.intended_account, intended)
        if touched is not None and account.striping is not None:
            self._wholes.append((operation.book_id, touched, position))
        elif touched is not None:
            check_touched(touched, account, position)

    def settle_command(
        self, event: ev.Administered | ev.AccountOpened, account: Account, position: int
    ) -> None:
        """Match a change of standing with the command that asked for it."""
        claim = self._commands.pop((event.account, event.version), None)
        if claim is None:
            own = isinstance(event, ev.AccountOpened) and event.type in _OPENED_BY_ENGINE
            if own and (event.account, event.version + 1) in self._legs:
                return  # the engine opens such an account for the leg that follows
            _unlike(position, "state", "a booked command of this commit", None)
        command, claimed_at = claim
        claimed = (
            command.event,
            command.business_date,
            command.booked_at,
            command.principal,
            command.operation_id,
        )
        found = (
            type(event).__name__,
            event.business_date,
            event.booked_at,
            event.principal,
            event.command_id,
        )
        if claimed != found:
            _unlike_field(position, _COMMAND_FIELDS, claimed, found)
        check_touched(command.touched, self._whole(account), claimed_at)

    def finish_commit(self) -> None:
        """Prove that every claim of the commit has had its event."""
        self._check_wholes()
        for operation, leg, _, position in self._legs.values():
            what = f"state.legs[{leg.no}]"
            _unlike(position, what, "an account event", f"none in {operation.operation_id}")
        for command, position in self._commands.values():
            _unlike(position, "state.event", command.event, None)

    def _check_wholes(self) -> None:
        """Check what the operation before said of accounts with stripes: one each, all in all."""
        for book_id, touched, position in self._wholes:
            home = self._accounts.get(account_stream(book_id, touched.account))
            if home is None:
                _unlike(position, f"state.accounts[{touched.account}]", "an account", None)
            check_touched(touched, self._whole(home), position)
        self._wholes.clear()

    def _whole(self, account: Account) -> Account:
        if account.striping is None:
            return account
        book_id = account.book_id
        return whole_of(account, lambda each: self._accounts.get(account_stream(book_id, each)))


def _check_issues(operation: ev.OperationBooked, position: int) -> None:
    """Prove that each leg that went elsewhere is an issue, and each issue such a leg."""
    sent_elsewhere = [
        (leg.no, leg.account, leg.intended_account, leg.amount_minor, leg.currency)
        for leg in operation.legs
        if leg.intended_account is not None and not (is_accepted(leg) or is_striped(leg))
    ]
    issues = [
        (issue.leg_no, issue.account, issue.intended_account, issue.amount_minor, issue.currency)
        for issue in operation.issues
        if issue.account != issue.intended_account  # booked where it was meant to be
    ]
    if issues != sent_elsewhere:
        _unlike(position, "state.issues", sent_elsewhere, issues)


def check_touched(touched: ev.TouchedAccount, account: Account, position: int) -> None:
    """Compare what an answer said of an account with the account at that version."""
    said = (
        touched.currency,
        touched.balance_minor,
        touched.available_minor,
        touched.held_minor,
        touched.frozen_minor,
        touched.version,
        touched.previous_balance_minor,
        touched.day_debits_minor,
        touched.day_credits_minor,
    )
    should = (
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
    if said != should:
        names = ev.TouchedAccount.__struct_encode_fields__[1:]
        where = f"state.accounts[{account.number}]"
        for name, expected, found in zip(names, should, said, strict=True):
            if expected != found:
                _unlike(position, f"{where}.{name}", expected, found)


def _unlike(position: int, column: str, expected: Any, found: Any) -> NoReturn:
    differ(CHECK, EVENTS, {"notification_id": position}, column, expected, found)


def _unlike_field(
    position: int, names: tuple[str, ...], expected: tuple[Any, ...], found: tuple[Any, ...]
) -> None:
    for name, should, does in zip(names, expected, found, strict=True):
        if should != does:
            _unlike(position, f"state.{name}", should, does)
