"""Spans of operations: each hop in the trace of its operation. Needs the extra daybook[tracing].

Invariant: an operation has one trace; the span of the request that recorded it is its root,
whatever repeats it is a child.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from infra.traces import trace_ids
from ledger.hops import Hop, hops

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
QUEUE_SPANS_MAX = 50_000
EXPORT_SPANS_MAX = 2_000
EXPORT_PAUSE_MS = 1_000
FLUSH_TIMEOUT_MS = 5_000


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Return the exporter to an OTLP/HTTP collector."""
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")


@contextlib.contextmanager
def traced_by(exporter: SpanExporter, part: str, *, share: float = 1) -> Iterator[None]:
    """Give the spans of this process's hops to an exporter while the block runs."""
    tracer = OperationTracer(exporter, part, share=share)
    end = hops.listen(tracer.note)
    try:
        yield
    finally:
        end()
        tracer.close()


class OperationIds(RandomIdGenerator):
    """Random ids, but for a root span: there the operation's own. One value for each thread."""

    def __init__(self) -> None:
        super().__init__()
        self._given = threading.local()

    @contextlib.contextmanager
    def given(self, trace_id: int, span_id: int) -> Iterator[None]:
        """Give these ids to the span that this thread starts in the block."""
        self._given.ids = (trace_id, span_id)
        try:
            yield
        finally:
            self._given.ids = None

    def generate_trace_id(self) -> int:
        """Return the operation's trace id, else a random one."""
        ids = getattr(self._given, "ids", None)
        return super().generate_trace_id() if ids is None else int(ids[0])

    def generate_span_id(self) -> int:
        """Return the operation's root span id, else a random one."""
        ids = getattr(self._given, "ids", None)
        return super().generate_span_id() if ids is None else int(ids[1])


class OperationTracer:
    """Makes a span of each hop, in the trace of its operation."""

    def __init__(self, exporter: SpanExporter, part: str, *, share: float) -> None:
        self._ids = OperationIds()
        names = {"service.name": f"daybook-{part}", "service.version": version("daybook")}
        self._provider = TracerProvider(
            resource=Resource.create(names),
            sampler=TraceIdRatioBased(share),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=QUEUE_SPANS_MAX,
                max_export_batch_size=EXPORT_SPANS_MAX,
                schedule_delay_millis=EXPORT_PAUSE_MS,
            )
        )
        self._tracer = self._provider.get_tracer("daybook")

    def note(self, hop: Hop) -> None:
        """Make the span of a hop that has ended."""
        ids = trace_ids(hop.book_id, hop.operation_id)
        recorded = "error" not in hop.facts and not hop.facts.get("replayed")
        if hop.part == "api" and recorded:
            with self._ids.given(*ids):
                span = self._started(hop, Context())
        else:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            root = trace.SpanContext(*ids, is_remote=True, trace_flags=flags)
            span = self._started(hop, trace.set_span_in_context(trace.NonRecordingSpan(root)))
        if "error" in hop.facts:
            span.set_status(trace.StatusCode.ERROR, str(hop.facts["error"]))
        span.end(hop.ended_ns)

    def _started(self, hop: Hop, context: Context) -> trace.Span:
        return self._tracer.start_span(
            f"operation {hop.part}",
            context=context,
            kind=trace.SpanKind.SERVER if hop.part == "api" else trace.SpanKind.INTERNAL,
            start_time=hop.began_ns,
            links=_links(hop.caller),
            attributes={f"daybook.{name}": value for name, value in _attributes(hop)},
        )

    def close(self) -> None:
        """Send what waits, for a bounded time."""
        self._provider.force_flush(FLUSH_TIMEOUT_MS)
        self._provider.shutdown()


def _attributes(hop: Hop) -> Iterator[tuple[str, str | int | float | bool]]:
    yield "book_id", hop.book_id
    yield "operation_id", hop.operation_id
    for name, value in hop.facts.items():
        yield name, value if isinstance(value, bool | int | float) else str(value)


def _links(caller: str | None) -> list[trace.Link]:
    """Link the caller's span; a traceparent that cannot be read is no reason to fail."""
    match = TRACEPARENT.fullmatch(caller or "")
    if match is None:
        return []
    context = trace.SpanContext(
        int(match[1], 16),
        int(match[2], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(match[3], 16)),
    )
    return [trace.Link(context)] if context.is_valid else []
