"""The booking process's door: postings of the host's other API processes go to its engine.

Used on the event loop. Invariant: what the engine took is answered to whoever asked as long as
that line lasts; a line that ends disturbs nobody, and what it asked for is booked all the same.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from pathlib import Path
from typing import cast

import msgspec

from ledger.crossing import Crossing
from ledger.engine import Engine
from ledger.errors import LedgerError
from ledger.handover import (
    THERE,
    VERSION,
    BrokenLine,
    Hello,
    Messages,
    Told,
    decode_hello,
    decode_posting,
    framed,
    job_of,
    told_of,
)
from ledger.job import Job
from ledger.ticket import Results, Ticket

_log = logging.getLogger(__name__)
BACKLOG = 64


class HandedTicket(Ticket):
    """A place in the queue for another process's caller; that process tells the engine's hop."""

    __slots__ = ("number", "peer")

    def __init__(self, job: Job, number: int, peer: Peer) -> None:
        super().__init__(job, peer.door.settled)
        self.number = number
        self.peer = peer

    def told(self) -> Told:
        """Return what it came to."""
        try:
            return told_of(self.number, self.results())
        except LedgerError as error:
            return told_of(self.number, error)

    def tell_hop(self, results: Results | LedgerError) -> None:
        """Leave it to the process that has the caller."""


class Door:
    """Listens beside the lock's file, mode 0600; `log` is what both sides must be about."""

    def __init__(self, engine: Engine, log: str) -> None:
        self.log = log
        self._engine = engine
        self._peers: set[Peer] = set()
        self._crossing = Crossing(self._deliver)
        self._server: asyncio.Server | None = None

    async def open(self, path: Path, reachable: str) -> None:
        """Listen at a path, named so that it is short; who listened there before is gone."""
        self._crossing.start()
        listener = _listener_at(path, reachable)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Peer(self), sock=listener)

    def close(self) -> None:
        """Let nobody in any more; those who are in stay."""
        if self._server is not None:
            self._server.close()

    def hang_up(self) -> None:
        """End all lines, when all that is done is told."""
        self._crossing.deliver()
        for peer in list(self._peers):
            peer.transport.close()

    # --- lines ----------------------------------------------------------------------------

    def came(self, peer: Peer) -> None:
        """Note a line that begins."""
        self._peers.add(peer)

    def went(self, peer: Peer) -> None:
        """Note a line that ended."""
        self._peers.discard(peer)

    def take(self, tickets: list[HandedTicket]) -> None:
        """Queue what one process asked for at once."""
        self._engine.take(tickets)

    def settled(self, ticket: Ticket) -> None:
        """Runs in the engine's thread, or where the engine refused."""
        self._crossing.add(cast("HandedTicket", ticket))

    def _deliver(self, done: deque[HandedTicket]) -> None:
        told: dict[Peer, list[bytes]] = {}
        while done:
            ticket = done.popleft()
            if not ticket.peer.transport.is_closing():
                told.setdefault(ticket.peer, []).append(framed(ticket.told()))
        for peer, messages in told.items():
            peer.transport.write(b"".join(messages))


class Peer(asyncio.Protocol):
    """One line, to one process."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.transport: asyncio.Transport
        self._messages = Messages()
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self.door.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; what was asked for is booked, and told to nobody."""
        del exc
        self.door.went(self)

    def data_received(self, data: bytes) -> None:
        """Queue the postings that have come."""
        tickets: list[HandedTicket] = []
        try:
            for message in self._messages.of(data):
                if not self._greeted:
                    self._greet(decode_hello(message))
                elif message:
                    posting = decode_posting(message)
                    tickets.append(HandedTicket(job_of(posting), posting.number, self))
                else:
                    self.transport.write(THERE)
        except (BrokenLine, msgspec.MsgspecError) as error:
            _log.warning("booking: a line is cut: %s", error)
            self.transport.close()  # not aborted: it is to hear who we are
        if tickets:
            self.door.take(tickets)

    def _greet(self, theirs: Hello) -> None:
        ours = Hello(VERSION, self.door.log)
        self._greeted = True
        self.transport.write(framed(ours))
        if theirs != ours:
            raise BrokenLine(f"it speaks version {theirs.version} of log {theirs.log}")


def _listener_at(path: Path, reachable: str) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(reachable)
        path.chmod(0o600)  # before anybody can connect: it does not listen yet
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
