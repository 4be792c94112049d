"""Which day a voucher belongs to: business date, or the open day once that date is cut.

Pure. Rule (voucher identity): what is decided at a position is dated by the cuts, closes and
opened days that stand below it in the log. Invariant: a dating never changes afterwards, so
a rebuild and every lane give the same one.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

DAY = "day"  # the open business date moved to this date
CUT = "cut"  # the books are cut through this date
CLOSED = "closed"  # closed through this date ("" = nothing is)


class Dating(NamedTuple):
    """The accounting date to use, the cut that moved it, and how far periods are closed."""

    accounting_date: str | None = None
    cut_through: str | None = None
    closed_through: str | None = None


AS_BOOKED = Dating()


class Calendar:
    """Opened days, cuts and closes met so far: facts of the log, newest first per book.

    Like the rulesets it may be behind another process's, never wrong; it is caught up with
    them.
    """

    def __init__(self) -> None:
        self._facts: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self._positions: set[int] = set()
        self._decided: set[str] = set()  # books with a cut or a close: others cost nothing

    def add(self, kind: str, position: int, book_id: str, date: str) -> None:
        """Remember a fact; adding it again changes nothing."""
        if position in self._positions:
            return
        self._positions.add(position)
        facts = [*self._facts.get((kind, book_id), ()), (position, date)]
        facts.sort(reverse=True)
        self._facts[kind, book_id] = facts  # whole at any time: another thread may be dating
        if kind != DAY:
            self._decided.add(book_id)

    def positions(self) -> list[int]:
        """List what is known."""
        return sorted(self._positions)

    def date_below(self, kind: str, book_id: str, position: int) -> str | None:
        """Give the date of the newest fact of a kind below a position."""
        for at, date in self._facts.get((kind, book_id), ()):
            if at < position:
                return date
        return None

    def dating(self, book_id: str, business_date: str, *, below: int) -> Dating:
        """Date what is decided at the position `below`."""
        if book_id not in self._decided:
            return AS_BOOKED
        cut_through = self.date_below(CUT, book_id, below)
        closed_through = self.date_below(CLOSED, book_id, below) or None
        if cut_through is None or business_date > cut_through:
            return Dating(None, None, closed_through)
        open_date = self.date_below(DAY, book_id, below) or ""
        return Dating(max(open_date, day_after(cut_through)), cut_through, closed_through)

    def refusal(self, book_id: str, accounting_date: str, *, below: int) -> str | None:
        """Say why a given accounting date cannot be used at a position; None when it can."""
        if book_id not in self._decided:
            return None
        cut_through = self.date_below(CUT, book_id, below)
        if cut_through is not None and accounting_date <= cut_through:
            return f"{accounting_date} is cut (through {cut_through})"
        closed_through = self.date_below(CLOSED, book_id, below)
        if closed_through and accounting_date <= closed_through:
            return f"{accounting_date} is closed through {closed_through}"
        return None


def day_after(date: str) -> str:
    """Give the day after a date; the last day of all stays itself."""
    day = dt.date.fromisoformat(date)
    return (day if day == dt.date.max else day + dt.timedelta(days=1)).isoformat()
