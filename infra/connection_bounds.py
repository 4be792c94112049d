"""Bounds of the API's connections: how long one may be silent, how many there may be, who waits.

Invariants: who connects and does not send a whole request is cut off in time, so that idle or
hostile callers never use up what the others need. In an overload a posting that may not wait is
answered where it is read, before it is even parsed: refusing must cost a fraction of booking.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from functools import partial
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from infra.whole_posting import body_of, request_lines
from ledger.admission import Admission
from ledger.api import problem_of, problem_reply
from ledger.api_call import LET_IN
from ledger.api_gate import DaybookApp
from ledger.errors import Overloaded

FILES_OWN = 128  # beside connections of callers and the database: log, listener, one for each wait
# Linux: milliseconds since the last bytes came, a 32-bit field of `struct tcp_info`.
TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
LAST_RECEIVED = slice(52, 56)
TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


def refusal() -> bytes:
    """Return the whole answer to who comes in an overload: the problem document, made once."""
    reply = problem_reply(problem_of(Overloaded("others wait already; come again later")))
    lines = [b"HTTP/1.1 %d Service Unavailable" % reply.status]
    lines += [b"%s: %s" % header for header in reply.headers]
    return b"\r\n".join([*lines, b"", reply.body])


class ConnectionBounds(msgspec.Struct, frozen=True):
    """The patience counts from the connection, then from the first byte of each request; a
    connection that is idle between requests is uvicorn's own to close. A connection that would
    use up the last `files_kept` files is turned away: without a file the engine cannot even wait
    for its database.
    """

    app: DaybookApp
    patience_s: float
    files_kept: int
    refusal: bytes
    lines: tuple[bytes, ...]  # how postings begin

    @property
    def admission(self) -> Admission:
        """Who is inside; requests come after the lifespan has started."""
        assert self.app.api is not None
        return self.app.api.engine.admission


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol with bounds. `_held` has been read up to its body, and is not begun.

    `_between` is whether the parser stands between two requests; `_has_room` what was said of the
    posting that is being read, until it begins; `_refused_at` is on the loop's clock.
    """

    bounds: ConnectionBounds
    _overdue: asyncio.TimerHandle | None = None
    _held: RequestResponseCycle | None = None
    _has_room: bool | None = None
    _refused_at = 0.0
    _between = True
    _reads = _began = False

    # --- silence --------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request, unless there is no room for one."""
        super().connection_made(transport)
        if len(self.connections) > files_max() - self.bounds.files_kept:
            self.transport.write(TURNED_AWAY)
            self.transport.close()
        else:
            self._expect_head()

    def on_message_begin(self) -> None:
        """Note that the head has begun: unless it ends in the same bytes, it is waited for."""
        super().on_message_begin()
        self._began = True
        self._between = False

    def on_message_complete(self) -> None:
        """Note that what comes next is another request."""
        super().on_message_complete()
        self._between = True

    def on_headers_complete(self) -> None:
        """Wait no more: the body has a bound of its own (ledger/api_call.py)."""
        self._began = False
        self._forget_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget_head()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._forget_head()
        self._overdue = self.loop.call_later(self.bounds.patience_s, self.transport.close)

    def _forget_head(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    # --- overload -------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read, then judge the posting that was read whole; what is not whole is judged later."""
        if self._between and self.bounds.admission.overloaded and self._refuses_unparsed(data):
            return
        self._reads = True
        super().data_received(data)
        self._reads = False
        self._has_room = None
        if self._began:
            self._began = False
            self._expect_head()
        if self._held is not None:
            held, self._held = self._held, None
            self._judge(held)

    def _refuses_unparsed(self, data: bytes) -> bool:
        """Refuse a posting that came whole, alone and after all answers, without parsing it."""
        cycle: Any = self.cycle  # None before the first request
        if (cycle is not None and not cycle.response_complete) or self.flow.write_paused:
            return False
        body = body_of(data, self.bounds.lines)
        if body is None:
            return False
        admission = self.bounds.admission
        self._has_room = admission.has_room(partial(waited_s, self.transport))
        if self._has_room or not admission.refuses(body):
            return False
        self._has_room = None
        self._forget_head()
        self.server_state.total_requests += 1
        self.transport.write(self.bounds.refusal)
        # To cancel and set the timer of an idle connection each time would cost as much as this.
        self._refused_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_for_next(self.timeout_keep_alive)
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is idle; one that was refused something meanwhile is not yet."""
        left_s = self._refused_at + self.timeout_keep_alive - self.loop.time()
        if self._refused_at and left_s > 0:
            self._wait_for_next(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _wait_for_next(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _judge(self, held: RequestResponseCycle) -> None:
        whole = not held.more_body and held.keep_alive and not self.flow.write_paused
        if whole and self.bounds.admission.refuses(held.body):
            self._refuse(held)
        else:
            self._begin(held)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin a request, but hold a posting for which there is no room."""
        scope: Any = cycle.scope
        if (scope["method"], scope["path"]) not in self.bounds.app.hot:
            super()._start_asgi_task(cycle, app)
            return
        admission = self.bounds.admission
        has_room, self._has_room = self._has_room, None
        if has_room is None:
            has_room = admission.has_room(partial(waited_s, self.transport))
        if self._reads and not has_room:
            self._held = cycle
            return
        if has_room and admission.overloaded:
            scope[LET_IN] = True
        self._begin(cycle)

    def _begin(self, cycle: RequestResponseCycle) -> None:
        self.bounds.admission.came()
        super()._start_asgi_task(cycle, self._answer)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            self.bounds.admission.left()

    def _refuse(self, cycle: RequestResponseCycle) -> None:
        cycle.response_started = cycle.response_complete = True
        self.transport.write(self.bounds.refusal)
        self.on_response_complete()


def bounded_connections(
    app: DaybookApp, patience_s: float, files_kept: int
) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with bounds, for one application."""

    class Connection(BoundedConnection):
        bounds = ConnectionBounds(app, patience_s, files_kept, refusal(), request_lines(app.hot))

    return Connection


def waited_s(transport: asyncio.BaseTransport) -> float:
    """Return how long ago the last bytes reached this machine; 0 where the system has no word.

    What waits before it is read is in no queue of ours: the kernel alone knows.
    """
    if TCP_INFO is None:
        return 0.0
    try:
        told = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, TCP_INFO, LAST_RECEIVED.stop
        )
    except OSError:
        return 0.0
    return int.from_bytes(told[LAST_RECEIVED], sys.byteorder) / 1_000


def files_max() -> int:
    """How many files this process may have open now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def allow_connections() -> None:
    """Raise this process's limit of open files, one for each connection, as far as it may go."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
