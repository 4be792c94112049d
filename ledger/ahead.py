"""Decide the next large batch while the one before it is written.

PostgreSQL's work (heads, COPY, commit) and ours (load, decide, pack) take about the same
time, so two batches overlap. Invariant: a batch decided ahead is committed only on top of
the seal it was decided on; when the batch before it dies, or another engine commits in
between, it is thrown away and booked from the start. At most one batch is being written.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
from psycopg import Connection

from ledger.booking import Booker, Connect, Prepared, Superseded
from ledger.errors import LedgerError
from ledger.ticket import Ticket

AHEAD_SIZE_MIN = 256  # below it, handing a batch to a second thread costs more than it gives

_log = logging.getLogger(__name__)


def settle(booker: Booker, tickets: list[Ticket]) -> None:
    """Book the tickets' jobs as one batch and settle every ticket, whatever happens."""
    try:
        results = booker.book([ticket.job for ticket in tickets])
    except LedgerError as error:
        results = [error] * len(tickets)
    except Exception:  # noqa: BLE001 - a defect of ours must not leave the callers waiting
        _log.exception("engine: a batch failed")
        booker.drop_connection()
        booker.forget()
        results = [LedgerError("a defect; the server's log says where")] * len(tickets)
    for ticket, result in zip(tickets, results, strict=True):
        ticket.settle(result)


class Ahead:
    """The writer's thread and the reader's connection. Used by the engine's thread only."""

    def __init__(self, connect: Connect, booker: Booker) -> None:
        self._connect = connect
        self._booker = booker
        self._reader: Connection[Any] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="engine-writer")
        self._writing: tuple[list[Ticket], Future[None]] | None = None

    @property
    def busy(self) -> bool:
        """Whether a batch is being written."""
        return self._writing is not None

    def takes(self, tickets: list[Ticket]) -> bool:
        """Decide the batch ahead and hand it to the writer; False leaves it to the caller."""
        jobs = [ticket.job for ticket in tickets]
        size = sum(len(job.submissions) for job in jobs)
        if size < AHEAD_SIZE_MIN or not self._booker.alone:
            return False
        try:
            with self._reading().cursor() as cursor:
                prepared = self._booker.prepare(cursor, jobs)
        except (LedgerError, psycopg.Error):
            self._forget_after_writing()
            return False
        if prepared is None or not self.finish():
            return False
        self._writing = (tickets, self._writer.submit(self._write, tickets, prepared))
        return True

    def finish(self) -> bool:
        """Wait for the batch being written; False when it died and had to be booked again."""
        if self._writing is None:
            return True
        tickets, future = self._writing
        self._writing = None
        error = future.exception()
        if error is None:
            return True
        if not isinstance(error, Superseded):
            self._booker.drop_connection()
        self._booker.forget()
        settle(self._booker, tickets)
        return False

    def close(self) -> None:
        """Finish, then close the reader's connection and the writer's thread."""
        self.finish()
        self._writer.shutdown()
        if self._reader is not None:
            self._reader.close()

    def _write(self, tickets: list[Ticket], prepared: Prepared) -> None:
        results = self._booker.write([ticket.job for ticket in tickets], prepared)
        for ticket, result in zip(tickets, results, strict=True):
            ticket.settle(result)

    def _forget_after_writing(self) -> None:
        if self.finish():
            self._booker.forget()

    def _reading(self) -> Connection[Any]:
        if self._reader is None or self._reader.closed:
            self._reader = self._connect()
        return self._reader
