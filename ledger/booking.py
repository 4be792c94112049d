"""Book one batch: one database transaction under the log's lock, retried until it is known.

Invariant (Rule: abort): whatever aborts leaves nothing behind; an answer is only ever built
from a committed record. After a lost COMMIT reply the next try waits for the old backend
under the lock and finds the ids that it has committed.

Ahead: while one batch is written, the next is decided on its outcome (`prepare`). That is only
a guess until the writer holds the lock and finds that the log's last seal is the one the guess
was built on, and no id on record that was taken for new; otherwise it is thrown away and the
batch is booked from the start.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
from psycopg import Connection, Cursor

from ledger import statement
from ledger.account import Account, instant_text
from ledger.batch import decide_batch
from ledger.business_types import BusinessTypes
from ledger.clock import select_clock
from ledger.errors import (
    EngineStopped,
    InvalidRequest,
    LedgerError,
    LogCorrupt,
    StoreUnavailable,
)
from ledger.head_cache import HeadCache, warm
from ledger.heads import write_heads_in_tx, write_money_in_tx
from ledger.job import Decided, Job, Loaded, Missing, answer_of
from ledger.loading import Wanted, load_in_tx
from ledger.log import Entry, Log, LogEnd, Sealed, seal_rows
from ledger.operation import Result
from ledger.packed import Copied, pack
from ledger.recall import has_records_in_tx
from ledger.statement import Stated
from ledger.tip import Prepared, Tip, leaves_no_row, overlay

_log = logging.getLogger(__name__)
Results = list[Result]
Connect = Callable[[], Connection[Any]]
LateJobs = Callable[[], list[Job]]
RETRIES_OF_CONFLICT = 3
RETRY_PAUSE_S = 0.05
LOOK_UPS_AFTER_REPEAT = 50  # batches: who repeats one operation often repeats more
# The server itself ended a wait: to ask the same again at once would take as long.
WAITED_IN_VAIN = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)
COMPANY_AFTER_SUPERSEDED = 4  # batches without another engine's commit before we guess again


class Clocks(msgspec.Struct, frozen=True):
    """Where time comes from: `clock` is UTC, `steady` runs through sleep and never jumps."""

    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    jump_s_max: float = 3_600.0


class Superseded(Exception):
    """The log is not as a batch was prepared on it: another last seal, or an id on record."""


class Booker:
    """Books batches on one connection. Not thread-safe: one thread at a time uses it."""

    def __init__(
        self, connect: Connect, types: BusinessTypes, clocks: Clocks, patience_s: float
    ) -> None:
        self.log = Log()
        self.types = types
        self.tip: Tip | None = None
        self.alone = False  # nobody else has committed between our last two batches
        self.stopped_by: EngineStopped | None = None
        self.apply_at: str | None = None  # when the first buffer that we filled is due
        self.gave_up: StoreUnavailable | None = None  # the last wait in vain, until one is not
        self.reach: Callable[[str], None] = lambda _step: None
        self._connect = connect
        self._clocks = clocks
        self.patience_s = patience_s
        self._conn: Connection[Any] | None = None
        self._planned_on: Connection[Any] | None = None
        self._heads = HeadCache()
        self._guesses: deque[dict[str, Account]] = deque()  # heads whose commit is not yet known
        self._look_ups_left = 0
        self._company_left = 0
        self._clock_read: tuple[dt.datetime, float] | None = None

    def warm(self) -> None:
        """Read what was in use when the log ended; whatever goes wrong shows when it is needed."""
        try:
            warm(self.connection(), self.log, self._heads)
        except (psycopg.Error, OSError):
            self.drop_connection()

    def book(self, jobs: list[Job], late_jobs: LateJobs = list) -> list[Results | LedgerError]:
        """Book jobs of one book as one transaction; raise only what stops the engine.

        `late_jobs` gives those of the same book that came until the log's lock was had: they ride
        along, and have the last results. Whatever it gave once is booked, however often we try.
        """
        deadline = self._clocks.steady() + self.patience_s
        wanted = Wanted.by(jobs)
        conflicts = 0
        look_up_ids = self._looks_up_ids()
        while True:
            try:
                return list(self._book_in_own_tx(jobs, wanted, late_jobs, look_up_ids))
            except Superseded:
                look_up_ids = True
            except psycopg.errors.UniqueViolation as error:
                # Only a writer that does not take the lock can cause it: look again.
                conflicts += 1
                look_up_ids = True
                self.forget()
                if conflicts > RETRIES_OF_CONFLICT:
                    if len(jobs) > 1:
                        return self._book_apart(jobs)
                    raise StoreUnavailable(f"another writer is in the log: {error}") from error
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                if sum(len(job.submissions) for job in jobs) > 1:
                    return self._book_apart(jobs)
                return [InvalidRequest(str(error).strip(), code="refused_by_store")]
            except (psycopg.Error, OSError) as error:  # no server, or no file left to wait with
                self.drop_connection()
                look_up_ids = True
                if self._clocks.steady() >= deadline:
                    self.gave_up = StoreUnavailable(str(error).strip())
                    raise self.gave_up from error
                time.sleep(RETRY_PAUSE_S)

    def _book_apart(self, jobs: list[Job]) -> list[Results | LedgerError]:
        """Bisect: only the guilty operation fails. An atomic job is never taken apart."""
        if len(jobs) > 1:
            middle = len(jobs) // 2
            return self.book(jobs[:middle]) + self.book(jobs[middle:])
        job = jobs[0]
        if job.atomic:
            return [InvalidRequest("the store refused the batch", code="refused_by_store")]
        middle = len(job.submissions) // 2
        results: Results = []
        for part in (job.submissions[:middle], job.submissions[middle:]):
            answer = self.book([msgspec.structs.replace(job, submissions=part)])[0]
            results += [answer] * len(part) if isinstance(answer, LedgerError) else answer
        return [results]

    def _book_in_own_tx(
        self, jobs: list[Job], wanted: Wanted, late_jobs: LateJobs, look_up_ids: bool
    ) -> list[Results]:
        """Raise `Superseded` when an id is on record and was not looked up; nothing is booked."""
        conn = self._planned()
        book_id = jobs[0].book_id
        sealed: Sealed | None = None
        with self.log.entered(conn, book_id, self._heads.seal) as (cursor, entry):
            end = self._enter(entry, book_id)
            late = late_jobs()
            jobs += late
            wanted.add(late)
            booked_at = self.now(end)
            loaded, decided = self._decide_in_tx(
                cursor, jobs, wanted, booked_at, None, look_up_ids=look_up_ids
            )
            if decided.rows:
                sealed = self._seal(decided, end, book_id, booked_at)
                packed = pack(loaded, decided, sealed)
                self.reach("engine.before_insert")
                if isinstance(packed, Stated):
                    self._append_and_commit(packed)
                else:
                    if not look_up_ids and has_records_in_tx(cursor, packed.new_ids):
                        raise self._repeated()
                    self._copy_in_tx(cursor, loaded, decided, sealed, packed)
        self.reach("engine.after_commit")
        if sealed is not None:
            end = sealed.after
            self._heads.committed(end.seal, book_id, decided.touched)
        self.tip = Tip(book_id, end)
        self.gave_up = None
        return answers_of(jobs, decided, sealed)

    def _enter(self, entry: Entry, book_id: str) -> LogEnd:
        end = entry.end
        self._heads.enter(end.seal, entry.touched)
        if entry.days is not None:
            self._heads.put_day(book_id, entry.days)
        unchanged = self.tip is not None and self.tip.end.seal == end.seal
        self._company_left = max(0, self._company_left - 1) if unchanged else self._company_left
        self.alone = unchanged and not self._company_left
        return end

    def _looks_up_ids(self) -> bool:
        """Say whether a batch looks its ids up: while callers repeat some."""
        self._look_ups_left = max(0, self._look_ups_left - 1)
        return self._look_ups_left > 0

    def _decide_in_tx(
        self,
        cursor: Cursor[Any],
        jobs: list[Job],
        wanted: Wanted,
        booked_at: str,
        unseen: Tip | None,
        *,
        look_up_ids: bool,
    ) -> tuple[Loaded, Decided]:
        """Load and decide; load more when a decision reads what no request named.

        `unseen` is what a batch that is still being written has decided. Ids that are not looked
        up count as new, because the writer finds out. It cannot find out about what leaves no row,
        so that is only said of ids that were looked up.
        """
        while True:
            loaded = load_in_tx(
                cursor,
                jobs[0].book_id,
                wanted,
                self.types,
                self._heads,
                look_up_ids=look_up_ids,
            )
            if unseen is not None:
                # Also into memory, should it have been cleared since that batch was decided.
                self._heads.put_all(overlay(loaded, wanted, unseen, self.types))
            try:
                decided = decide_batch(jobs, loaded, self.types, booked_at)
                if not look_up_ids and leaves_no_row(jobs, decided):
                    look_up_ids = True
                    continue
                if decided.apply_at is not None:
                    self.apply_at = min(decided.apply_at, self.apply_at or decided.apply_at)
                return loaded, decided
            except Missing as missing:
                wanted.extend(missing)

    def _seal(self, decided: Decided, end: LogEnd, book_id: str, booked_at: str) -> Sealed:
        return seal_rows(
            decided.rows,
            end=end,
            book_id=book_id,
            booked_at=booked_at,
            totals=decided.totals,
        )

    def _copy_in_tx(
        self,
        cursor: Cursor[Any],
        loaded: Loaded,
        decided: Decided,
        sealed: Sealed,
        packed: Copied,
    ) -> None:
        if packed.money is not None:
            write_money_in_tx(cursor, packed.money)
        else:
            write_heads_in_tx(cursor, loaded.accounts, decided.touched, decided.opened)
        self.log.write_in_tx(cursor, sealed, packed.rows)
        self.reach("engine.after_insert")
        self.reach("engine.before_commit")

    def _append_and_commit(self, packed: Stated) -> None:
        """Write a batch that was decided under the lock, and commit it, in one trip."""
        statement.send(self._planned(), packed, commit=True)
        self._sent()
        word = statement.receive(self.connection())
        if word == statement.KNOWN:
            raise self._repeated()
        if word != statement.APPENDED:
            raise LogCorrupt(f"under the log's own lock a batch was {word}")

    # --- ahead ----------------------------------------------------------------------------

    def prepare(self, cursor: Cursor[Any], jobs: list[Job]) -> Prepared | None:
        """Decide a batch on the tip, which may still be being written; None when impossible.

        `cursor` is of another connection than the writer's and holds no lock. Each batch that
        was prepared is `proved` or all that was guessed is forgotten (`forget`).
        """
        tip = self.tip
        look_up_ids = self._looks_up_ids()
        wanted = Wanted.by(jobs)
        if tip is None or tip.book_id != jobs[0].book_id or wanted.closing:
            return None
        booked_at = self.now(tip.end)
        loaded, decided = self._decide_in_tx(
            cursor, jobs, wanted, booked_at, tip, look_up_ids=look_up_ids
        )
        if not decided.rows:
            return None
        sealed = self._seal(decided, tip.end, tip.book_id, booked_at)
        self._heads.committed(sealed.after.seal, tip.book_id, decided.touched)
        self._guesses.append(decided.touched)
        self.tip = Tip(
            tip.book_id,
            sealed.after,
            decided.touched,
            decided.recorded,
            decided.originals,
            sealed.seal.first_id,
        )
        packed = pack(loaded, decided, sealed)
        return Prepared(tip.end.seal, loaded, decided, sealed, packed)

    def write(self, jobs: list[Job], prepared: Prepared) -> list[Results]:
        """Commit a prepared batch. Raises `Superseded` or any error of the store: then
        nothing is known, and the caller forgets what was guessed and books again.
        """
        conn = self.connection()
        packed = prepared.packed
        assert isinstance(packed, Copied), "others are sent"
        with self.log.locked(conn) as cursor:
            end = self.log.select_end_in_tx(cursor, jobs[0].book_id)
            if end.seal != prepared.base:
                raise self._superseded()
            if has_records_in_tx(cursor, packed.new_ids):
                raise self._repeated()
            self.reach("engine.before_insert")
            self._copy_in_tx(cursor, prepared.loaded, prepared.decided, prepared.sealed, packed)
        self.reach("engine.after_commit")
        return answers_of(jobs, prepared.decided, prepared.sealed)

    def send(self, packed: Stated) -> None:
        """Send a prepared batch to the server as one statement."""
        self.reach("engine.before_insert")
        statement.send(self._planned(), packed)
        self._sent()

    def _sent(self) -> None:
        self.reach("engine.sent")
        self.reach("engine.after_insert")  # only the server knows how far it is: a kill at these
        self.reach("engine.before_commit")  # steps may come before the commit or after it

    def _planned(self) -> Connection[Any]:
        """Return the writer's connection, on which the statement has been planned."""
        conn = self.connection()
        if self._planned_on is not conn:
            statement.prepare(conn)
            self._planned_on = conn
        return conn

    def receive(self) -> None:
        """Wait for the commit of what was sent. Raises as `write` does."""
        word = statement.receive(self.connection())
        if word == statement.SUPERSEDED:
            raise self._superseded()
        if word == statement.KNOWN:
            raise self._repeated()
        self.reach("engine.after_commit")

    def _superseded(self) -> Superseded:
        self._company_left = COMPANY_AFTER_SUPERSEDED
        return Superseded()

    def _repeated(self) -> Superseded:
        self._look_ups_left = LOOK_UPS_AFTER_REPEAT
        return Superseded()

    def proved(self) -> None:
        """Take the oldest guess for a fact: its commit is known."""
        self._guesses.popleft()
        self.gave_up = None

    def forget(self) -> None:
        """Throw away everything guessed: heads whose commit is not known, and the tip."""
        for touched in self._guesses:
            self._heads.withdraw(touched.values())
        self._heads.withdraw(())
        self._guesses.clear()
        self.tip = None

    # --- a store that keeps everybody waiting ----------------------------------------------

    def note_failure(self, error: BaseException) -> None:
        """Remember that the store was waited for in vain, if that is what an error says."""
        if isinstance(error, WAITED_IN_VAIN):
            self.gave_up = StoreUnavailable(str(error).strip())

    def refusal(self, since: float) -> StoreUnavailable | None:
        """Say why whoever waits since then is not to wait any longer; None: there is a try left.

        While the store keeps everybody waiting, each batch in turn would wait for as long as the
        database's timeouts say, and who stands behind others for their sum.
        """
        impatient = self._clocks.steady() - since >= self.patience_s
        return self.gave_up if impatient else None

    # --- time and connection --------------------------------------------------------------

    def now(self, end: LogEnd) -> str:
        """Read the clock once per batch: never before the last commit's `booked_at`.

        Raises `EngineStopped` when the clock jumped forward too far.
        """
        now, steady = self._clocks.clock(), self._clocks.steady()
        if self._clock_read is not None:
            before, steady_before = self._clock_read
            jump_s = (now - before).total_seconds() - (steady - steady_before)
            if jump_s > self._clocks.jump_s_max:
                self.stopped_by = EngineStopped(
                    f"the clock jumped forward by {jump_s:.0f} s: nothing is booked; set it right "
                    "and restart this process"
                )
                _log.critical("engine stopped: %s", self.stopped_by.detail)
                raise self.stopped_by
        self._clock_read = (now, steady)
        return max(instant_text(now), end.booked_at)

    def connection(self) -> Connection[Any]:
        """Return the writer's connection, opening it when needed.

        The first one says what time it is there: a clock that was far ahead from the start
        is a forward jump too.
        """
        if self._conn is None or self._conn.closed:
            self._conn = self._connect()
            if self._clock_read is None:
                self._clock_read = (select_clock(self._conn), self._clocks.steady())
        return self._conn

    def drop_connection(self) -> None:
        """Close the connection: whatever it was doing is no longer ours to know."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None


def answers_of(jobs: list[Job], decided: Decided, sealed: Sealed | None) -> list[Results]:
    """Build the callers' answers from the committed records."""
    first_id = sealed.seal.first_id if sealed is not None else 0
    return [
        [
            outcome
            if isinstance(outcome, LedgerError)
            else answer_of(outcome, first_id, dry_run=job.dry_run)
            for outcome in outcomes
        ]
        for job, outcomes in zip(jobs, decided.outcomes, strict=True)
    ]
