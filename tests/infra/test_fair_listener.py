"""Callers who come together are spread over all who listen; who cannot take one keeps it."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from infra.fair_listener import PAUSE_S, FairListener

CALLERS = 20
PATIENCE_S = 10.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=CALLERS) as made:
        yield made


class Taken(asyncio.Protocol):
    """Counts whom it took, and says its name to each."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.count = 0

    def held(self) -> int:
        return self.count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.count += 1
        transport.write(self.name)
        transport.close()


class Counted(socket.socket):
    """A listening socket that counts how often it was asked for a connection."""

    asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        return super().accept()


async def hear(caller: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(caller, 1), PATIENCE_S)


def callers_of(listener: socket.socket, count: int) -> list[socket.socket]:
    made = [socket.create_connection(listener.getsockname()) for _ in range(count)]
    for caller in made:
        caller.settimeout(0)
    return made


def test_callers_who_wait_are_spread_over_those_who_listen(listener: socket.socket) -> None:
    async def scene() -> list[bytes]:
        callers = callers_of(listener, CALLERS)  # all wait before anybody wakes
        takers = [Taken(b"a"), Taken(b"b")]
        doors = [
            FairListener(listener.dup(), lambda taker=taker: taker, taker.held)  # type: ignore[misc]
            for taker in takers
        ]
        heard = [await hear(caller) for caller in callers]
        for door in doors:
            door.close()
        return heard

    heard = asyncio.run(scene())
    assert min(heard.count(b"a"), heard.count(b"b")) >= CALLERS // 3


def test_who_has_closed_takes_no_more_and_leaves_it_to_the_other(listener: socket.socket) -> None:
    async def scene() -> list[bytes]:
        gone, stays = Taken(b"g"), Taken(b"s")
        FairListener(listener.dup(), lambda: gone, gone.held).close()
        door = FairListener(listener.dup(), lambda: stays, stays.held)
        heard = [await hear(caller) for caller in callers_of(listener, CALLERS)]
        door.close()
        assert gone.count == 0
        return heard

    assert asyncio.run(scene()) == [b"s"] * CALLERS


def test_without_a_file_to_spare_it_waits_and_then_takes_who_waited(
    listener: socket.socket,
) -> None:
    async def scene() -> tuple[int, int, bytes]:
        taker = Taken(b"t")
        [caller] = callers_of(listener, 1)
        counted = Counted(fileno=listener.detach())
        door = FairListener(counted, lambda: taker, taker.held)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_file(), hard))
        try:
            await asyncio.sleep(PAUSE_S / 2)
            taken, asked = taker.count, counted.asked
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        heard = await hear(caller)
        door.close()
        counted.close()
        return taken, asked, heard

    assert asyncio.run(scene()) == (0, 1, b"t")


def lowest_free_file() -> int:
    """Give the number that the next file gets; with it as the limit there is none to spare."""
    free = os.dup(0)
    os.close(free)
    return free
