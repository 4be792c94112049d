"""The engine: callers' jobs wait in one queue and are booked as batches, by one thread.

*One is a batch of one.* A batch closes when the previous one commits, or at a size cap; a
large batch is decided ahead while the one before it is written (`ledger/ahead.py`).
Invariant: every job that was taken is settled exactly once, with results or an error.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

import msgspec
import psycopg

from ledger.accepted import select_due_in_tx
from ledger.account import instant_text
from ledger.ahead import Ahead, settle
from ledger.booking import Booker, Clocks, Connect, Results
from ledger.business_types import BusinessTypes
from ledger.errors import EngineStopped, LedgerError, Overloaded
from ledger.heads import select_expired_in_tx
from ledger.interpreter import suit_batches
from ledger.job import Job
from ledger.ticket import Ticket, unrefused

__all__ = ["Engine", "EngineSettings", "Results", "Ticket"]

_log = logging.getLogger(__name__)
SWEEP_INTERVAL_S = 1.0
SWEEP_ACCOUNTS_MAX = 500
# Submissions: with fewer waiting, a batch closes only when the commit before it is known, so that
# all who came meanwhile ride together; with more, it is decided while that one is written.
OVERLAP_SIZE_MIN = 40


class EngineSettings(msgspec.Struct, frozen=True):
    """Bounds of the engine; sizes in submissions, times in seconds."""

    batch_size_max: int = 8_000
    queue_size_max: int = 100_000
    store_patience_s: float = 2.0
    clock_jump_s_max: float = 3_600.0
    sweep_interval_s: float = SWEEP_INTERVAL_S


class Engine:
    """Group commit in front of PostgreSQL. Several engines on one database are safe.

    `connect` opens a connection of the engine's own; `clock` returns the UTC time and
    `steady` a clock that runs through sleep; `reach` is called with a step's name (tests
    kill the process there).
    """

    def __init__(
        self,
        connect: Connect,
        types: BusinessTypes,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], dt.datetime] | None = None,
        steady: Callable[[], float] | None = None,
        reach: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings or EngineSettings()
        clocks = Clocks(jump_s_max=self.settings.clock_jump_s_max)
        self._clocks = Clocks(clock or clocks.clock, steady or clocks.steady, clocks.jump_s_max)
        self._booker = Booker(connect, types, self._clocks, self.settings.store_patience_s)
        if reach is not None:
            self._booker.reach = reach
        self._ahead = Ahead(connect, self._booker)
        self._queue: deque[Ticket] = deque()
        self._queued = 0
        self._wake = threading.Condition()
        self._stopping: LedgerError | None = None
        self._swept_at = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # --- callers --------------------------------------------------------------------------

    def start(self) -> Engine:
        """Start the engine's thread."""
        suit_batches()
        self._thread.start()
        return self

    def submit(self, job: Job, on_done: Callable[[Ticket], None] | None = None) -> Ticket:
        """Queue a job. Raises `Overloaded` (queue full) or `EngineStopped` (draining)."""
        ticket = Ticket(job, on_done)
        with self._wake:
            refusal = self._refusal(job)
            if refusal is not None:
                raise refusal
            self._append(ticket)
            self._wake.notify()
        return ticket

    def take(self, tickets: Iterable[Ticket]) -> None:
        """Queue jobs that came together, so that they are booked together.

        A job that `submit` would refuse settles its ticket with the error.
        """
        with self._wake:
            for ticket in unrefused(tickets, lambda each: self._refusal(each.job)):
                self._append(ticket)
            self._wake.notify()

    def _refusal(self, job: Job) -> LedgerError | None:
        if self._stopping is not None:
            return self._stopping
        if self._queued + len(job.submissions) > self.settings.queue_size_max:
            return Overloaded(f"{self._queued} operations are waiting")
        return None

    def _append(self, ticket: Ticket) -> None:
        ticket.since = self._clocks.steady()
        self._queue.append(ticket)
        self._queued += len(ticket.job.submissions)

    def post(self, job: Job, timeout_s: float | None = None) -> Results:
        """Book a job and wait for its results."""
        return self.submit(job).results(timeout_s)

    def stop(self, drain_s: float = 30.0) -> None:
        """Take no more jobs, book what is queued, close the connection."""
        with self._wake:
            if self._stopping is None:
                self._stopping = EngineStopped("the engine is draining")
            self._wake.notify()
        self._thread.join(drain_s)

    @property
    def queued(self) -> int:
        """Submissions that wait for a batch."""
        return self._queued

    @property
    def stopped_by(self) -> LedgerError | None:
        """Why the engine takes no jobs, or None."""
        return self._stopping

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._book_until_stopped()
        except BaseException:
            _log.critical("engine stopped: by a defect; restart this process", exc_info=True)
            raise
        finally:
            self._refuse_all()

    def _refuse_all(self) -> None:
        """Leave nobody waiting, and say so, when the thread ends with jobs still queued."""
        with self._wake:
            if self._stopping is None:
                self._stopping = EngineStopped("a defect ended the engine; restart this process")
            left = list(self._queue)
            self._queue.clear()
            self._queued = 0
        for ticket in left:
            ticket.settle(self._stopping)

    def _book_until_stopped(self) -> None:
        self._booker.warm()
        self._sweep()
        while True:
            if self._ahead.busy and self._queued < OVERLAP_SIZE_MIN:
                self._ahead.ended()
                if not self._queue:
                    self._ahead.answer()
            tickets = self._next_batch()
            ahead = bool(tickets) and self._ahead.takes(tickets)
            if ahead and not self._sweep_is_due():
                continue
            self._ahead.finish()
            if tickets and not ahead:
                settle(self._booker, tickets, self._add_what_came)
            elif not tickets and self._stopping is not None:
                break
            if self._booker.stopped_by is not None:
                self._stopping = self._booker.stopped_by
            if self._sweep_is_due():
                self._sweep()
        self._ahead.close()
        self._booker.drop_connection()

    def _next_batch(self) -> list[Ticket]:
        """Take what waits, of one book, up to the size cap; at least one job."""
        with self._wake:
            if not self._queue and self._stopping is None and not self._ahead.busy:
                self._wake.wait(self._sweep_pause_s())
            batch: list[Ticket] = []
            self._fill(batch)
            return batch

    def _add_what_came(self, batch: list[Ticket]) -> None:
        """Let those ride along who came while the batch waited for the log's lock."""
        with self._wake:
            self._fill(batch)

    def _fill(self, batch: list[Ticket]) -> None:
        size = sum(len(ticket.job.submissions) for ticket in batch)
        while self._queue:
            job = self._queue[0].job
            fits = size + len(job.submissions) <= self.settings.batch_size_max
            if batch and (not fits or job.book_id != batch[0].job.book_id):
                break
            batch.append(self._queue.popleft())
            size += len(job.submissions)
            self._queued -= len(job.submissions)

    def _sweep_pause_s(self) -> float:
        """Return how long to wait for jobs: until a sweep, or until a buffer of ours is due."""
        interval_s = self.settings.sweep_interval_s
        if self._booker.apply_at is None:
            return interval_s
        due = dt.datetime.fromisoformat(self._booker.apply_at)
        return min(interval_s, max(0.0, (due - self._clocks.clock()).total_seconds()))

    def _sweep_is_due(self) -> bool:
        if self._clocks.steady() - self._swept_at >= self.settings.sweep_interval_s:
            return True
        apply_at = self._booker.apply_at
        return apply_at is not None and apply_at <= instant_text(self._clocks.clock())

    def _sweep(self) -> None:
        """Expire holds and apply buffers whose time has come, of any engine, also a dead one."""
        self._swept_at = self._clocks.steady()
        booker = self._booker
        now = instant_text(self._clocks.clock())
        try:
            with booker.connection().transaction(), booker.connection().cursor() as cursor:
                expired = select_expired_in_tx(cursor, now, SWEEP_ACCOUNTS_MAX)
                due, booker.apply_at = select_due_in_tx(cursor, now, SWEEP_ACCOUNTS_MAX)
            for book_id, numbers in expired.items():
                booker.book([Job(book_id=book_id, submissions=(), sweep=numbers)])
            for book_id, numbers in due.items():
                booker.book([Job(book_id=book_id, submissions=(), apply=numbers)])
        except (LedgerError, psycopg.Error, OSError) as error:
            booker.note_failure(error)
            booker.apply_at = None
            booker.drop_connection()  # the next round sweeps again
