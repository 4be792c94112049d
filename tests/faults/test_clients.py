"""Clients that misbehave under load: the others never notice, and nothing is booked by halves."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from infra.connection_bounds import FILES_OWN
from infra.http_load import Caller, Reply, Request
from infra.postgres import EmbeddedPostgres
from tests.e2e.load import recharge
from tests.faults.load import SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.probe import ACCOUNT, key_of, open_probe, read_probe
from tests.faults.scene import Scene, running_scene
from tests.faults.verdicts import Fault
from tests.fix_postgres import fresh_database
from tests.waiting import wait_until

CALLERS = 50
CONNECTIONS = 10_000
FILES = CONNECTIONS + 2_000
READING_TIMEOUT_S = 3
ROOM = 50
ALIVE = b"GET /health/live HTTP/1.1\r\nHost: daybook\r\n\r\n"


@pytest.fixture(scope="module")
def scene(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    """One system for all clients of this page."""
    home = tmp_path_factory.mktemp("clients")
    with (
        fresh_database(postgres_server, template_database) as url,
        running_scene(home, url, reading_timeout_s=READING_TIMEOUT_S) as running,
    ):
        open_probe(running)
        yield running


@pytest.fixture
def load(scene: Scene, fault: Fault) -> SeededLoad:
    """The load of the callers who behave."""
    return SeededLoad(scene, seed=fault.seed, prefix=f"others-{fault.seed}")


def balance(scene: Scene) -> int:
    return int(read_probe(scene).json()["balance"])


def connected(scene: Scene) -> socket.socket:
    """A connection of a client with its own idea of HTTP."""
    parts = urlsplit(scene.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def head_of(scene: Scene, size: int) -> bytes:
    lines = {**key_of(scene), "Content-Type": "application/json", "Content-Length": str(size)}
    return b"POST /v1/operations HTTP/1.1\r\nHost: daybook\r\n" + b"".join(
        f"{name}: {value}\r\n".encode() for name, value in lines.items()
    )


def test_the_same_operation_by_fifty_callers_at_once(
    scene: Scene, load: SeededLoad, fault: Fault
) -> None:
    fault.name = "client: the same operation by 50 callers at once"
    body = msgspec.json.encode(recharge(f"same-{fault.seed}", ACCOUNT, 500))
    before = balance(scene)

    async def all_at_once() -> list[Reply]:
        callers = [Caller(scene.url, key_of(scene)) for _ in range(CALLERS)]
        request = Request("POST", "/v1/operations", body)
        try:
            return await asyncio.gather(*(caller.call(request) for caller in callers))
        finally:
            for caller in callers:
                caller.close()

    with load:
        load.wait_for_more(50)
        replies = asyncio.run(all_at_once())
        load.wait_for_more(50)
    assert {(reply.status, reply.body) for reply in replies} == {(201, replies[0].body)}
    assert balance(scene) == before + 500
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("all had the first answer, byte for byte; it was booked once")


def test_answers_that_nobody_reads(scene: Scene, load: SeededLoad, fault: Fault) -> None:
    fault.name = "client: answers are never read"
    before = balance(scene)
    bodies = [
        msgspec.json.encode(recharge(f"deaf-{fault.seed}-{number}", ACCOUNT, 100))
        for number in range(CALLERS)
    ]
    with load, contextlib.ExitStack() as stack:
        load.wait_for_more(50)
        for body in bodies:
            deaf = stack.enter_context(connected(scene))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_024)
            request = head_of(scene, len(body)) + b"\r\n" + body
            deaf.settimeout(0.0)
            with contextlib.suppress(BlockingIOError):
                deaf.sendall(request * 200)  # more answers than any buffer holds
        load.wait_for_more(100)
        wait_until(lambda: balance(scene) == before + CALLERS * 100, "all are booked")
    assert balance(scene) == before + CALLERS * 100
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("each was booked once; nobody else waited")


def test_half_a_body(scene: Scene, load: SeededLoad, fault: Fault) -> None:
    fault.name = "client: hangs up after half a body"
    before = balance(scene)
    with load:
        load.wait_for_more(50)
        for number in range(CALLERS):
            body = msgspec.json.encode(recharge(f"half-{fault.seed}-{number}", ACCOUNT, 100))
            with connected(scene) as client:
                client.sendall(head_of(scene, len(body)) + b"\r\n" + body[: len(body) // 2])
        load.wait_for_more(50)
    assert balance(scene) == before
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("nothing of it was booked")


@pytest.mark.parametrize("what", ["head", "body"])
def test_a_request_that_never_becomes_whole(
    scene: Scene, load: SeededLoad, fault: Fault, what: str
) -> None:
    fault.name = f"client: slow {what}"
    before = balance(scene)
    body = msgspec.json.encode(recharge(f"slow-{fault.seed}", ACCOUNT, 100))
    head = head_of(scene, len(body))
    begun = head if what == "head" else head + b"\r\n" + body[:-1]
    with load, connected(scene) as slow:
        slow.sendall(begun)
        load.wait_for_more(50)
        answer = slow.recv(1 << 16)  # comes, or the end does, when the server's patience is over
        load.wait_for_more(20)
    assert answer[9:12] == (b"" if what == "head" else b"408")
    assert balance(scene) == before
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("cut off after the reading timeout; nothing of it was booked")


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open as many files as the case needs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], FILES), max(before[1], FILES)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0], max(before[1], FILES)))


def open_files(scene: Scene) -> int:
    """How many files, connections among them, the API process has open."""
    return sum(1 for _ in Path(f"/proc/{scene.children['api-1']}/fd").iterdir())


def test_ten_thousand_connections(
    scene: Scene, load: SeededLoad, fault: Fault, many_files: None
) -> None:
    fault.name = "client: 10,000 connections kept alive"
    before = open_files(scene)
    with load, contextlib.ExitStack() as stack:
        load.wait_for_more(50)
        kept = []
        for _ in range(CONNECTIONS):
            kept.append(stack.enter_context(connected(scene)))
            kept[-1].sendall(ALIVE)
        for connection in kept:
            assert connection.recv(1 << 12).startswith(b"HTTP/1.1 200")
        assert open_files(scene) >= before + CONNECTIONS
        load.wait_for_more(100)
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("all were answered; the bound is the process's hard limit of open files")


def test_more_connections_than_files(scene: Scene, load: SeededLoad, fault: Fault) -> None:
    """It once ended the engine's thread in silence: without a file it could not even wait for its
    database. Who is connected is answered now, and who comes is turned away in time."""
    fault.name = "client: more silent connections than the process may open files"
    api = scene.children["api-1"]
    limits = resource.prlimit(api, resource.RLIMIT_NOFILE)
    kept = FILES_OWN + 2 * scene.settings.pool_size_max
    with load, contextlib.ExitStack() as stack:
        load.wait_for_more(50)
        resource.prlimit(api, resource.RLIMIT_NOFILE, (kept + ROOM, limits[1]))
        silent = [stack.enter_context(connected(scene)) for _ in range(4 * ROOM)]
        turned_away = [connection.recv(1 << 12) for connection in silent]  # or cut off
        load.wait_for_more(50)
        assert read_probe(scene).status_code == 200  # by a new connection
        resource.prlimit(api, resource.RLIMIT_NOFILE, limits)
        load.wait_for_more(50)
    assert sum(answer.startswith(b"HTTP/1.1 503") for answer in turned_away) > 2 * ROOM
    assert scene.children["api-1"] == api
    assert_nothing_lost(scene.database_url, load)
    fault.recovered("who came was turned away with 503; the silent were cut off in time")
