"""Days cut and periods closed: one register per book, written into the same log.

A cut says that the books include a day whole; what is vouchered later is dated into the open
day. A closed period takes no voucher at all. Invariant: cuts only move forward; a close or a
reopening is proposed by one person and approved by another, and names both.
"""

# ruff: noqa: ARG002 - the library's `event` decorator makes the events of the arguments

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import msgspec
from eventsourcing.application import AggregateNotFoundError
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError

from accounting.decided import DayCut, PeriodChangeProposed
from accounting.decisions import AccountingDecisions, DecisionRefused

CLOSE = "close"
REOPEN = "reopen"
LISTED_BYTES_MAX = 180 * 1024  # of operation ids in a cut: with its counts it fits a message


class Periods(Aggregate):
    """What one book has cut and closed so far, and which changes wait for a second person."""

    class Opened(Aggregate.Created):
        """The book's register came to be."""

        book_id: str

    class DayCut(Aggregate.Event):
        """The books are cut through a date; what was parked or waiting then is listed."""

        book_id: str
        cut_date: str
        open_date: str
        parked: list[dict[str, Any]]
        operations: int
        operation_ids: list[str]
        maker: str
        note: str

    class ChangeProposed(Aggregate.Event):
        """The maker wants to close through a date, or to reopen from one."""

        book_id: str
        change_id: str
        kind: str
        period_date: str
        maker: str
        note: str

    class ChangeRejected(Aggregate.Event):
        """Somebody, perhaps the maker, said no."""

        book_id: str
        change_id: str
        checker: str
        note: str

    class PeriodClosed(Aggregate.Event):
        """Another person approved: nothing is dated through this date any more."""

        book_id: str
        change_id: str
        through_date: str
        maker: str
        checker: str
        note: str

    class PeriodReopened(Aggregate.Event):
        """Another person approved: vouchers may be dated from this date on again."""

        book_id: str
        change_id: str
        from_date: str
        maker: str
        checker: str
        note: str

    @event(Opened)
    def __init__(self, book_id: str) -> None:
        self.book_id = book_id
        self.cut_through: str | None = None
        self.closed_through: str | None = None
        self.waiting: dict[str, tuple[str, str, str, str]] = {}
        self.decided: dict[str, str] = {}

    @staticmethod
    def create_id(book_id: str) -> UUID:
        """Name the register by its book."""
        return uuid5(NAMESPACE_URL, f"daybook:periods/{book_id}")

    @event(DayCut)
    def cut(
        self,
        book_id: str,
        cut_date: str,
        open_date: str,
        parked: list[dict[str, Any]],
        operations: int,
        operation_ids: list[str],
        maker: str,
        note: str,
    ) -> None:
        """Remember how far the books are cut."""
        self.cut_through = cut_date

    def propose(self, change: PeriodChangeProposed) -> None:
        """Propose a close or a reopening that would change something."""
        closed = self.closed_through or ""
        if change.kind == CLOSE and change.period_date <= closed:
            raise DecisionRefused("already_closed", f"closed through {closed} already")
        if change.kind == REOPEN and change.period_date > closed:
            raise DecisionRefused("not_closed", f"{change.period_date} is not in a closed period")
        self._propose(
            change.book_id,
            change.change_id,
            change.kind,
            change.period_date,
            change.maker,
            change.note,
        )

    @event(ChangeProposed)
    def _propose(
        self, book_id: str, change_id: str, kind: str, period_date: str, maker: str, note: str
    ) -> None:
        self.waiting[change_id] = (kind, period_date, maker, note)

    def approve(self, change_id: str, checker: str) -> None:
        """Approve a proposal once, by somebody else than its maker."""
        kind, period_date, maker, note = self._open(change_id)
        if checker == maker:
            raise DecisionRefused("same_principal", "maker and checker must be two people")
        closed = self.closed_through or ""
        if kind == CLOSE:
            if period_date <= closed:
                raise DecisionRefused("already_closed", f"closed through {closed} already")
            self._close(self.book_id, change_id, period_date, maker, checker, note)
        else:
            if period_date > closed:
                raise DecisionRefused("not_closed", f"{period_date} is not in a closed period")
            self._reopen(self.book_id, change_id, period_date, maker, checker, note)

    @event(PeriodClosed)
    def _close(
        self,
        book_id: str,
        change_id: str,
        through_date: str,
        maker: str,
        checker: str,
        note: str,
    ) -> None:
        self.closed_through = through_date
        self._done(change_id, f"{checker} has approved")

    @event(PeriodReopened)
    def _reopen(
        self, book_id: str, change_id: str, from_date: str, maker: str, checker: str, note: str
    ) -> None:
        self.closed_through = day_before(from_date)
        self._done(change_id, f"{checker} has approved")

    def reject(self, change_id: str, checker: str, note: str) -> None:
        """Reject a proposal while it is open; its maker may take it back so."""
        self._open(change_id)
        self._reject(self.book_id, change_id, checker, note)

    @event(ChangeRejected)
    def _reject(self, book_id: str, change_id: str, checker: str, note: str) -> None:
        self._done(change_id, f"{checker} has rejected")

    def _open(self, change_id: str) -> tuple[str, str, str, str]:
        if change_id in self.decided:
            raise DecisionRefused("already_decided", f"{self.decided[change_id]} already")
        if change_id not in self.waiting:
            raise DecisionRefused("unknown_change", change_id)
        return self.waiting[change_id]

    def _done(self, change_id: str, words: str) -> None:
        del self.waiting[change_id]
        self.decided[change_id] = words


