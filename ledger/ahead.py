"""Decide the next batch while the one before it is written.

PostgreSQL's work (heads, rows, commit) and ours (load, decide, pack) take about the same time,
so two batches overlap: a small batch is one statement that the engine's thread sends before it
answers the callers of the last one; a large one is written by COPY in a thread of its own, and
the next is decided meanwhile. Invariant: nobody is answered before the commit; a batch decided
ahead is committed only on top of the seal it was decided on; when the batch before it
dies, or another engine commits in between, it is thrown away and booked from the start. At most
one batch is being written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from psycopg import Connection

from ledger.booking import Booker, Connect, Results, Superseded, answers_of
from ledger.errors import LedgerError
from ledger.job import Job
from ledger.statement import Stated
from ledger.ticket import Ticket, unrefused
from ledger.tip import Prepared

_log = logging.getLogger(__name__)
SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, false)"


def settle(
    booker: Booker,
    tickets: list[Ticket],
    add_what_came: Callable[[list[Ticket]], None] = lambda _tickets: None,
) -> None:
    """Book the tickets' jobs as one batch and settle every ticket, whatever happens.

    `add_what_came` adds to the batch; it is asked when the log's lock is had. While the store keeps
    everybody waiting, who has waited for others already is told at once.
    """
    tickets = list(unrefused(tickets, lambda each: booker.refusal(each.since)))
    if not tickets:
        return

    def late_jobs() -> list[Job]:
        known = len(tickets)
        add_what_came(tickets)
        return [ticket.job for ticket in tickets[known:]]

    try:
        results = booker.book([ticket.job for ticket in tickets], late_jobs)
    except LedgerError as error:
        results = [error] * len(tickets)
    except Exception:  # noqa: BLE001 - a defect of ours must not leave the callers waiting
        _log.exception("engine: a batch failed")
        booker.drop_connection()
        booker.forget()
        results = [LedgerError("a defect; the server's log says where")] * len(tickets)
    for ticket, result in zip(tickets, results, strict=True):
        ticket.settle(result)


class Writing(Protocol):
    """A batch being written: `exception` waits for its end, and says why it died."""

    def exception(self) -> BaseException | None: ...


class Sent:
    """A batch that was sent as one statement."""

    def __init__(
        self, booker: Booker, tickets: list[Ticket], prepared: Prepared, packed: Stated
    ) -> None:
        self._booker = booker
        self._tickets = tickets
        self._prepared = prepared
        self._error: BaseException | None = None
        try:
            booker.send(packed)
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch is booked again
            self._error = error

    def exception(self) -> BaseException | None:
        """Wait for the reply; return why it was not committed, if so. Answers nobody yet."""
        if self._error is not None:
            return self._error
        try:
            self._booker.receive()
        except Exception as error:  # noqa: BLE001 - as above
            return error
        return None

    def settle(self) -> None:
        """Settle the tickets of a batch that is known to be committed."""
        prepared = self._prepared
        jobs = [ticket.job for ticket in self._tickets]
        _settle_all(self._tickets, answers_of(jobs, prepared.decided, prepared.sealed))


class Ahead:
    """The writer's thread and the reader's connection. Used by the engine's thread only."""

    def __init__(self, connect: Connect, booker: Booker) -> None:
        self._connect = connect
        self._booker = booker
        self._reader: Connection[Any] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="engine-writer")
        self._writing: tuple[list[Ticket], Writing] | None = None
        self._unanswered: Sent | None = None

    @property
    def busy(self) -> bool:
        """Whether a batch is being written."""
        return self._writing is not None

    def takes(self, tickets: list[Ticket]) -> bool:
        """Decide the batch ahead and begin to write it; False leaves it to the caller."""
        if not self._booker.alone:
            return False
        try:
            with self._reading().cursor() as cursor:
                prepared = self._booker.prepare(cursor, [ticket.job for ticket in tickets])
        except Exception:  # noqa: BLE001 - it shows, and is said, when the batch is booked
            self._forget_after_writing()
            return False
        if prepared is None or not self.ended():
            return False
        # PostgreSQL goes on with this batch while the callers of the last one are answered.
        self._writing = (tickets, self._begin(tickets, prepared))
        self.answer()
        return True

    def _begin(self, tickets: list[Ticket], prepared: Prepared) -> Writing:
        if isinstance(prepared.packed, Stated):
            return Sent(self._booker, tickets, prepared, prepared.packed)
        return self._writer.submit(self._write, tickets, prepared)

    def finish(self) -> bool:
        """Wait for the batch being written and answer its callers; False when it died and had
        to be booked again.
        """
        ended = self.ended()
        self.answer()
        return ended

    def ended(self) -> bool:
        """As `finish`, but the callers of a batch sent as a statement are left to `answer`."""
        if self._writing is None:
            return True
        tickets, writing = self._writing
        self._writing = None
        error = writing.exception()
        if error is None:
            self._booker.proved()
            self._unanswered = writing if isinstance(writing, Sent) else None
            return True
        if not isinstance(error, Superseded):
            self._booker.drop_connection()
            self._booker.note_failure(error)
        self._booker.forget()
        settle(self._booker, tickets)
        return False

    def answer(self) -> None:
        """Answer the callers of the batch that has ended, if nobody has."""
        if self._unanswered is not None:
            self._unanswered.settle()
            self._unanswered = None

    def close(self) -> None:
        """Finish, then close the reader's connection and the writer's thread."""
        self.finish()
        self._writer.shutdown()
        if self._reader is not None:
            self._reader.close()

    def _write(self, tickets: list[Ticket], prepared: Prepared) -> None:
        jobs = [ticket.job for ticket in tickets]
        _settle_all(tickets, self._booker.write(jobs, prepared))

    def _forget_after_writing(self) -> None:
        if self.finish():
            self._booker.forget()

    def _reading(self) -> Connection[Any]:
        if self._reader is None or self._reader.closed:
            self._reader = self._connect()
            # Who reads ahead keeps the answers of the batch before from their callers.
            wait_ms_max = round(self._booker.patience_s * 1_000)
            self._reader.execute(SET_LOCK_TIMEOUT, (f"{wait_ms_max}ms",))
        return self._reader


def _settle_all(tickets: list[Ticket], results: list[Results]) -> None:
    for ticket, result in zip(tickets, results, strict=True):
        ticket.settle(result)
