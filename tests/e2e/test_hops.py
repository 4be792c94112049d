"""One operation's way through all processes: by its id in their log lines, and in one trace."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from infra.demo.system import System
from infra.traces import trace_ids
from tests.e2e.conftest import Running
from tests.e2e.load import client_of, open_customer, recharge
from tests.waiting import wait_until

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LINKED = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
ON_LOG = {"api", "engine", "consumer", "results"}
ON_KAFKA = ON_LOG | {"relay"}


class Collector:
    """What an OTLP/HTTP collector has received: (service, span)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[tuple[str, Span]] = []

    def of(self, operation_id: str) -> dict[str, Span]:
        """The spans of an operation by the service's part."""
        trace_id = trace_ids("main", operation_id)[0].to_bytes(16)
        found = [(part, span) for part, span in self.spans if span.trace_id == trace_id]
        return {span.name.removeprefix("operation "): span for _, span in found}


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port of this machine."""

    class Receive(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {each.key: each.value for each in resource.resource.attributes}
                service = names["service.name"].string_value
                for scope in resource.scope_spans:
                    received.spans += [(service, span) for span in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receive)
    received = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def post(system: System, operation_id: str) -> None:
    """Recharge as a gateway that traces its own requests."""
    headers = {"Authorization": f"Bearer {system.key}", "traceparent": CALLER}
    answer = httpx.post(
        f"{system.url}/v1/operations", json=recharge(operation_id), headers=headers, timeout=60
    )
    assert answer.status_code == 201, answer.text


def lines_of(system: System, operation_id: str) -> dict[str, dict[str, object]]:
    """The JSON log lines with an operation's id, by the part that wrote them."""
    lines = [line for line in system.log.splitlines() if f'"{operation_id}"' in line]
    found = [json.loads(line) for line in lines]
    return {str(line["part"]): line for line in found}


@pytest.mark.parametrize("bus", ["log", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_an_operation_is_followed_by_its_id_through_logs_and_one_trace(
    bus: str, running: Running, request: pytest.FixtureRequest
) -> None:
    parts = ON_LOG if bus == "log" else ON_KAFKA
    overrides: dict[str, object] = {"bus": bus, "log_format": "json", "log_level": "debug"}
    if bus == "kafka":
        overrides["kafka_bootstrap"] = request.getfixturevalue("kafka_bootstrap")
    operation_id = f"followed-{secrets.token_hex(8)}"
    with collector() as received, running(**overrides, otlp_endpoint=received.url) as system:
        open_customer(system)
        post(system, operation_id)
        with client_of(system) as client:
            client.get("/v1/trial-balance", operation_id=operation_id, wait_s=30)
        wait_until(lambda: set(received.of(operation_id)) >= parts, f"spans of {parts}")
        wait_until(lambda: set(lines_of(system, operation_id)) >= parts, f"lines of {parts}")
        lines = lines_of(system, operation_id)
        spans = received.of(operation_id)

    assert set(lines) == set(spans) == parts
    assert lines["api"]["traceparent"] == CALLER
    assert lines["consumer"]["status"] == "vouchered"
    assert {line["level"] for line in lines.values()} == {"debug"}
    root = spans.pop("api")
    assert root.parent_span_id == b""
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    [link] = root.links
    assert (link.trace_id.hex(), link.span_id.hex()) == LINKED
    services = {service for service, _ in received.spans}
    assert services >= {"daybook-api", "daybook-consumer"}


def test_a_repeat_is_in_the_trace_of_the_first_and_does_not_become_its_root(
    running: Running,
) -> None:
    with collector() as received, running(otlp_endpoint=received.url) as system:
        open_customer(system)
        post(system, "twice")
        post(system, "twice")
        wanted = trace_ids("main", "twice")
        name = "operation api"

        def spans() -> list[Span]:
            return [
                span
                for _, span in received.spans
                if span.name == name and span.trace_id == wanted[0].to_bytes(16)
            ]

        wait_until(lambda: len(spans()) == 2, "both requests are traced")
        first, repeat = sorted(spans(), key=lambda span: span.start_time_unix_nano)

    assert first.span_id == wanted[1].to_bytes(8)
    assert repeat.parent_span_id == first.span_id
    assert repeat.span_id != first.span_id


def test_without_the_settings_no_process_writes_a_line_about_an_operation(
    running: Running,
) -> None:
    with running(log_format="json", log_level="info") as system:
        open_customer(system)
        post(system, "untold")
        with client_of(system) as client:
            client.get("/v1/trial-balance", operation_id="untold", wait_s=30)
    assert "untold" not in system.log
