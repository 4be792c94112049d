"""Overload at the connection: a posting for which there is no room is answered where it is read.

Two recharges wait behind a lock on the log, which is all the room there is; nothing here hangs on
how fast the machine is.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import uvloop

from infra.app import admission_limits
from infra.connection_bounds import waited_s
from infra.settings import Settings
from ledger.admission import Admission
from tests.fix_api import ApiCaller, api_over, credit, leg, operation
from tests.waiting import wait_until

OPERATIONS = "/v1/operations"
LOCK_LOG = "SELECT pg_advisory_xact_lock(1145393475, hashtext('ledger'))"
BOUNDS = {"queue_wait_ms_max": 20, "queue_requests_free": 2}


class Line:
    """A connection whose requests are written byte for byte."""

    def __init__(self, api: ApiCaller) -> None:
        address = urlsplit(str(api.http.base_url))
        self._key = api.key
        self._socket = socket.create_connection((address.hostname, address.port), timeout=30)
        self._answers = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def request(self, body: object, *headers: str, path: str = OPERATIONS) -> bytes:
        """Return a posting's bytes."""
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1",
            "Host: daybook",
            f"Authorization: Bearer {self._key}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            *headers,
        )
        return "\r\n".join([*head, "", ""]).encode() + content

    def answer(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Read an answer: status, headers, document."""
        status = int(self._answers.readline().split()[1])
        headers = {}
        while line := self._answers.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, json.loads(self._answers.read(int(headers["content-length"])))

    def is_at_end(self) -> bool:
        return self._answers.read(1) == b""

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


@contextmanager
def line_to(api: ApiCaller) -> Iterator[Line]:
    line = Line(api)
    try:
        yield line
    finally:
        line.close()


@contextmanager
def no_room(api: ApiCaller) -> Iterator[None]:
    """Let two recharges wait for the log until the block ends; then both are booked."""
    with line_to(api) as first, line_to(api) as second:
        with psycopg.connect(api.database_url) as blocker:
            blocker.execute(LOCK_LOG)
            for line in (first, second):
                line.send(line.request(operation(f"waits-{id(line)}", credit("C-1", 1))))
            wait_until(lambda: shown(api, "daybook_waiting_requests") == 2, "two to wait")
            wait_until(lambda: shown(api, "daybook_waiting_oldest_seconds") > 0.02, "it to be long")
            yield
        assert [line.answer()[0] for line in (first, second)] == [201, 201]


def shown(api: ApiCaller, name: str) -> float:
    for line in api.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError("the metric is not there")


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[ApiCaller]:
    with api_over(database_url, tmp_path, **BOUNDS) as caller:
        caller.open("C-1")
        caller.credit("C-1", 1_000)
        yield caller


def whole(line: Line, request: bytes) -> None:
    line.send(request)


def in_two(line: Line, request: bytes) -> None:
    """The head is read first, so that the posting has begun before its body comes."""
    head = request.index(b"\r\n\r\n") + 4
    line.send(request[:head])
    time.sleep(0.1)
    line.send(request[head:])


@pytest.mark.parametrize("path", [OPERATIONS, f"{OPERATIONS}:batch"])
@pytest.mark.parametrize("send", [whole, in_two])
def test_who_finds_no_room_is_told_when_to_come_again_and_nothing_is_recorded(
    api: ApiCaller, send: Callable[[Line, bytes], None], path: str
) -> None:
    given = operation("late", credit("C-1", 1))
    with line_to(api) as line:
        with no_room(api):
            send(line, line.request(given if path == OPERATIONS else [given], path=path))
            status, headers, problem = line.answer()

            assert (status, problem["code"], problem["retriable"]) == (503, "overloaded", True)
            assert headers["content-type"] == "application/problem+json"
            assert int(headers["retry-after"]) >= 1
            assert api.get(f"{OPERATIONS}/late").status_code == 404
            assert shown(api, "daybook_overload_refused_total") == 1
            assert shown(api, "daybook_overloaded") == 1

        line.send(line.request(given))  # on the same connection, under the same id
        assert line.answer()[0] == 201


@pytest.mark.parametrize(("send", "status"), [(whole, 503), (in_two, 401)])
def test_a_posting_that_was_read_whole_is_refused_before_its_key_is_looked_up(
    api: ApiCaller, send: Callable[[Line, bytes], None], status: int
) -> None:
    with line_to(api) as line, no_room(api):
        request = line.request(operation("late", credit("C-1", 1)))
        send(line, request.replace(api.key.encode(), b"nobody's"))
        assert line.answer()[0] == status


def test_a_release_behind_a_refused_payment_on_its_connection_is_booked(api: ApiCaller) -> None:
    held = operation("held", leg("hold", "C-1", 100, hold_id="h"), business_type="hold")
    freed = operation("freed", leg("release", "C-1", 100, hold_id="h"), business_type="release")
    assert api.post(OPERATIONS, held).status_code == 201
    with line_to(api) as line:
        late, later = (operation(name, credit("C-1", 1)) for name in ("late", "later"))
        with no_room(api):
            line.send(b"".join(map(line.request, (late, freed, later))))

            assert line.answer()[0] == 503
            wait_until(lambda: shown(api, "daybook_waiting_requests") == 3, "the release to wait")
        released, last = line.answer(), line.answer()

    assert (released[0], released[2]["operation_id"]) == (201, "freed")
    assert (last[0], last[2]["operation_id"]) == (201, "later")


def test_a_payment_that_calls_itself_a_refund_elsewhere_buys_no_place(api: ApiCaller) -> None:
    with line_to(api) as line, no_room(api):
        line.send(line.request(operation("refund", credit("C-1", 1))))
        assert line.answer()[2]["code"] == "overloaded"
    assert api.get(f"{OPERATIONS}/refund").status_code == 404


def test_who_wants_the_connection_closed_is_refused_and_it_is(api: ApiCaller) -> None:
    with line_to(api) as line, no_room(api):
        late = operation("late", credit("C-1", 1))
        line.send(line.request(late, "Connection: close"))
        assert line.answer()[0] == 503
        assert line.is_at_end()


def test_who_hangs_up_leaves_a_place(api: ApiCaller) -> None:
    with psycopg.connect(api.database_url) as blocker:
        blocker.execute(LOCK_LOG)
        with line_to(api) as first, line_to(api) as second:
            for line in (first, second):
                line.send(line.request(operation(f"gone-{id(line)}", credit("C-1", 1))))
            wait_until(lambda: shown(api, "daybook_waiting_requests") == 2, "both to wait")
    wait_until(lambda: shown(api, "daybook_waiting_requests") == 0, "both to be booked")

    with line_to(api) as first, line_to(api) as second:
        with psycopg.connect(api.database_url) as blocker:
            blocker.execute(LOCK_LOG)
            first.send(first.request(operation("first", credit("C-1", 1))))
            wait_until(lambda: shown(api, "daybook_waiting_oldest_seconds") > 0.02, "it to wait")
            second.send(second.request(operation("second", credit("C-1", 1))))
            wait_until(lambda: shown(api, "daybook_waiting_requests") == 2, "both to be inside")
        assert [line.answer()[0] for line in (first, second)] == [201, 201]
    assert api.balance("C-1") == 1_004


def test_the_kernel_says_how_long_a_request_lay_unread() -> None:
    told: dict[bytes, float] = {}
    both = asyncio.Event()

    class Reader(asyncio.Protocol):
        transport: asyncio.BaseTransport

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            told[data] = waited_s(self.transport)
            if len(told) == 2:
                both.set()

    async def read_late() -> None:
        server = await asyncio.get_running_loop().create_server(Reader, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        with socket.create_connection(address) as early, socket.create_connection(address) as late:
            await asyncio.sleep(0.1)
            early.sendall(b"early")
            time.sleep(0.3)  # noqa: ASYNC251 - the loop does not turn meanwhile
            late.sendall(b"late")
            await both.wait()
        server.close()

    uvloop.run(read_late())
    assert told[b"early"] - told[b"late"] >= 0.2


def test_more_than_half_of_the_maximum_is_taken_though_each_commit_takes_10_ms() -> None:
    """Twice 6,000 a second come; a batch is all who wait, and takes 10 ms and 1/6,000 s for each.

    With a bound of 30 ms most of it went to the two commits that each waits for: a third was taken.
    """
    now_s = 1_000.0
    admission = Admission(admission_limits(Settings()), frozenset(), lambda: now_s)
    waiting: list[int] = []
    batch: list[int] = []
    ends_s = now_s
    answered = 0
    for step in range(8_000):
        now_s += 0.001
        if now_s >= ends_s:
            for ticket in batch:
                admission.settled(ticket)
                admission.left()
            answered += len(batch) if step >= 4_000 else 0
            batch, waiting = waiting, []
            ends_s = now_s + (0.010 + len(batch) / 6_000 if batch else 0)
        for number in range(step * 12, step * 12 + 12):
            if admission.has_room(lambda: 0.0) or not admission.refuses(b"{}"):
                admission.came()
                admission.taken(number)
                waiting.append(number)
    assert admission.overloaded
    assert answered / 4.0 > 6_000 / 2
