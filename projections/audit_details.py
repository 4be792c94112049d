"""Audit what operations leave in the books whatever the rules make of them.

A `ledger.audit.Reader`: order numbers and issues of every operation that has been claimed.
Nothing is posted for it, so it can run where the log is proved while `consumers/audit.py` runs in
a process of its own. Memory: the rows of one stretch of the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import Connection

from ledger.audit_fold import Proved
from ledger.events import OperationBooked
from projections.audit import USE_BOOKS, read_standing
from projections.audit_tables import ISSUES, OPERATION_ORDERS, Following, Row, compare_rows
from projections.orders import order_numbers

POSITIONS_PER_COMPARE = 10_000
LAST = 2**63 - 1


class Details:
    """Order numbers and issues as the log makes them, compared with those that are stored."""

    checks: tuple[str, ...] = ()  # part of the check of the books, which passes after this
    notes: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._orders: list[Row] = []
        self._issues: list[Row] = []
        self._compared_to = 0

    def start(self, conn: Connection[Any]) -> None:
        """Read how far the books are, in the audit's snapshot."""
        conn.execute(USE_BOOKS)
        self._conn = conn
        self._standing = read_standing(conn)
        self._stored_orders = Following(conn, OPERATION_ORDERS)
        self._stored_issues = Following(conn, ISSUES)

    def read(self, through: int, events: Iterable[Proved]) -> None:
        """Take a commit's operations; compare when a stretch is full."""
        visible, ahead = self._standing.visible, self._standing.ahead
        for position, _, event in events:
            if type(event) is OperationBooked and (position <= visible or position in ahead):
                if event.orders is not None:
                    self._expect_orders(position, event)
                if event.issues:
                    self._expect_issues(position, event)
        if through - self._compared_to >= POSITIONS_PER_COMPARE:
            self._compare_stretch(through)

    def finish(self) -> None:
        """Compare the rest."""
        self._compare_stretch(LAST)

    def _expect_orders(self, position: int, operation: OperationBooked) -> None:
        numbers = order_numbers(operation)
        if len(numbers) > 1:
            numbers.sort()
        for kind, number in numbers:
            self._orders.append((operation.book_id, number, kind, operation.operation_id, position))

    def _expect_issues(self, position: int, operation: OperationBooked) -> None:
        for no, issue in enumerate(operation.issues, 1):
            self._issues.append(
                (
                    operation.book_id,
                    operation.operation_id,
                    no,
                    issue.code,
                    issue.leg_no,
                    issue.account,
                    issue.intended_account,
                    issue.currency,
                    issue.amount_minor,
                    issue.reason,
                    operation.business_date,
                    position,
                )
            )

    def _compare_stretch(self, through: int) -> None:
        compare_rows(OPERATION_ORDERS, self._orders, self._stored_orders.take(through))
        compare_rows(ISSUES, self._issues, self._stored_issues.take(through))
        self._orders, self._issues = [], []
        self._compared_to = through
