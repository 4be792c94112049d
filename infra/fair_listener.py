"""Callers of one listening socket, spread over the processes that share it.

An event loop takes every connection that waits as soon as it wakes, so of callers who come together
one process gets all and does all of their HTTP work. Here a process takes one each turn of its
loop: the others wake too, and who has less to do turns more often. Invariant: a connection is
taken by whoever comes first; none waits for a certain process, so one that dies is not missed.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import uvicorn

PAUSE_S = 1.0  # as asyncio pauses, when this process can open no more files
NO_MORE_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class FairListener:
    """Takes connections from a socket that other processes listen on, until it is closed."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._paused: asyncio.TimerHandle | None = None
        listener.settimeout(0)
        self._listen()

    def close(self) -> None:
        """Take no more; what was taken goes on."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listener)

    def _listen(self) -> None:
        self._paused = None
        self._loop.add_reader(self._listener, self._take)

    def _take(self) -> None:
        """Take one; the loop comes again for the next, when it has done its other work."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # another process was faster, or the caller has gone again
            if error.errno in NO_MORE_FILES:
                self._loop.remove_reader(self._listener)
                self._paused = self._loop.call_later(PAUSE_S, self._listen)
            return
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

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
        self._listeners = [FairListener(each, self._protocol) for each in sockets]

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
