"""Which requests are taken while many wait: a bound on those inside, a lane for money that returns.

A server that takes all it is offered answers nobody in time. Who comes while many are inside *and*
the oldest has waited longer than the bound meets the beginning of an *overload*: from then on only
so many are let in as are answered within the bound, at the rate that is measured; the others are
told at once. It ends when hardly anybody was sent away for a second. Both conditions are needed:
many callers on an idle disk, or few behind a slow one, are no overload. Invariant: nobody is pushed
back outside of an overload, and never what returns money alone, nor a command on an account.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ledger.business_types import BusinessTypes
from ledger.errors import Overloaded
from ledger.job import Job
from ledger.operation import OpenAccount, Operation

LOOK_S = 0.25  # how often the rate is measured during an overload
CALM_S = 1.0
CALM_SHARE = 0.1  # sent away of those who came: up to here it is calm
# Fewer inside would make batches so small that the rate falls, and with it the room. With 16, and
# the processors wanted by others, half of the maximum was too much: an overload did not end.
ROOM_MIN = 48


class AdmissionLimits(msgspec.Struct, frozen=True):
    """`wait_s_max`: how long who is let in waits about, at most; 0 is no bound.

    `requests_free`: requests inside below which there is no overload, and at most in one.
    """

    wait_s_max: float = 0.0
    requests_free: int = 320


def returning_types(types: BusinessTypes) -> frozenset[str]:
    """Return the business types that keep a lane."""
    return frozenset(code for code, kind in types.types.items() if kind.returns_money)


class Admission:
    """Who is inside, and since when they wait. Used by one thread; `clock` gives seconds."""

    def __init__(
        self, limits: AdmissionLimits, returning: frozenset[str], clock: Callable[[], float]
    ) -> None:
        self.limits = limits
        self.refused = 0
        self.inside = 0
        self.overloaded = False
        self.room = limits.requests_free
        self._returning = returning
        # A type as it stands in JSON, or an escape that may spell one.
        self._words = (*(f'"{name}"'.encode() for name in sorted(returning)), b"\\u")
        self._clock = clock
        self._since: dict[Hashable, float] = {}
        self._answered = 0
        self._per_s = 0.0
        self._looked_at = 0.0
        self._refused_before = 0
        self._crowded_at = 0.0
        self._fresh_at = 0.0

    @property
    def waiting(self) -> int:
        """How many requests wait for the engine's answer."""
        return len(self._since)

    @property
    def oldest_s(self) -> float:
        """How long the oldest request has waited; 0 when none waits."""
        for since in self._since.values():
            return self._clock() - since
        return 0.0

    # --- requests come and go -------------------------------------------------------------

    def came(self) -> None:
        """Note that a posting has been read and is worked on: it is inside until it `left`."""
        self.inside += 1

    def left(self) -> None:
        """Note that a posting has its answer."""
        self.inside -= 1

    def taken(self, ticket: Hashable) -> None:
        """Note that a request waits for the engine from now on."""
        self._since[ticket] = self._clock()

    def settled(self, ticket: Hashable) -> None:
        """Note that it has its result, or has given up; a second call is void."""
        if self._since.pop(ticket, None) is not None and self.overloaded:
            self._answered += 1
            self._look_at_rate()

    # --- who is let in --------------------------------------------------------------------

    def has_room(self, waited_s: Callable[[], float]) -> bool:
        """Say whether one more is let in, which waited so long until it was read.

        In an overload who waited for too long already is no use to its caller: turning away the old
        ones is how the queue in front of the door gets short. Unless there are only old ones.
        """
        if self._has_more_than(self.room - 1):
            return False
        if not self.overloaded:
            return True
        if waited_s() <= self.limits.wait_s_max:
            self._fresh_at = self._clock()
            return True
        return self._clock() - self._fresh_at >= CALM_S

    def refuses(self, raw: bytes | bytearray) -> bool:
        """Say whether a body is refused for which there was no room, and count it.

        It is not parsed: a refusal must cost little, or refusing is what takes the time.
        """
        if self._may_return(raw):
            return False
        self.refused += 1
        return True

    def look(self, raw: bytes) -> None:
        """Refuse a body of one that is inside already, before it is parsed. Raises `Overloaded`."""
        if self._has_more_than(self.room) and not self._may_return(raw):
            raise self._refusal()

    def admit(self, job: Job) -> None:
        """Raise `Overloaded` for a job, of one that is inside, which is to come again later."""
        if self._has_more_than(self.room) and not self._keeps_lane(job):
            raise self._refusal()

    def _may_return(self, raw: bytes | bytearray) -> bool:
        for word in self._words:  # noqa: SIM110 - `any` takes as long again
            if word in raw:
                return True
        return False

    def _has_more_than(self, inside: int) -> bool:
        if self.overloaded:
            self._look_at_rate()
        elif self._is_overload():
            self._begin()
        return self.overloaded and self.inside > inside

    def _keeps_lane(self, job: Job) -> bool:
        return all(
            submission.body.business_type in self._returning
            if isinstance(submission.body, Operation)
            else not isinstance(submission.body, OpenAccount)
            for submission in job.submissions
        )

    def _refusal(self) -> Overloaded:
        self.refused += 1
        return Overloaded(f"{self.inside} requests are inside, there is room for {self.room}")

    # --- when it is too much --------------------------------------------------------------

    def _is_overload(self) -> bool:
        limits = self.limits
        return self.inside >= limits.requests_free and 0 < limits.wait_s_max < self.oldest_s

    def _begin(self) -> None:
        """Take the least room until the rate is known."""
        self.overloaded = True
        self.room = min(ROOM_MIN, self.limits.requests_free)
        self._per_s = 0.0
        self._crowded_at = self._fresh_at = self._clock()
        self._look_again(self._crowded_at)

    def _look_at_rate(self) -> None:
        now = self._clock()
        elapsed_s = now - self._looked_at
        if elapsed_s < LOOK_S:
            return
        per_s = self._answered / elapsed_s
        self._per_s = (self._per_s + per_s) / 2 if self._per_s else per_s
        wanted = max(ROOM_MIN, int(self._per_s * self.limits.wait_s_max))
        self.room = min(wanted, self.limits.requests_free)
        refused = self.refused - self._refused_before
        if elapsed_s < CALM_S and refused > CALM_SHARE * (refused + self._answered):
            self._crowded_at = now  # and when nobody came to look for so long, it is over
        self._look_again(now)
        self.overloaded = now - self._crowded_at < CALM_S

    def _look_again(self, now: float) -> None:
        self._looked_at = now
        self._answered = 0
        self._refused_before = self.refused


class AdmissionCollector(Collector):
    """Who waits and who was pushed back, in Prometheus' words."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        """Yield what waits, the age of the oldest, the room, and the count of refusals."""
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
        yield GaugeMetricFamily(
            "daybook_overloaded",
            "1: only as many postings are let in as are answered in time",
            float(admission.overloaded),
        )
        yield CounterMetricFamily(
            "daybook_overload_refused",
            "Requests pushed back because others wait too long",
            value=admission.refused,
        )
