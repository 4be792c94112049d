"""What the API counts about itself, in Prometheus' words.

Invariant: label values come from closed sets (results, route names), never from requests.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ledger.backlog import BacklogGate
from ledger.backlog_metrics import BacklogCollector, ReadBacklog, RefusedCollector

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
RESULTS = ("booked", "accepted", "rejected", "replayed", "error")


class Metrics:
    """The API's counters, on a registry of their own."""

    content_type = CONTENT_TYPE_LATEST.encode()

    def __init__(
        self,
        queued: Callable[[], float],
        running: Callable[[], bool],
        gate: BacklogGate,
        read_backlog: ReadBacklog,
        registry: CollectorRegistry,
    ) -> None:
        self.registry = registry
        postings = Counter(
            "daybook_postings",
            "Operations and commands by result",
            ["result"],
            registry=self.registry,
        )
        self.results = {result: postings.labels(result) for result in RESULTS}
        self.single_latency = Histogram(
            "daybook_posting_seconds",
            "Time from body read to answer, single postings",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_latency = Histogram(
            "daybook_batch_seconds",
            "Time from body read to answer, batches",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "daybook_batch_operations",
            "Operations in one request to a batch route",
            buckets=SIZE_BUCKETS,
            registry=self.registry,
        )
        queue = Gauge(
            "daybook_queue_operations",
            "Operations that wait for a database transaction",
            registry=self.registry,
        )
        queue.set_function(queued)
        engine = Gauge(
            "daybook_engine_running",
            "1: the engine takes operations",
            registry=self.registry,
        )
        engine.set_function(lambda: float(running()))
        self.registry.register(RefusedCollector(gate))
        self.registry.register(BacklogCollector(read_backlog, gate.limits))

    def text(self) -> bytes:
        """Return the exposition; it reads the backlog, so it runs in a thread."""
        return generate_latest(self.registry)
