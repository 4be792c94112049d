"""Traces: one per operation, found by every process by itself, and nothing at all when off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from infra.settings import Settings
from infra.spans import traced_by
from infra.traces import trace_ids, tracing
from ledger.hops import Hop, hops

WITHOUT = """
import sys
import infra.cli
from infra.app import build_app
from infra.settings import Settings
build_app(Settings(database_url="postgresql:///nobody"))
print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""


def hop(operation_id: str, part: str = "api", *, caller: str | None = None, **facts: object) -> Hop:
    return Hop(
        part=part,  # type: ignore[arg-type]
        book_id="main",
        operation_id=operation_id,
        began_ns=1_000,
        ended_ns=2_000,
        facts=facts,
        caller=caller,
    )


def test_without_an_endpoint_nobody_listens_and_no_library_of_tracing_is_loaded(
    tmp_path: Path,
) -> None:
    with tracing(Settings(home=tmp_path), "api"):
        assert not hops.on
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT], check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == "[]"


def test_listening_ends_with_the_block() -> None:
    with traced_by(InMemorySpanExporter(), "api"):
        assert hops.on
    assert not hops.on


def test_a_share_of_operations_is_the_same_share_in_every_process() -> None:
    names = [f"o-{number}" for number in range(200)]
    traced: list[set[int]] = []
    for part in ("api", "consumer"):
        exporter = InMemorySpanExporter()
        with traced_by(exporter, part, share=0.3):
            for name in names:
                hops.tell(hop(name, part))
        spans = exporter.get_finished_spans()
        traced.append({span.context.trace_id for span in spans if span.context is not None})

    assert traced[0] == traced[1]
    assert 20 < len(traced[0]) < 120


@pytest.mark.parametrize(
    "caller",
    ["", "nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-" + "a" * 32 + "-x-01"],
)
def test_a_traceparent_that_cannot_be_read_is_ignored(caller: str) -> None:
    exporter = InMemorySpanExporter()
    with traced_by(exporter, "api"):
        hops.tell(hop("o-1", caller=caller))
    [span] = exporter.get_finished_spans()
    assert len(span.links) == 0


def test_what_was_not_recorded_is_an_error_and_leaves_the_root_to_the_try_that_is() -> None:
    exporter = InMemorySpanExporter()
    with traced_by(exporter, "api"):
        hops.tell(hop("o-1", error="backlog"))
        hops.tell(hop("o-1", http_status=201, replayed=False))
    failed, recorded = exporter.get_finished_spans()

    assert failed.status.status_code is StatusCode.ERROR
    assert failed.context is not None
    assert recorded.context is not None
    assert recorded.context.span_id == trace_ids("main", "o-1")[1]
    assert failed.context.span_id != recorded.context.span_id
    assert failed.context.trace_id == recorded.context.trace_id
    assert recorded.parent is None


def test_two_books_with_the_same_operation_id_have_two_traces() -> None:
    assert trace_ids("main", "o-1") != trace_ids("other", "o-1")
