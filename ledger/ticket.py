"""A caller's place in the engine's queue.

Invariant: a ticket is settled once; its results are one per submission, in order, or it
carries one error for the whole job.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator

from ledger.errors import LedgerError, StoreUnavailable
from ledger.hops import hops, now_ns, tell_settled
from ledger.job import Job
from ledger.operation import Result

Results = list[Result]
_log = logging.getLogger(__name__)


class Ticket:
    """A caller's place in the queue: `results()` waits, `on_done` is called once instead.

    `since` is when the engine took it, on the engine's steady clock.
    """

    __slots__ = ("_began_ns", "_error", "_event", "_results", "job", "on_done", "since")

    def __init__(self, job: Job, on_done: Callable[[Ticket], None] | None = None) -> None:
        self.job = job
        self.since = 0.0
        self.on_done = on_done
        self._event = threading.Event() if on_done is None else None
        self._results: Results | None = None
        self._error: LedgerError | None = None
        self._began_ns = now_ns()

    def settle(self, results: Results | LedgerError) -> None:
        """Give the caller the results, or one error for the whole job; a second call is void."""
        if self._error is not None or self._results is not None:
            return
        if isinstance(results, LedgerError):
            self._error = results
        else:
            self._results = results
        if self._event is not None:
            self._event.set()
        elif self.on_done is not None:
            try:
                self.on_done(self)
            except RuntimeError:
                # The caller's event loop is gone: nobody is there to be told.
                _log.warning("ticket: the caller has gone")
        if hops.on:
            self.tell_hop(results)

    def tell_hop(self, results: Results | LedgerError) -> None:
        """Tell the engine's hop of every operation."""
        tell_settled(self.job.submissions, self._began_ns, results)

    def results(self, timeout_s: float | None = None) -> Results:
        """Return one result per submission, in order; raise the job's error."""
        if self._event is not None and not self._event.wait(timeout_s):
            raise StoreUnavailable("no answer in time; ask again with the same operation id")
        if self._error is not None:
            raise self._error
        assert self._results is not None
        return self._results


def unrefused(
    tickets: Iterable[Ticket], refusal_of: Callable[[Ticket], LedgerError | None]
) -> Iterator[Ticket]:
    """Yield the tickets nothing is said against; settle the others, each when its turn comes."""
    for ticket in tickets:
        refusal = refusal_of(ticket)
        if refusal is None:
            yield ticket
        else:
            ticket.settle(refusal)
