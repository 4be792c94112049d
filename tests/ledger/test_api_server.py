"""The application behind a socket: cut bodies, health, the database going away, draining."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from infra.postgres import embedded_postgres, migrate
from ledger.api_call import Call, ClientGone, Limits
from ledger.errors import InvalidRequest
from tests.fix_api import ApiCaller, api_over, credit, operation
from tests.waiting import wait_until

Served = tuple[ApiCaller, subprocess.Popen[bytes]]
OPERATIONS = "/v1/operations"
BODY = json.dumps(operation("r-1", credit("C-1", 1))).encode()


def spoken(api: ApiCaller, *parts: bytes, cut: bool = False) -> bytes:
    """Send bytes over a socket of our own, return what comes back; `cut` stops sending."""
    address = urlsplit(str(api.http.base_url))
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as line:
        for part in parts:
            line.sendall(part)
        if cut:
            line.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := line.recv(65_536):
            answer += chunk
    return answer


def head(api: ApiCaller, *fields: str) -> bytes:
    """Say the head of a posting."""
    lines = [
        "POST /v1/operations HTTP/1.1",
        "Host: test",
        f"Authorization: Bearer {api.key}",
        "Content-Type: application/json",
        *fields,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_a_body_shorter_than_announced_books_nothing(api: ApiCaller) -> None:
    api.open("C-1")
    position = api.position()

    spoken(api, head(api, f"Content-Length: {len(BODY) + 10}"), BODY, cut=True)

    assert api.get("/health/live").status_code == 200
    assert api.position() == position


def test_a_chunked_body_is_read_to_its_end(api: ApiCaller) -> None:
    api.open("C-1")
    half = len(BODY) // 2
    chunks = b"".join(
        f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (BODY[:half], BODY[half:], b"")
    )

    answer = spoken(api, head(api, "Transfer-Encoding: chunked", "Connection: close"), chunks)

    assert answer.startswith(b"HTTP/1.1 201 ")
    assert api.balance("C-1") == 1


def test_a_chunked_body_over_the_limit_is_refused(database_url: str, tmp_path: Path) -> None:
    with api_over(database_url, tmp_path, body_bytes_max=2_000) as api:
        position = api.position()

        def endless() -> Iterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        key = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
        answer = api.http.post(OPERATIONS, content=endless(), headers=key)

        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.headers["connection"] == "close"
        assert api.position() == position


@pytest.mark.parametrize("length", ["-1", "nonsense", "1, 2"])
def test_a_content_length_that_is_no_number_is_refused(api: ApiCaller, length: str) -> None:
    position = api.position()

    # in one piece: what comes behind the end of a connection would reset it, answer and all
    answer = spoken(api, head(api, f"Content-Length: {length}") + BODY)

    assert answer.split(b" ")[1:2] in ([b"400"], [b"413"])
    assert api.position() == position


def test_a_body_that_never_comes_is_given_up() -> None:
    async def silence() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")

    scope = {"type": "http", "headers": [], "query_string": b""}
    limits = Limits(1_000, 1, body_patience_s=0.01)

    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(Call(scope, silence).body(limits))

    assert refused.value.code == "request_timeout"


def test_a_caller_that_hangs_up_in_its_body_is_gone() -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def hanging_up() -> dict[str, object]:
        return next(messages, {"type": "http.disconnect"})

    scope = {"type": "http", "headers": [], "query_string": b""}

    with pytest.raises(ClientGone):
        asyncio.run(Call(scope, hanging_up).body(Limits(1_000, 1)))


def test_a_caller_that_hangs_up_before_its_answer_disturbs_nobody(api: ApiCaller) -> None:
    api.open("C-1")
    address = urlsplit(str(api.http.base_url))

    for _ in range(20):
        with socket.create_connection((address.hostname or "", address.port or 0)) as line:
            line.sendall(head(api, f"Content-Length: {len(BODY)}") + BODY)

    wait_until(lambda: api.balance("C-1") == 1, "the posting of the caller that hung up")
    assert api.post(OPERATIONS, operation("r-2", credit("C-1", 1))).status_code == 201


def test_health_needs_no_key_and_metrics_count_results(api: ApiCaller) -> None:
    api.open("C-1")
    api.post(OPERATIONS, operation("r-1", credit("C-1", 1)))
    api.post(OPERATIONS, operation("r-1", credit("C-1", 1)))

    live = api.http.get("/health/live")
    ready = api.http.get("/health/ready")
    metrics = api.get("/metrics").text

    assert (live.status_code, ready.status_code) == (200, 200)
    parts = ("engine", "database", "log", "schema", "drain", "lanes", "relay", "backlog")
    assert ready.json() == {"ready": True, "status": "ready", **dict.fromkeys(parts, "ok")}
    assert 'daybook_postings_total{result="booked"} 2.0' in metrics
    assert 'daybook_postings_total{result="replayed"} 1.0' in metrics
    assert api.http.get("/metrics").status_code == 401


def test_the_status_says_where_the_log_ends(api: ApiCaller) -> None:
    status = api.get("/v1/status").json()

    assert status["log"]["position"] == api.position()
    assert status["book"]["open_business_date"] == "2026-01-31"
    assert status["engine"] == {"running": True, "queued": 0, "stopped_by": None}


def test_without_the_database_callers_are_asked_back_and_nothing_is_lost(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path / "pg", settings={"shared_buffers": "64MB"}) as server:
        migrate(server.url)
        with api_over(server.url, tmp_path) as api:
            api.open("C-1")
            body = operation("r-1", credit("C-1", 100))
            server.crash()

            down = api.post(OPERATIONS, body)
            ready = api.http.get("/health/ready")
            batch = api.post("/v1/operations:batch", [body])
            read = api.get("/v1/accounts/C-1")
            server.start()
            wait_until(
                lambda: api.post(OPERATIONS, body).status_code == 201, "the database to be back"
            )

            for answer in (down, batch, read):
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
                assert int(answer.headers["retry-after"]) >= 1
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
            assert api.balance("C-1") == 100


def test_a_full_queue_asks_callers_back_and_records_nothing(
    database_url: str, tmp_path: Path
) -> None:
    with api_over(database_url, tmp_path, queue_size_max=2) as api:
        api.open("C-1")
        position = api.position()
        lines = [operation(f"r-{number}", credit("C-1", 1)) for number in range(3)]

        answer = api.post("/v1/operations:batch", lines)

        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert answer.json()["retriable"]
        assert "retry-after" in answer.headers
        assert api.position() == position


def test_sigterm_answers_what_was_accepted_and_takes_no_more(api_server: Served) -> None:
    api, process = api_server
    api.open("C-1")
    answered: list[int] = []

    def post(number: int) -> None:
        try:
            answer = api.post(OPERATIONS, operation(f"r-{number}", credit("C-1", 1)))
        except httpx.TransportError:
            return
        if answer.status_code == 201:
            answered.append(number)

    with ThreadPoolExecutor(8) as callers:
        posted = callers.map(post, range(400))
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        list(posted)

    assert process.wait(60) in (0, -signal.SIGTERM)
    with api_over(api.database_url, api.home) as again:
        booked = again.balance("C-1")
        found = [again.get(f"/v1/operations/r-{number}").status_code for number in answered]
    assert set(found) <= {200}
    assert booked == len(answered)
