"""Bounds of the API's connections: how long one may be silent, and how many there may be.

Invariant: who connects and does not send a whole request is cut off in time, so that idle or
hostile callers never use up what the others need.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

FILES_OWN = 128  # beside connections of callers and the database: log, listener, one for each wait
TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"retry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


def bounded_connections(patience_s: float, files_kept: int) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with bounds: a head that arrives in time, and files left over.

    The patience counts from the connection, then from the first byte of each request; a
    connection that is idle between requests is uvicorn's own to close. A connection that would
    use up the last `files_kept` files is turned away: without a file the engine cannot even wait
    for its database.
    """

    class BoundedConnection(HttpToolsProtocol):
        _overdue: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Wait for the first request, unless there is no room for one."""
            super().connection_made(transport)
            if len(self.connections) > files_max() - files_kept:
                self.transport.write(TURNED_AWAY)
                self.transport.close()
            else:
                self._expect_head()

        def on_message_begin(self) -> None:
            """Wait for the rest of the head."""
            super().on_message_begin()
            self._expect_head()

        def on_headers_complete(self) -> None:
            """Wait no more: the body has a bound of its own (ledger/api_call.py)."""
            self._forget_head()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            """Wait no more."""
            self._forget_head()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            self._forget_head()
            self._overdue = self.loop.call_later(patience_s, self.transport.close)

        def _forget_head(self) -> None:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

    return BoundedConnection


def files_max() -> int:
    """How many files this process may have open now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def allow_connections() -> None:
    """Raise this process's limit of open files, one for each connection, as far as it may go."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
