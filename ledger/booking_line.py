"""A line to the booking process of this host: postings go out, answers come back.

Used on the event loop. Invariant: every ticket that was asked for is settled by its answer, or is
given back when the line ends, or when the other side drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

import msgspec

from ledger.errors import EngineStopped, LedgerError
from ledger.handover import (
    MESSAGE_BYTES_MAX,
    THERE,
    VERSION,
    BrokenLine,
    Hello,
    Messages,
    decode_hello,
    decode_told,
    framed,
    posting_of,
    results_of,
)
from ledger.ticket import Ticket

SILENCE_S = 3.0
CONNECT_S = 1.0


class Line(asyncio.Protocol):
    """`give_back` gets tickets that nobody will answer here, in the order they were asked for."""

    def __init__(self, log: str, give_back: Callable[[list[Ticket]], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self.leaving = False  # the other side drains: it is asked nothing more
        self._ours = Hello(VERSION, log)
        self._agreed: asyncio.Future[None] = loop.create_future()
        self._give_back = give_back
        self._transport: asyncio.Transport
        self._messages = Messages()
        self._asked: dict[int, Ticket] = {}
        self._number = 0
        self._now = loop.time
        self._heard_at = loop.time()

    async def agree(self) -> None:
        """Wait until both sides are known to mean the same. Raises `BrokenLine`, TimeoutError."""
        async with asyncio.timeout(CONNECT_S):
            await self._agreed

    @property
    def usable(self) -> bool:
        """Whether it may be asked."""
        return not self.leaving and not self._transport.is_closing()

    def ask(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Hand over all that can be, in one write; return the others."""
        messages: list[bytes] = []
        others: list[Ticket] = []
        for ticket in tickets:
            self._number += 1
            message = self._message(ticket)
            if message is None:
                others.append(ticket)
            else:
                self._asked[self._number] = ticket
                messages.append(message)
        if messages:
            self._transport.write(b"".join(messages))
        return others

    def _message(self, ticket: Ticket) -> bytes | None:
        """Return it as it is written; None for what cannot be handed over."""
        posting = posting_of(self._number, ticket.job)
        if posting is None:
            return None
        try:
            message = framed(posting)
        except (ValueError, OverflowError):  # a time near the end of all years
            return None
        return message if len(message) <= MESSAGE_BYTES_MAX else None

    def look(self) -> None:
        """Ask whether the other side is there; end the line when it has been silent for long."""
        if self._now() - self._heard_at > SILENCE_S:
            self.close()
        elif not self._transport.is_closing():
            self._transport.write(THERE)

    def close(self) -> None:
        """End it at once; what is not answered is given back."""
        self._transport.abort()

    # --- the transport's ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who speaks."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(framed(self._ours))

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what is not answered."""
        del exc
        self.ended.set()
        if not self._agreed.done():
            self._agreed.set_exception(BrokenLine("the other side hung up"))
        left = list(self._asked.values())
        self._asked.clear()
        if left:
            self._give_back(left)

    def data_received(self, data: bytes) -> None:
        """Settle what has been answered."""
        self._heard_at = self._now()
        refused: list[Ticket] = []
        try:
            for message in self._messages.of(data):
                if not self._agreed.done():
                    self._greet(decode_hello(message))
                elif message:
                    self._settle(message, refused)
        except (BrokenLine, msgspec.MsgspecError):
            self.close()
        if refused:
            self.leaving = True
            self._give_back(refused)
        if self.leaving and not self._asked:
            self.close()

    def _greet(self, theirs: Hello) -> None:
        if theirs == self._ours:
            self._agreed.set_result(None)
        else:
            words = f"it speaks version {theirs.version} of log {theirs.log}"
            self._agreed.set_exception(BrokenLine(words))
            self.close()

    def _settle(self, message: bytes, refused: list[Ticket]) -> None:
        told = decode_told(message)
        ticket = self._asked.pop(told.number, None)
        if ticket is None:
            raise BrokenLine("an answer that nobody waits for")
        results = results_of(told)
        error = results if isinstance(results, LedgerError) else None
        if error is not None and error.code == EngineStopped.code:
            refused.append(ticket)
        else:
            ticket.settle(results)
