"""Traces from the request to the voucher, by OpenTelemetry; off unless `otlp_endpoint` is set.

Nothing about a trace is stored or sent along: trace id and root span id are made from book and
operation id, so that every process finds the same trace by itself, and chooses the same share of
operations. The caller's own trace (`traceparent`) is linked to the API's span. Invariant: without
the setting no library of OpenTelemetry is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

from infra.settings import Settings


class TracingRefused(Exception):
    """Traces are asked for and the libraries for them are not installed."""


def trace_ids(book_id: str, operation_id: str) -> tuple[int, int]:
    """Return trace id and root span id of an operation: the same wherever they are made."""
    digest = hashlib.sha256(f"{book_id}\0{operation_id}".encode()).digest()
    return int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1


@contextlib.contextmanager
def tracing(settings: Settings, part: str) -> Iterator[None]:
    """Trace this process's hops while the block runs. Raises `TracingRefused`."""
    if settings.otlp_endpoint is None:
        yield
        return
    try:
        from infra.spans import otlp_exporter, traced_by
    except ImportError as error:
        msg = "DAYBOOK_OTLP_ENDPOINT is set: install the extra daybook[tracing]"
        raise TracingRefused(msg) from error
    exporter = otlp_exporter(settings.otlp_endpoint)
    with traced_by(exporter, part, share=settings.trace_share):
        yield
