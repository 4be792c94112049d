"""The engine: callers' jobs become batches, a batch is one database transaction.

*One is a batch of one.* A batch closes when the previous one commits, or at a size cap. It
takes the log's lock first and holds it to the commit. Invariant: an answer is only
ever built from a committed record; whatever aborts leaves nothing behind, and a lost COMMIT
reply is resolved by looking the ids up under the commit-order lock on a new connection.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
from psycopg import Connection

from ledger.account import instant_text
from ledger.batch import decide_batch
from ledger.business_types import BusinessTypes
from ledger.codec import Seal
from ledger.errors import (
    EngineStopped,
    InvalidRequest,
    LedgerError,
    Overloaded,
    StoreUnavailable,
)
from ledger.heads import HeadCache, select_expired_in_tx, write_heads_in_tx
from ledger.job import Decided, Job, Loaded, Missing, answer_of
from ledger.loading import Wanted, load_in_tx
from ledger.log import Log, LogEnd
from ledger.operation import Result

Results = list[Result]
RETRIES_OF_CONFLICT = 3
RETRY_PAUSE_S = 0.05
SWEEP_INTERVAL_S = 1.0
SWEEP_ACCOUNTS_MAX = 500


class EngineSettings(msgspec.Struct, frozen=True):
    """Bounds of the engine; sizes in submissions, times in seconds."""

    batch_size_max: int = 8_000
    queue_size_max: int = 100_000
    store_patience_s: float = 2.0
    clock_jump_s_max: float = 3_600.0
    sweep_interval_s: float = SWEEP_INTERVAL_S


class Ticket:
    """A caller's place in the queue: `results()` waits, `on_done` is called once instead."""

    __slots__ = ("_error", "_event", "_results", "job", "on_done")

    def __init__(self, job: Job, on_done: Callable[[Ticket], None] | None = None) -> None:
        self.job = job
        self.on_done = on_done
        self._event = threading.Event() if on_done is None else None
        self._results: Results | None = None
        self._error: LedgerError | None = None

    def settle(self, results: Results | LedgerError) -> None:
        """Give the caller the results, or one error for the whole job."""
        if isinstance(results, LedgerError):
            self._error = results
        else:
            self._results = results
        if self.on_done is not None:
            self.on_done(self)
        elif self._event is not None:
            self._event.set()

    def results(self, timeout_s: float | None = None) -> Results:
        """Return one result per submission, in order; raise the job's error."""
        if self._event is not None and not self._event.wait(timeout_s):
            raise StoreUnavailable("no answer in time; ask again with the same operation id")
        if self._error is not None:
            raise self._error
        assert self._results is not None
        return self._results


