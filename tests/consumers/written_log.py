"""Write a log as the engine would, without its decisions: only what the consumers read.

Accounts have a running version and balance, so that closings can be checked; each leg is
preceded by its account event, so that positions have the gaps the consumers know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from accounting.decisions import AccountingDecisions
from accounting.ruleset import Ruleset
from accounting.ruleset_files import shipped_ruleset
from infra.decision_log import decision_log
from ledger.codec import account_stream, operation_stream, row_of
from ledger.events import (
    MOVEMENT_KINDS,
    AccountCredited,
    AccountDebited,
    BookedLeg,
    Issue,
    NamedAmount,
    OperationBooked,
    OrderNumbers,
)
from ledger.log import Log
from projections.identity import movement_of

BOOK = "main"
DAY = "2026-01-31"
AT = "2026-01-31T08:00:00.000000Z"
CUSTOMER = "2001.01"
MERCHANT = "2002.01"


def leg(kind: str, account: str, amount_minor: int, subject: str = CUSTOMER, **more: Any) -> Any:
    """Say a leg in a few words; version and balance are given when it is written."""
    return {"kind": kind, "account": account, "amount": amount_minor, "subject": subject, **more}


class WrittenLog:
    """Appends operations and decisions to the log of one database."""

    def __init__(self, database_url: str, book_id: str = BOOK) -> None:
        self.database_url = database_url
        self.book_id = book_id
        self._versions: dict[str, int] = {}
        self._balances: dict[str, int] = {}

    def publish(self, ruleset: Ruleset | None = None, **more: Any) -> int | None:
        """Publish a ruleset (default: the shipped one); return its position."""
        ruleset = ruleset or shipped_ruleset()
        return self.decide(
            lambda decisions: decisions.publish_ruleset(
                self.book_id,
                ruleset.to_document(),
                ruleset_hash=ruleset.hash,
                label=ruleset.version,
                maker=more.pop("maker", "alice"),
                **more,
            )
        )

    def decide(self, decide: Any) -> Any:
        """Write a decision: `decide` is given the application."""
        with decision_log(self.database_url) as decisions:
            found: AccountingDecisions = decisions
            return decide(found)

    def operation(
        self,
        operation_id: str,
        legs: Sequence[dict[str, Any]],
        *,
        business_type: str = "recharge",
        fee_minor: int | None = None,
        original: str | None = None,
        also: Sequence[str] = (),
        day: str = DAY,
        orders: OrderNumbers | None = None,
        issues: tuple[Issue, ...] = (),
        currency: str = "CNY",
    ) -> OperationBooked:
        """Book legs in memory, in the order of the calls."""
        booked = tuple(self._booked(no, each, currency) for no, each in enumerate(legs, 1))
        return OperationBooked(
            self.book_id,
            operation_id,
            business_type,
            day,
            day,
            AT,
            "gateway",
            "00" * 32,
            booked,
            (),
            amounts={} if fee_minor is None else {"fee": NamedAmount(fee_minor, currency)},
            orders=orders,
            original_operation_id=original,
            relation=None if original is None else "refund",
            issues=issues,
            also_follows=tuple(also),
        )

    def recharge(
        self, operation_id: str, account: str = "C-1", amount_minor: int = 10_000, **more: Any
    ) -> OperationBooked:
        """A customer's recharge: one credit leg."""
        return self.operation(operation_id, [leg("credit", account, amount_minor)], **more)

    def commit(self, *operations: OperationBooked) -> int:
        """Append operations in one commit; return the last position."""
        rows = []
        totals: dict[str, tuple[int, int]] = {}
        for operation in operations:
            moved = (each for each in operation.legs if each.kind in MOVEMENT_KINDS)
            rows += [_account_row(operation, each) for each in moved]
            stream = operation_stream(operation.book_id, operation.operation_id)
            rows.append(row_of(stream, 1, operation))
            for code, amount_minor in movement_of(operation).items():
                old = totals.get(code, (0, 0))
                totals[code] = (old[0] + 1, old[1] + amount_minor)
        log = Log()
        with psycopg.connect(self.database_url) as conn, conn.cursor() as cursor:
            end = log.lock_log_in_tx(cursor, self.book_id)
            seal = log.append_in_tx(
                cursor, rows, end=end, book_id=self.book_id, booked_at=AT, totals=totals
            )
        return seal.last_id

    def _booked(self, no: int, given: dict[str, Any], currency: str) -> BookedLeg:
        account, amount_minor = given["account"], given["amount"]
        self._versions[account] = version = self._versions.get(account, 1) + 1
        if given["kind"] in MOVEMENT_KINDS:
            signed = amount_minor if given["kind"] == "credit" else -amount_minor
            self._balances[account] = self._balances.get(account, 0) + signed
        return BookedLeg(
            no,
            given["kind"],
            account,
            "customer",
            given["subject"],
            given.get("currency", currency),
            amount_minor,
            version,
            self._balances.get(account, 0),
            0,
            "credit",
            hold_id=given.get("hold_id"),
            intended_account=given.get("intended_account"),
        )


def _account_row(operation: OperationBooked, each: BookedLeg) -> Any:
    event = AccountCredited if each.kind == "credit" else AccountDebited
    moved = event(
        each.account,
        operation.operation_id,
        each.no,
        operation.business_type,
        each.amount_minor,
        0,
        each.balance_minor,
        0,
        each.version,
        operation.business_date,
        operation.value_date,
        operation.booked_at,
    )
    return row_of(account_stream(operation.book_id, each.account), each.version, moved)
