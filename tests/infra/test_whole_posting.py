"""Refused before it is parsed: which bytes count as a posting, and what the connection is after.

The connection is the product's own, on a transport and a clock of the test's; there is no room.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
import uvicorn

from infra.connection_bounds import BoundedConnection, ConnectionBounds
from infra.whole_posting import body_of, request_lines
from ledger.admission import Admission, AdmissionLimits
from ledger.api_gate import DaybookApp
from ledger.api_routes import HOT

LINES = request_lines(HOT)
BODY = b'{"business_type":"payment"}'
HEADERS = (b"Host: daybook", b"Content-Type: application/json")
LENGTH = b"content-LENGTH: %d" % len(BODY)
REFUSED = b"refused"


def posting(*headers: bytes, line: bytes = LINES[0], body: bytes = BODY) -> bytes:
    """Return a request; without headers of its own it is a plain one."""
    return line + b"\r\n".join([*HEADERS, *(headers or (LENGTH,)), b"", body])


@pytest.mark.parametrize("line", LINES)
def test_a_plain_posting_has_its_body(line: bytes) -> None:
    assert body_of(posting(line=line), LINES) == BODY


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(posting()[:-1], id="cut in its body"),
        pytest.param(posting()[:60], id="cut in its head"),
        pytest.param(posting() + b"P", id="followed by another"),
        pytest.param(posting() * 2, id="two"),
        pytest.param(posting(line=b"GET /v1/operations HTTP/1.1\r\n"), id="a read"),
        pytest.param(posting(line=b"POST /v1/operations?x=1 HTTP/1.1\r\n"), id="a query"),
        pytest.param(posting(line=b"POST /v1/operations HTTP/1.0\r\n"), id="an old protocol"),
        pytest.param(posting(b"X: 1"), id="no length"),
        pytest.param(posting(LENGTH, LENGTH), id="two lengths"),
        pytest.param(posting(b"Content-Length: +27"), id="a length with a sign"),
        pytest.param(posting(LENGTH, b"Transfer-Encoding: chunked"), id="chunks"),
        pytest.param(posting(LENGTH, b"Connection: close"), id="the last one"),
        pytest.param(posting(LENGTH, b"Expect: 100-continue"), id="who waits to send"),
        pytest.param(posting(LENGTH, b"Upgrade: websocket"), id="another protocol"),
        pytest.param(posting(LENGTH, b"X: 1\nTransfer-Encoding: chunked"), id="a bare line feed"),
        pytest.param(posting(LENGTH, b"X: 1\rY: 2"), id="a bare carriage return"),
    ],
)
def test_what_is_not_plainly_one_whole_posting_is_left_to_the_parser(data: bytes) -> None:
    assert body_of(data, LINES) is None


class Loop:
    """A loop of which only the clock and the timers are used."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.timers: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, seconds: float, call: Any) -> Timer:
        timer = Timer()
        self.timers.append((self.now_s + seconds, (timer, call)))
        return timer

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and ring what is due by then."""
        self.now_s += seconds
        due = [each for at, each in self.timers if at <= self.now_s]
        self.timers = [(at, each) for at, each in self.timers if at > self.now_s]
        for timer, call in due:
            if not timer.cancelled:
                call()


class Timer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Transport:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, _name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Door:
    """A connection in an overload that has no room; `begun` are the requests it took up."""

    def __init__(self) -> None:
        self.admission = Admission(AdmissionLimits(1.0, 1), frozenset({"refund"}), lambda: 0.0)
        self.admission.overloaded = True
        self.admission.room = 0
        self.loop, self.transport = Loop(), Transport()
        self.begun: list[Any] = []
        app = DaybookApp()
        app.hot = HOT
        door = self

        class Bounds(ConnectionBounds, frozen=True):
            @property
            def admission(self) -> Admission:
                return door.admission

        class Connection(BoundedConnection):
            bounds = Bounds(app, 15.0, 0, REFUSED, LINES)

            def _begin(self, cycle: Any) -> None:
                door.begun.append(cycle)

        config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        self.connection = Connection(config, state, {}, cast("Any", self.loop))
        self.connection.connection_made(self.transport)

    def come(self, data: bytes) -> int:
        """Let bytes come; return how many refusals that wrote."""
        self.transport.written = b""
        self.connection.data_received(data)
        return self.transport.written.count(REFUSED)


def test_a_whole_posting_is_refused_before_the_parser_sees_it() -> None:
    door = Door()
    assert [door.come(posting()) for _ in range(3)] == [1, 1, 1]
    assert door.connection.cycle is None
    assert door.admission.refused == 3


def test_what_may_return_money_and_what_is_not_plain_go_through_the_parser() -> None:
    door = Door()
    refund = b'{"business_type":"refund"}'
    length = b"Content-Length: %d" % len(refund)
    assert door.come(posting(length, body=refund)) == 0
    assert bytes(door.begun[0].body) == refund

    door = Door()
    assert door.come(posting(LENGTH, b"Accept: x") * 2) == 1
    assert door.connection.cycle is not None


def test_a_posting_inside_of_a_body_is_no_posting() -> None:
    """Who was answered before its body had come may send anything in it."""
    door = Door()
    door.connection.data_received(posting(b"Content-Length: 9999", body=b""))
    door.begun[0].response_complete = True
    assert door.come(posting()) == 0
    assert door.admission.refused == 0


def test_a_posting_behind_one_that_is_not_answered_waits_for_it() -> None:
    door = Door()
    refund = b'{"business_type":"refund"}'
    door.come(posting(b"Content-Length: %d" % len(refund), body=refund))
    assert door.come(posting()) == 0


def test_a_connection_is_idle_from_its_last_refusal_on() -> None:
    door = Door()
    patience_s = door.connection.timeout_keep_alive
    door.come(posting())
    door.loop.pass_by(patience_s - 1)
    door.come(posting())
    door.loop.pass_by(patience_s - 1)
    assert not door.transport.closed
    door.loop.pass_by(2)
    assert door.transport.closed


def test_who_was_refused_is_not_cut_off_for_its_first_head() -> None:
    door = Door()
    door.come(posting())
    assert door.connection.timeout_keep_alive < 15.0
    door.connection.timeout_keep_alive_task.cancel()
    door.loop.pass_by(16)
    assert not door.transport.closed