def day_before(date: str) -> str:
    """Give the day before a date; the first day of all stays itself."""
    day = dt.date.fromisoformat(date)
    return (day if day == dt.date.min else day - dt.timedelta(days=1)).isoformat()


def cut_day(
    decisions: AccountingDecisions, cut: DayCut, guard_in_tx: Callable[[Any], None]
) -> int | None:
    """Write a cut; return its position, None when the books are cut through the date already.

    `guard_in_tx` is called under the log's lock with its cursor and raises what speaks
    against the cut as it was read.
    """
    register = _register(decisions, cut.book_id)
    if register.cut_through is not None and cut.cut_date <= register.cut_through:
        return None
    register.cut(
        cut.book_id,
        cut.cut_date,
        cut.open_date,
        [msgspec.to_builtins(each) for each in cut.parked],
        cut.operations,
        list(cut.operation_ids),
        cut.maker,
        cut.note,
    )
    return decisions.saved(register, guard_in_tx=guard_in_tx)


def propose_change(
    decisions: AccountingDecisions,
    book_id: str,
    kind: str,
    period_date: str,
    *,
    maker: str,
    note: str = "",
) -> str:
    """Propose to close through a date or to reopen from one; return the proposal's id."""
    change_id = str(uuid4())
    change = PeriodChangeProposed(book_id, change_id, kind, period_date, maker, note)
    _changed(decisions, book_id, lambda register: register.propose(change))
    return change_id


def approve_change(
    decisions: AccountingDecisions, book_id: str, change_id: str, *, checker: str
) -> int:
    """Approve a proposal as another principal; return the position of the change."""
    return _changed(decisions, book_id, lambda register: register.approve(change_id, checker))


def reject_change(
    decisions: AccountingDecisions, book_id: str, change_id: str, *, checker: str, note: str = ""
) -> int:
    """Reject a proposal; return the position of the rejection."""
    return _changed(decisions, book_id, lambda register: register.reject(change_id, checker, note))


def _changed(
    decisions: AccountingDecisions, book_id: str, change: Callable[[Periods], None]
) -> int:
    """Change the register; of two at once the second meets what the first has decided."""
    while True:
        register = _register(decisions, book_id)
        change(register)
        with suppress(IntegrityError):
            return decisions.saved(register)


def _register(decisions: AccountingDecisions, book_id: str) -> Periods:
    try:
        register: Aggregate = decisions.repository.get(Periods.create_id(book_id))
    except AggregateNotFoundError:
        return Periods(book_id)
    assert isinstance(register, Periods)
    return register
