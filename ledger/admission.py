"""Which requests are taken while many wait: a bound in time, with a lane for money that returns.

A caller who cannot be answered soon is told so at once. Pushed back is who comes while the oldest
request has waited longer than the bound *and* more wait than a batch or two settle; the second
part keeps a slow disk, or one large batch, from looking like overload. Invariant: nothing is
pushed back while few wait, and never what returns money alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ledger.business_types import BusinessTypes
from ledger.errors import Overloaded
from ledger.job import Job
from ledger.operation import Operation


class AdmissionLimits(msgspec.Struct, frozen=True):
    """`wait_s_max`: age of the oldest waiting request, 0 is no bound. Below both of
    `requests_free` requests and `operations_free` operations nobody is pushed back.
    """

    wait_s_max: float = 0.0
    requests_free: int = 128
    operations_free: int = 16_000


def returning_types(types: BusinessTypes) -> frozenset[str]:
    """Return the business types that keep a lane."""
    return frozenset(code for code, kind in types.types.items() if kind.returns_money)


class Admission:
    """What waits for its answer, since when. Used by one thread; `clock` gives seconds."""

    def __init__(
        self, limits: AdmissionLimits, returning: frozenset[str], clock: Callable[[], float]
    ) -> None:
        self.limits = limits
        self.refused = 0
        self._returning = returning
        # A type as it stands in JSON, or an escape that may spell one.
        names = "|".join(re.escape(name) for name in sorted(returning))
        self._may_return = re.compile(rf'"(?:{names})"|\\u'.encode()).search
        self._clock = clock
        self._since: dict[Hashable, tuple[float, int]] = {}
        self._operations = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for their answer."""
        return len(self._since)

    @property
    def oldest_s(self) -> float:
        """How long the oldest request has waited; 0 when none waits."""
        for since, _ in self._since.values():
            return self._clock() - since
        return 0.0

    @property
    def pushes_back(self) -> bool:
        """Whether a request would be pushed back now, unless it returns money."""
        limits = self.limits
        crowded = (
            len(self._since) >= limits.requests_free or self._operations >= limits.operations_free
        )
        return crowded and 0 < limits.wait_s_max < self.oldest_s

    def look(self, raw: bytes) -> None:
        """Refuse a body before it is parsed, unless it may return money.

        Raises `Overloaded`. A refusal must cost little, or refusing is what takes the time.
        """
        if self.pushes_back and not self._may_return(raw):
            raise self._refusal()

    def admit(self, job: Job) -> None:
        """Raise `Overloaded` for a job that is to come again later."""
        if self.pushes_back and not self._returns_money(job):
            raise self._refusal()

    def taken(self, ticket: Hashable, operations: int) -> None:
        """Note that a request waits from now on."""
        self._since[ticket] = (self._clock(), operations)
        self._operations += operations

    def settled(self, ticket: Hashable) -> None:
        """Note that it has its answer, or has given up; a second call is void."""
        _, operations = self._since.pop(ticket, (0.0, 0))
        self._operations -= operations

    def _returns_money(self, job: Job) -> bool:
        return all(
            isinstance(submission.body, Operation)
            and submission.body.business_type in self._returning
            for submission in job.submissions
        )

    def _refusal(self) -> Overloaded:
        self.refused += 1
        return Overloaded(
            f"{len(self._since)} requests wait, the oldest {self.oldest_s * 1e3:.0f} ms"
        )


class AdmissionCollector(Collector):
    """What waits and who was pushed back, in Prometheus' words."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        """Yield what waits, the age of the oldest, and the count of refusals."""
        admission = self._admission
        try:
            oldest_s = admission.oldest_s
        except RuntimeError:  # the event loop changed what is looked at; the next look sees it
            oldest_s = 0.0
        yield GaugeMetricFamily(
            "daybook_waiting_requests", "Requests that wait for their answer", admission.waiting
        )
        yield GaugeMetricFamily(
            "daybook_waiting_oldest_seconds",
            "Age of the oldest request that waits for its answer",
            value=oldest_s,
        )
        yield CounterMetricFamily(
            "daybook_overload_refused",
            "Requests pushed back because others wait too long",
            value=admission.refused,
        )
