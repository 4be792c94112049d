"""A lean HTTP/1.1 keep-alive client for load: many callers, one event loop, no library between.

The demo and the benchmarks post with it, so that what they measure is the server. Invariant:
every request ends in exactly one `Reply`; a request without an answer (connection lost, 503) is
sent again as it is, so requests must be safe to repeat, which operation ids make them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast
from urllib.parse import urlsplit

RETRIED_STATUS = frozenset({429, 502, 503, 504})
STILL_RUNNING = b'"operation_running"'  # the one 409 that is no final answer
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0
PATIENCE_S = 60.0


class Request(NamedTuple):
    """What is sent: `key` tells the caller which request a reply belongs to."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    key: int = 0


class Reply(NamedTuple):
    """What came back. `latency_s` is of the try that was answered."""

    status: int
    body: bytes
    latency_s: float
    answered_at: float
    tries: int = 1


class NoAnswer(ConnectionError):
    """The server gave no final answer within the caller's patience."""


@dataclass
class Tally:
    """Latencies and counts of one run of requests."""

    latencies_s: list[float] = field(default_factory=list)
    retries: int = 0
    elapsed_s: float = 0.0

    def note(self, reply: Reply) -> None:
        """Count one reply."""
        self.latencies_s.append(reply.latency_s)
        self.retries += reply.tries - 1

    @property
    def per_s(self) -> float:
        """Requests answered per second of the run."""
        return len(self.latencies_s) / self.elapsed_s if self.elapsed_s else 0.0


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self._keeps_alive = True

    @property
    def is_open(self) -> bool:
        """Tell whether another request can be sent on it."""
        return (
            self._transport is not None and self._keeps_alive and not self._transport.is_closing()
        )

    async def send(self, request: Request) -> tuple[int, bytes]:
        """Send a request, wait for its status and body. Raises ConnectionError."""
        if not self.is_open or self._transport is None:
            raise ConnectionResetError("the connection is closed")
        self._received.clear()
        self._waiter = asyncio.get_running_loop().create_future()
        line = f"{request.method} {request.path} HTTP/1.1\r\n".encode()
        size = f"Content-Type: {request.content_type}\r\nContent-Length: {len(request.body)}"
        self._transport.write(
            b"".join((line, self._head, size.encode(), b"\r\n\r\n", request.body))
        )
        return await self._waiter

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the waiting caller that no answer will come."""
        self._keeps_alive = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError(f"connection lost: {error}"))

    def data_received(self, data: bytes) -> None:
        """Collect until the answer is whole."""
        self._received += data
        if self._waiter is None or self._waiter.done():
            return
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        body = _body_of(head, self._received, end + 4)
        if body is None:
            return
        self._keeps_alive = b"connection: close" not in head
        self._waiter.set_result((int(head[9:12]), body))


def _body_of(head: bytes, received: bytearray, start: int) -> bytes | None:
    """Return the body when it is whole, else None."""
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        size = int(head[at + 17 :].split(b"\r\n", 1)[0])
        return bytes(received[start : start + size]) if len(received) >= start + size else None
    if b"transfer-encoding: chunked" in head:
        return _dechunked(received, start)
    return b""


def _dechunked(received: bytearray, at: int) -> bytes | None:
    parts: list[bytes] = []
    while True:
        end = received.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(received[at:end].split(b";")[0], 16)
        if len(received) < end + 2 + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(bytes(received[end + 2 : end + 2 + size]))
        at = end + 2 + size + 2


class Caller:
    """One keep-alive caller: sends one request after the other, and again until answered."""

    def __init__(
        self, url: str, headers: Mapping[str, str], *, patience_s: float = PATIENCE_S
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        lines = {"Host": f"{self._host}:{self._port}", **headers}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
        self._patience_s = patience_s
        self._connection: Connection | None = None

    async def call(self, request: Request) -> Reply:
        """Send until an answer is final. Raises `NoAnswer` when patience ends."""
        deadline = time.monotonic() + self._patience_s
        pause_s = PAUSE_FIRST_S
        tries = 0
        last = ""
        while time.monotonic() < deadline:
            tries += 1
            try:
                connection = await self._connected()
                sent_at = time.perf_counter()
                async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                    status, body = await connection.send(request)
            except (OSError, TimeoutError) as error:
                self.close()
                last = f"{type(error).__name__}: {error}"
            else:
                now = time.perf_counter()
                if status not in RETRIED_STATUS and not (status == 409 and STILL_RUNNING in body):
                    return Reply(status, body, now - sent_at, now, tries)
                last = f"{status} {body[:300].decode(errors='replace')}"
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        raise NoAnswer(f"{request.method} {request.path}: gave up after {tries} tries: {last}")

    def close(self) -> None:
        """Drop the connection; the next call makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _connected(self) -> Connection:
        if self._connection is None or not self._connection.is_open:
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(
                lambda: Connection(self._head), self._host, self._port
            )
        return self._connection


async def run_callers(
    requests: Iterable[Request],
    *,
    url: str,
    headers: Mapping[str, str],
    callers: int,
    on_reply: Callable[[Request, Reply], None] | None = None,
    patience_s: float = PATIENCE_S,
    per_s: float | None = None,
) -> Tally:
    """Let `callers` keep-alive callers take the requests one by one; return the tally.

    `on_reply` is called once for each request, in the order of the answers. `per_s` bounds the
    rate: a request is sent no earlier than its place in the row says.
    """
    waiting = enumerate(requests)
    tally = Tally()
    started = time.perf_counter()
    pause_s = 0.0 if per_s is None else 1 / per_s
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            caller = Caller(url, headers, patience_s=patience_s)
            turns = _due(waiting, started, pause_s)
            group.create_task(_take_turns(caller, turns, tally, on_reply))
    tally.elapsed_s = time.perf_counter() - started
    return tally


async def _due(
    waiting: Iterator[tuple[int, Request]], started: float, pause_s: float
) -> AsyncIterator[Request]:
    """Give the next request of the shared row, once it is due."""
    for place, request in waiting:
        early_s = started + place * pause_s - time.perf_counter()
        if early_s > 0:
            await asyncio.sleep(early_s)
        yield request


async def _take_turns(
    caller: Caller,
    turns: AsyncIterator[Request],
    tally: Tally,
    on_reply: Callable[[Request, Reply], None] | None,
) -> None:
    try:
        async for request in turns:
            reply = await caller.call(request)
            tally.note(reply)
            if on_reply is not None:
                on_reply(request, reply)
    finally:
        caller.close()
