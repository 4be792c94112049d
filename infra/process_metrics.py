"""Metrics of one process on a port of its own: what it did, what it logged, and the backlog.

The API also answers `/metrics`; consumer, relay and results have only this. Invariant: nothing
is counted twice (the counts are the process's own records), and a scrape that finds no database
still answers.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator

import msgspec
import psycopg
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg_pool import PoolTimeout

from infra.connections import connect
from infra.logs import LINES
from infra.settings import Settings
from ledger.backlog import Backlog, BacklogLimits
from ledger.backlog_metrics import BacklogCollector
from ledger.errors import LedgerError
from projections.backlog import select_backlog

LEVELS = ("debug", "info", "warning", "error", "critical")


class MetricsPortTaken(Exception):
    """Another process listens on the metrics port."""


class CountsCollector(Collector):
    """A process's own counts: each field of a struct becomes `daybook_<part>_<field>_total`."""

    def __init__(self, part: str, counts: msgspec.Struct) -> None:
        self._part = part
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield one counter for each field."""
        for field in msgspec.structs.fields(self._counts):
            words = f"{field.name.replace('_', ' ')} of the {self._part} since it started"
            value = getattr(self._counts, field.name)
            yield CounterMetricFamily(f"daybook_{self._part}_{field.name}", words, value=value)


class LogLinesCollector(Collector):
    """Log lines by level: a process that says `error` is looked at, whatever it says."""

    def collect(self) -> Iterator[Metric]:
        """Yield one counter."""
        lines = CounterMetricFamily("daybook_log_lines", "Log lines written", labels=["level"])
        for level in LEVELS:
            lines.add_metric([level], LINES[level])
        yield lines


def process_registry() -> CollectorRegistry:
    """Return a registry with what every process says of itself: memory, time, log lines."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(LogLinesCollector())
    return registry


def limits_of(settings: Settings) -> BacklogLimits:
    """Return the limits of the backlog."""
    return BacklogLimits(
        operations_soft=settings.backlog_operations_soft,
        operations_hard=settings.backlog_operations_hard,
        seconds_soft=settings.backlog_seconds_soft,
        seconds_hard=settings.backlog_seconds_hard,
    )


def relay_topic(settings: Settings) -> str | None:
    """Return the topic whose relay belongs to the backlog; None on the log bus."""
    return settings.operations_topic if settings.bus == "kafka" else None


@contextlib.contextmanager
def metrics_of(settings: Settings, url: str, part: str, counts: msgspec.Struct) -> Iterator[None]:
    """Serve the metrics of a process that has no API, while the block runs."""
    registry = process_registry()
    registry.register(CountsCollector(part, counts))

    def read() -> Backlog | None:
        try:
            with connect(url, settings, "daybook-metrics") as conn:
                now = dt.datetime.now(dt.UTC)
                return select_backlog(conn, now, topic=relay_topic(settings))
        except (psycopg.Error, PoolTimeout, LedgerError):
            return None  # the metrics say so: daybook_backlog_readable is 0

    registry.register(BacklogCollector(read, limits_of(settings)))
    with metrics_port(settings, registry):
        yield


@contextlib.contextmanager
def metrics_port(settings: Settings, registry: CollectorRegistry) -> Iterator[None]:
    """Serve a registry on this process's metrics port, if it has one."""
    if settings.metrics_port == 0:
        yield
        return
    place = (settings.metrics_port, settings.metrics_host)
    try:
        server, thread = start_http_server(*place, registry=registry)
    except OSError as error:
        msg = f"cannot listen on {place[1]}:{place[0]}: {error.strerror}; choose another port"
        raise MetricsPortTaken(msg) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
