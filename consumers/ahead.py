"""Make the next poll ready while the one before it is written.

While the books are behind, the server's work (rows, indexes, commit) and ours (read, decode, try,
add up, pack) take about the same time, so the two overlap. Invariant: what is made ahead is a
function of the log alone: no decision is in it, nor in what is written meanwhile. It writes
nothing, and is used only if that was committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from psycopg import Error

from consumers.bus import Bus, Poll
from consumers.messages import Booked, LogRow, Unreadable, is_decision, read_row
from consumers.vouchers import Batch, made_ready, prepare
from ledger.errors import LogCorrupt
from projections.rulesets import PublishedRulesets

ROWS_MIN = 500  # fewer are made ready sooner than a thread wakes up


class Ready(NamedTuple):
    """A poll, decoded, tried, added up and packed; it carries operations only."""

    poll: Poll
    messages: list[Booked]
    batch: Batch


class Ahead:
    """At most one poll made ready in a thread of its own; used by one other thread."""

    def __init__(self, bus: Bus, rulesets: PublishedRulesets, *, with_results: bool) -> None:
        """`with_results`: the statuses are written in the poll's own commit."""
        self._bus = bus
        self._rulesets = rulesets
        self._with_results = with_results
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._made: Future[Ready | None] | None = None

    def begin(self, poll: Poll) -> None:
        """Make ready what follows a poll that is about to be written, if it is a long one.

        Nothing is begun behind a decision: what follows depends on it.
        """
        if len(poll.rows) < ROWS_MIN or _has_decision(poll.rows):
            return
        self._made = self._pool.submit(self._make, poll)

    def take(self, after: int | None) -> Ready | None:
        """Wait for what is being made, and give it if it begins at this position."""
        if self._made is None:
            return None
        made, self._made = self._made, None
        try:
            ready = made.result()
        except (Error, LogCorrupt, OSError):
            return None  # the next poll meets the same, and says so
        return ready if ready is not None and ready.poll.after == after else None

    def close(self) -> None:
        """Wait for what is being made: the bus is free then."""
        self._pool.shutdown()

    def _make(self, before: Poll) -> Ready | None:
        poll = self._bus.following(before)
        if poll is None or _has_decision(poll.rows):
            return None
        try:
            messages = [read_row(row) for row in poll.rows]
        except Unreadable:
            return None  # it is met again, in its turn
        booked = [message for message in messages if isinstance(message, Booked)]
        batch = prepare(self._rulesets, booked)
        return Ready(poll, booked, made_ready(batch, with_results=self._with_results))


def _has_decision(rows: Sequence[LogRow]) -> bool:
    return any(is_decision(row.topic) for row in rows)
