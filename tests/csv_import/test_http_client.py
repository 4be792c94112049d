"""The HTTP client against a real socket: NDJSON both ways, retries, refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from infra.csv_import.http_client import HttpLedgerClient
from infra.csv_import.ledger_client import LedgerRefused, LedgerUnreachable
from ledger.operation import Leg, OpenAccount, Operation

OPERATIONS = [
    Operation("history_credit", (Leg("credit", "A", 100, "EUR"),), f"import:bank:{number}")
    for number in (1, 2)
]
BOOKED = [
    {"operation_id": f"import:bank:{n}", "status": "booked", "replayed": n == 1,
     "accounts": [{"account": "A", "currency": "EUR", "balance": 100 * n, "version": n}]}
    for n in (1, 2)
]  # fmt: skip


def ndjson(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


Answered = tuple[int, dict[str, str], bytes]
ANSWER: Answered = (200, {}, ndjson(*BOOKED))


class Server(ThreadingHTTPServer):
    """Answers from a script, the last answer again and again; remembers the requests."""

    script: list[Answered | None]
    seen: list[tuple[str, dict[str, str], bytes]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append((self.path, dict(self.headers.items()), body))
        script = self.server.script
        answer = script.pop(0) if len(script) > 1 else script[0]
        if answer is None:  # the connection breaks without an answer
            self.connection.close()
            return
        status, headers, content = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *args: Any) -> None:
        """Keep the test's output quiet."""


@contextmanager
def serving(*script: Answered | None) -> Iterator[tuple[HttpLedgerClient, Server, list[float]]]:
    server = Server(("127.0.0.1", 0), Handler)
    server.script, server.seen = list(script), []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    pauses: list[float] = []
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    client = HttpLedgerClient(url, key="k", book="history", tries_max=4, sleep=pauses.append)
    try:
        with client:
            yield client, server, pauses
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_operations_go_out_as_ndjson_and_results_come_back_in_order() -> None:
    with serving(ANSWER) as (client, server, _):
        first, second = client.post_operations(OPERATIONS)

    path, headers, body = server.seen[0]
    assert path == "/v1/operations:batch"
    assert headers["Authorization"] == "Bearer k"
    assert headers["Daybook-Book"] == "history"
    assert headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line)["operation_id"] for line in body.splitlines()] == [
        "import:bank:1",
        "import:bank:2",
    ]
    assert (first.booked, first.replayed, first.accounts[0].balance_minor) == (True, True, 100)
    assert (second.replayed, second.accounts[0].balance_minor) == (False, 200)


def test_an_account_without_a_floor_says_so_on_the_wire() -> None:
    account = OpenAccount(
        operation_id="o", account="A", owner="A", type="customer", subject="2001.01",
        currency="EUR", credit_limit_minor=None,
    )  # fmt: skip
    with serving((200, {}, ndjson(BOOKED[0]))) as (client, server, _):
        client.open_accounts([account])

    assert server.seen[0][0] == "/v1/accounts:batch"
    assert json.loads(server.seen[0][2])["credit_limit"] is None


@pytest.mark.parametrize(
    ("trouble", "pause_s"),
    [
        ((503, {"retry-after": "3"}, b"{}"), 3.0),
        ((503, {"retry-after": "soon"}, b"{}"), 0.25),
        ((503, {"retry-after": "86400"}, b"{}"), 15.0),
        ((429, {}, b""), 0.25),
        ((409, {}, b""), 0.25),
        (None, 0.25),
        ((200, {}, ndjson(BOOKED[0])), 0.25),
        ((200, {}, ndjson(BOOKED[0]) + b'{"operation_id": "imp'), 0.25),
        ((200, {}, ndjson(BOOKED[0], {"status": "error", "retriable": True})), 0.25),
        ((200, {}, ndjson(BOOKED[0], {"status": "error", "code": "overloaded"})), 0.25),
    ],
)
def test_what_decided_nothing_for_good_is_sent_again(
    trouble: Answered | None, pause_s: float
) -> None:
    with serving(trouble, ANSWER) as (client, server, pauses):
        results = client.post_operations(OPERATIONS)

    assert [result.operation_id for result in results] == ["import:bank:1", "import:bank:2"]
    assert pauses == [pause_s]
    assert server.seen[0][2] == server.seen[1][2]


def test_pauses_grow_and_patience_ends() -> None:
    with (
        serving((503, {}, b"no store")) as (client, server, pauses),
        pytest.raises(LedgerUnreachable, match="after 4 tries: 503 no store"),
    ):
        client.post_operations(OPERATIONS)

    assert pauses == [0.25, 0.5, 1.0]
    assert len(server.seen) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422, 500])
def test_a_refused_request_is_not_sent_again(status: int) -> None:
    problem = json.dumps({"code": "not_permitted"}).encode()
    with (
        serving((status, {}, problem)) as (client, server, _),
        pytest.raises(LedgerRefused, match=f"{status} .*not_permitted"),
    ):
        client.post_operations(OPERATIONS)

    assert len(server.seen) == 1


def test_a_rejected_line_is_a_result_with_its_code() -> None:
    rejected = {"operation_id": "x", "status": "rejected", "code": "date_closed", "detail": "d"}
    with serving((200, {}, ndjson(BOOKED[0], rejected))) as (client, _, _):
        _, second = client.post_operations(OPERATIONS)

    assert (second.booked, second.code, second.detail) == (False, "date_closed", "d")


def test_a_line_in_error_for_good_is_a_result_with_its_code() -> None:
    error = {"operation_id": "x", "status": "error", "code": "operation_id_reused"}
    with serving((200, {}, ndjson(BOOKED[0], error))) as (client, _, pauses):
        _, second = client.post_operations(OPERATIONS)

    assert (second.booked, second.code, pauses) == (False, "operation_id_reused", [])


def test_a_dry_run_and_a_balance_are_asked_by_their_own_addresses() -> None:
    with serving(ANSWER, (200, {}, b'{"account": "A/1", "balance": -7}')) as (client, server, _):
        client.post_operations(OPERATIONS, dry_run=True)
        assert client.select_balance("A/1") == -7

    assert [path for path, _, _ in server.seen] == [
        "/v1/operations:batch?dry_run=true",
        "/v1/accounts/A%2F1",
    ]


def test_nothing_to_post_asks_nothing() -> None:
    with serving(ANSWER) as (client, server, _):
        assert client.post_operations([]) == []

    assert server.seen == []
