"""Bridges from the event loop: to the engine's thread, and to threads that read the database.

Invariant: a caller that hangs up disturbs nobody; the engine's thread never waits for the
loop. Results of a batch cross over together (`ledger/crossing.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from ledger.admission import Admission
from ledger.crossing import Crossing
from ledger.errors import InvalidRequest, LedgerError, StoreUnavailable
from ledger.job import Job
from ledger.operation import Result
from ledger.ticket import Ticket

P = ParamSpec("P")
T = TypeVar("T")
LOOK_S = 1.0
Waiting = asyncio.Future[list[Result]]


class TakesTickets(Protocol):
    """An engine as the API sees it: this process's own, or one that processes share."""

    @property
    def queued(self) -> int: ...

    @property
    def stopped_by(self) -> LedgerError | None: ...

    def take(self, tickets: Iterable[Ticket], /) -> None: ...


class EngineBridge:
    """Awaitable `post` in front of an engine; at most `patience_s` long."""

    def __init__(self, engine: TakesTickets, admission: Admission, *, patience_s: float) -> None:
        self.engine = engine
        self.admission = admission
        self._patience_s = patience_s
        self._loop: asyncio.AbstractEventLoop
        self._waiting: dict[Ticket, tuple[Waiting, float]] = {}
        self._coming: list[Ticket] = []
        self._crossing = Crossing(self._deliver)
        self._watch: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Bind to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._crossing.start()
        self._watch = self._loop.call_later(LOOK_S, self._give_up_overdue)

    def close(self) -> None:
        """Stop looking for callers that wait too long."""
        if self._watch is not None:
            self._watch.cancel()

    def post(self, job: Job, *, let_in: bool = False) -> Waiting:
        """Queue a job; the future gives one result per submission, or raises the job's error.

        Raises `Overloaded` at once when the admission pushes back, unless it was `let_in` before.
        """
        if not let_in:
            self.admission.admit(job)
        future: Waiting = self._loop.create_future()
        ticket = Ticket(job, self._crossing.add)
        self._waiting[ticket] = (future, self._loop.time() + self._patience_s)
        self.admission.taken(ticket)
        if not self._coming:
            self._loop.call_soon(self._hand_over)
        self._coming.append(ticket)
        return future

    def _hand_over(self) -> None:
        """Give the engine what came in one turn of the loop: it wakes once, for one batch."""
        coming, self._coming = self._coming, []
        self.engine.take(coming)

    def _deliver(self, done: deque[Ticket]) -> None:
        while done:
            ticket = done.popleft()
            self.admission.settled(ticket)
            waiting = self._waiting.pop(ticket, None)
            if waiting is None or waiting[0].done():
                continue
            try:
                waiting[0].set_result(ticket.results())
            except Exception as error:  # noqa: BLE001 - it is the caller's to raise
                waiting[0].set_exception(error)

    def _give_up_overdue(self) -> None:
        """Tell callers that waited too long: they know nothing and may ask again."""
        now = self._loop.time()
        for ticket, (future, deadline) in list(self._waiting.items()):
            if deadline > now:
                break  # in order of arrival, all with the same patience
            del self._waiting[ticket]
            self.admission.settled(ticket)
            if not future.done():
                why = "no answer in time; ask again with the same operation id"
                future.set_exception(StoreUnavailable(why))
        self._watch = self._loop.call_later(LOOK_S, self._give_up_overdue)


class StoreBridge:
    """Runs synchronous reads and writes of the database in threads, each on a pooled connection."""

    def __init__(self, pool: ConnectionPool[Connection[Any]], threads: int) -> None:
        self._pool = pool
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="store")

    async def call(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return `function(connection, …)`. Raises `StoreUnavailable` when there is no database."""

        def with_connection() -> T:
            with self._pool.connection() as conn:
                return function(conn, *args, **kwargs)

        return await self.run(with_connection)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function gives that brings its own connection."""

        def run() -> T:
            try:
                return function(*args, **kwargs)
            except (PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError) as error:
                raise StoreUnavailable(str(error).strip()) from error
            except psycopg.DataError as error:
                raise InvalidRequest(str(error).strip(), code="refused_by_store") from error

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def close(self) -> None:
        """Let running calls end and take no more."""
        self._threads.shutdown()
