"""The backlog in Prometheus' words: the same families from every process that exposes metrics.

Invariant: label values come from closed sets (statuses, reasons, lane numbers), never from
requests. The names are a contract: `infra/monitoring/` alarms on them, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ledger.backlog import LEVELS, Backlog, BacklogGate, BacklogLimits, Buffers

ReadBacklog = Callable[[], Backlog | None]


class BacklogCollector(Collector):
    """Asks for the backlog at each scrape; None means that it cannot be read now."""

    def __init__(self, read: ReadBacklog, limits: BacklogLimits) -> None:
        self._read = read
        self._limits = limits

    def describe(self) -> Iterator[Metric]:
        """Describe nothing beforehand: registering must not read the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        backlog = self._read()
        yield gauge(
            "daybook_backlog_readable",
            "1: the backlog could be read from the database",
            0 if backlog is None else 1,
        )
        if backlog is not None:
            yield from _lag(backlog)
            level = self._limits.level(backlog.lag_operations, backlog.lag_s)
            yield gauge(
                "daybook_backlog_level",
                "0 within limits, 1 over the soft one, 2 over the hard one: the API pushes back",
                LEVELS.index(level),
            )
            yield from _stuck(backlog)
            yield from _buffers(backlog.buffers)


class RefusedCollector(Collector):
    """Counts what a gate has held back."""

    def __init__(self, gate: BacklogGate) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        """Yield the counter."""
        yield CounterMetricFamily(
            "daybook_backlog_refused",
            "Operations that this process answered with 503 because of the backlog",
            value=self._gate.refused,
        )


def gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, words, value=value)


def _lag(backlog: Backlog) -> Iterator[Metric]:
    yield gauge("daybook_log_position", "Last position of the log", backlog.log_position)
    yield gauge("daybook_books_position", "Everything up to here is in the books", backlog.position)
    yield gauge(
        "daybook_lag_operations",
        "Booked operations that are not in the books yet",
        backlog.lag_operations,
    )
    yield gauge("daybook_lag_seconds", "Age of the oldest row not in the books", backlog.lag_s)
    yield gauge(
        "daybook_oldest_unvouchered_seconds",
        "Age of the oldest operation without its voucher: pending, parked or waiting",
        0.0 if backlog.oldest is None else backlog.oldest.age_s,
    )
    if backlog.relay is not None:
        yield gauge(
            "daybook_relay_lag_positions",
            "Positions of the log that are not on Kafka yet",
            backlog.relay.lag_positions,
        )
        yield gauge(
            "daybook_relay_lag_seconds", "Age of the oldest row not on Kafka", backlog.relay.lag_s
        )


def _buffers(buffers: Buffers) -> Iterator[Metric]:
    yield gauge(
        "daybook_buffer_accounts", "Hot accounts for which accepted amounts wait", buffers.accounts
    )
    yield gauge("daybook_buffer_entries", "Accepted entries not applied yet", buffers.entries)
    yield gauge("daybook_buffer_seconds", "Age of the oldest accepted entry", buffers.oldest_s)
    yield gauge(
        "daybook_buffer_late",
        "Hot accounts whose accepted amounts wait longer than their bound",
        buffers.late,
    )


def _stuck(backlog: Backlog) -> Iterator[Metric]:
    parked = GaugeMetricFamily(
        "daybook_open_operations",
        "Operations that are parked, by reason, or wait behind one",
        labels=["status", "reason"],
    )
    for count in backlog.open:
        parked.add_metric([count.status, count.reason], count.count)
    yield parked
    position = GaugeMetricFamily(
        "daybook_lane_position", "Where a lane of the books is", labels=["lane"]
    )
    stopped = GaugeMetricFamily(
        "daybook_lane_stopped", "1: the lane stands before what it cannot read", labels=["lane"]
    )
    for lane in backlog.lanes:
        position.add_metric([str(lane.lane)], lane.position)
        stopped.add_metric([str(lane.lane)], 0 if lane.stopped is None else 1)
    yield position
    yield stopped