class Engine:
    """Group commit in front of PostgreSQL. Several engines on one database are safe.

    `connect` opens a connection of the engine's own; `clock` returns the UTC time and
    `steady` a clock that runs through sleep; `reach` is called with a step's name (tests
    kill the process there).
    """

    def __init__(
        self,
        connect: Callable[[], Connection[Any]],
        types: BusinessTypes,
        settings: EngineSettings | None = None,
        *,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        reach: Callable[[str], None] = lambda _step: None,
    ) -> None:
        self.types = types
        self.settings = settings or EngineSettings()
        self.log = Log()
        self._connect = connect
        self._clock = clock
        self._steady = steady
        self._reach = reach
        self._conn: Connection[Any] | None = None
        self._heads = HeadCache()
        self._clock_read: tuple[dt.datetime, float] | None = None
        self._queue: deque[Ticket] = deque()
        self._queued = 0
        self._wake = threading.Condition()
        self._stopping: LedgerError | None = None
        self._swept_at = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # --- callers --------------------------------------------------------------------------

    def start(self) -> Engine:
        """Start the engine's thread."""
        self._thread.start()
        return self

    def submit(self, job: Job, on_done: Callable[[Ticket], None] | None = None) -> Ticket:
        """Queue a job. Raises `Overloaded` (queue full) or `EngineStopped` (draining)."""
        ticket = Ticket(job, on_done)
        with self._wake:
            if self._stopping is not None:
                raise self._stopping
            if self._queued + len(job.submissions) > self.settings.queue_size_max:
                raise Overloaded(f"{self._queued} operations are waiting")
            self._queue.append(ticket)
            self._queued += len(job.submissions)
            self._wake.notify()
        return ticket

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
        while True:
            tickets = self._next_batch()
            if tickets:
                self._settle(tickets)
            elif self._stopping is not None:
                break
            self._sweep_expired_holds()
        if self._conn is not None:
            self._conn.close()

    def _next_batch(self) -> list[Ticket]:
        """Take what waits, of one book, up to the size cap; at least one job."""
        with self._wake:
            if not self._queue and self._stopping is None:
                self._wake.wait(self.settings.sweep_interval_s)
            batch: list[Ticket] = []
            size = 0
            while self._queue:
                job = self._queue[0].job
                fits = size + len(job.submissions) <= self.settings.batch_size_max
                if batch and (not fits or job.book_id != batch[0].job.book_id):
                    break
                batch.append(self._queue.popleft())
                size += len(job.submissions)
            self._queued -= size
            return batch

    def _settle(self, tickets: list[Ticket]) -> None:
        try:
            results: list[Results | LedgerError] = self._book([t.job for t in tickets])
        except LedgerError as error:
            results = [error] * len(tickets)
        for ticket, result in zip(tickets, results, strict=True):
            ticket.settle(result)

    def _sweep_expired_holds(self) -> None:
        now = self._steady()
        if now - self._swept_at < self.settings.sweep_interval_s:
            return
        self._swept_at = now
        try:
            with self._connection().transaction(), self._connection().cursor() as cursor:
                found = select_expired_in_tx(
                    cursor, instant_text(self._clock()), SWEEP_ACCOUNTS_MAX
                )
            for book_id, numbers in found.items():
                self._book([Job(book_id=book_id, submissions=(), sweep=numbers)])
        except (LedgerError, psycopg.OperationalError, psycopg.InterfaceError):
            self._drop_connection()  # the next round sweeps again

    # --- one batch ------------------------------------------------------------------------

    def _book(self, jobs: list[Job]) -> list[Results | LedgerError]:
        """Book jobs as one transaction; on any abort nothing of it remains (Rule: abort)."""
        deadline = self._steady() + self.settings.store_patience_s
        wanted = Wanted.by(jobs)
        conflicts = 0
        while True:
            try:
                return list(self._book_in_own_tx(jobs, wanted))
            except psycopg.errors.UniqueViolation as error:
                # Only a writer that does not take the lock can cause it: look again.
                conflicts += 1
                if conflicts > RETRIES_OF_CONFLICT:
                    if len(jobs) > 1:
                        return self._book_apart(jobs)
                    raise StoreUnavailable(f"another writer is in the log: {error}") from error
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                if sum(len(job.submissions) for job in jobs) > 1:
                    return self._book_apart(jobs)
                return [InvalidRequest(str(error).strip(), code="refused_by_store")]
            except psycopg.Error as error:
                # The reply to COMMIT may be what was lost. The next try waits for the old
                # backend under the log's lock and finds the ids that it has committed.
                self._drop_connection()
                if self._steady() >= deadline:
                    raise StoreUnavailable(str(error).strip()) from error
                time.sleep(RETRY_PAUSE_S)

    def _book_apart(self, jobs: list[Job]) -> list[Results | LedgerError]:
        """Bisect: only the guilty operation fails. An atomic job is never taken apart."""
        if len(jobs) > 1:
            middle = len(jobs) // 2
            return self._book(jobs[:middle]) + self._book(jobs[middle:])
        job = jobs[0]
        if job.atomic:
            return [InvalidRequest("the store refused the batch", code="refused_by_store")]
        middle = len(job.submissions) // 2
        parts = [
            msgspec.structs.replace(job, submissions=part)
            for part in (job.submissions[:middle], job.submissions[middle:])
        ]
        results: Results = []
        for part in parts:
            answer = self._book([part])[0]
            results += (
                [answer] * len(part.submissions) if isinstance(answer, LedgerError) else answer
            )
        return [results]

    def _book_in_own_tx(self, jobs: list[Job], wanted: Wanted) -> list[Results]:
        conn = self._connection()
        book_id = jobs[0].book_id
        seal: Seal | None = None
        with conn.transaction(), conn.cursor() as cursor:
            end = self.log.lock_log_in_tx(cursor, book_id)
            self._heads.enter(end.seal)
            booked_at = self._now(end)
            loaded, decided = self._decide_in_tx(cursor, jobs, wanted, booked_at)
            if decided.rows:
                self._reach("engine.before_insert")
                write_heads_in_tx(cursor, loaded.accounts, decided.touched, decided.opened)
                seal = self.log.append_in_tx(
                    cursor,
                    decided.rows,
                    end=end,
                    book_id=book_id,
                    booked_at=booked_at,
                    totals=decided.totals,
                )
                self._reach("engine.after_insert")
            self._reach("engine.before_commit")
        self._reach("engine.after_commit")
        if seal is not None:
            self._heads.committed(seal.seal, decided.touched.values())
        first_id = seal.first_id if seal is not None else 0
        return [
            [
                outcome
                if isinstance(outcome, LedgerError)
                else answer_of(outcome, first_id, dry_run=job.dry_run)
                for outcome in outcomes
            ]
            for job, outcomes in zip(jobs, decided.outcomes, strict=True)
        ]

    def _decide_in_tx(
        self, cursor: psycopg.Cursor[Any], jobs: list[Job], wanted: Wanted, booked_at: str
    ) -> tuple[Loaded, Decided]:
        """Load and decide; load more when a decision reads what no request named."""
        while True:
            loaded = load_in_tx(cursor, jobs[0].book_id, wanted, self.types, self._heads)
            try:
                return loaded, decide_batch(jobs, loaded, self.types, booked_at)
            except Missing as missing:
                wanted.extend(missing)

    def _now(self, end: LogEnd) -> str:
        """Read the clock once per batch: never before the last commit's `booked_at`.

        Stops the engine when the clock jumped forward too far.
        """
        now, steady = self._clock(), self._steady()
        if self._clock_read is not None:
            before, steady_before = self._clock_read
            jump_s = (now - before).total_seconds() - (steady - steady_before)
            if jump_s > self.settings.clock_jump_s_max:
                self._stopping = EngineStopped(f"the clock jumped forward by {jump_s:.0f} s")
                raise self._stopping
        self._clock_read = (now, steady)
        return max(instant_text(now), end.booked_at)

    def _connection(self) -> Connection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = self._connect()
        return self._conn

    def _drop_connection(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
