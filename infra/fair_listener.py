"""Callers of one listening socket, spread over the processes that share it.

An event loop takes every connection that waits as soon as it wakes, so of callers who come together
the process that wakes first gets all and does all of their HTTP work. Here a process takes one at a
time, and the later the more it holds: who holds fewer is there first. Invariant: a connection is
taken by whoever comes first; none waits for a certain process, so one that dies is not missed.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import uvicorn

HELD_MOST = 20  # who holds more waits no longer
LATER_S = 0.000_05  # for each that is held: a millisecond at most
TAKEN_AT_ONCE = 8  # by who holds so many; below that one after the other
PAUSE_S = 1.0  # as asyncio pauses, when this process can open no more files
NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class FairListener:
    """Takes connections from a socket that other processes listen on, until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        held: Callable[[], int],
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        listener.settimeout(0)
        self._listen()

    def close(self) -> None:
        """Take no more; what was taken goes on."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listener)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._look)

    def _look(self) -> None:
        """Somebody waits: take them at once, or later when many are held already."""
        self._loop.remove_reader(self._listener)
        held = min(self._held(), HELD_MOST)
        self._later = self._loop.call_later(held * LATER_S, self._take, held)

    def _take(self, held: int) -> None:
        for _ in range(TAKEN_AT_ONCE if held == HELD_MOST else 1):
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # another process was faster, or the caller has gone again
                if error.errno in NO_MORE_FILES:
                    self._later = self._loop.call_later(PAUSE_S, self._listen)
                    return
                break
            connection.settimeout(0)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opening = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
        self._listen()

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # it was cut in between
            connection.close()


class FairServer(uvicorn.Server):
    """uvicorn, which takes callers fairly where other processes listen on the same socket."""

    def __init__(self, config: uvicorn.Config, *, processes: int) -> None:
        super().__init__(config)
        self._shares = processes > 1
        self._listeners: list[FairListener] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        if not self._shares or sockets is None:
            await super().startup(sockets)
            return
        await super().startup([])
        self._listeners = [
            FairListener(each, self._protocol, lambda: len(self.server_state.connections))
            for each in sockets
        ]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, then finish what there is."""
        for listener in self._listeners:
            listener.close()
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        return made
