"""An open-loop load generator: a request is sent when it is due, whoever else waits.

A process of its own, like `bench.load`. Connections are kept and made as needed; latency counts
from when the request was due, so a generator that comes late cannot hide what callers would have
waited. Nothing is sent again. Invariant: every body has exactly one `Sent`; status 0 is a
request that got no answer (connection refused or lost, or no answer in time).
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.load import report
from infra.http_load import Connection, Request
from ledger.interpreter import GC_THRESHOLDS

ANSWER_S = 30.0
BURST = 50  # requests sent before the loop turns, when the generator is late


class OpenPlan(msgspec.Struct, frozen=True):
    """What to offer, to where, how many a second; every `release_every`th body returns money.

    `then`, offered at `then_per_s`, follows without a pause.
    """

    url: str
    path: str
    key: str
    book: str
    bodies: list[bytes]
    per_s: float
    release_every: int
    then: list[bytes] = []
    then_per_s: float = 1.0


class Sent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request: its number, its id, when it was due, the answer's status and latency.

    `late_s` is how long after it was due the generator handed it over: its own share of that.
    """

    number: int
    operation_id: str
    due_s: float
    status: int
    latency_s: float
    late_s: float


class OpenReport(msgspec.Struct, frozen=True):
    """What came back; `overload_s` is how long the first part was offered.

    `memory_mib` is the most that the generator had resident, requests and answers included.
    """

    sent: list[Sent]
    elapsed_s: float
    overload_s: float
    cpu_s: float
    connections: int
    memory_mib: float


def offer(plan: OpenPlan, *, then: Sequence[bytes] = (), then_per_s: float = 1.0) -> OpenReport:
    """Let a generator process offer the plan, then the calm part after it."""
    plan = msgspec.structs.replace(plan, then=list(then), then_per_s=then_per_s)
    done = subprocess.run(
        [sys.executable, "-m", "bench.open_load"],
        input=msgspec.msgpack.encode(plan),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.msgpack.decode(done.stdout, type=OpenReport)


class Offering:
    """The generator: idle connections, and what was sent."""

    def __init__(self, plan: OpenPlan) -> None:
        parts = urlsplit(plan.url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = (
            f"Host: {self._host}:{self._port}\r\n"
            f"Authorization: Bearer {plan.key}\r\nDaybook-Book: {plan.book}\r\n"
        ).encode()
        self._plan = plan
        self._ids = [json.loads(body)["operation_id"] for body in plan.bodies + plan.then]
        self._idle: list[Connection] = []
        self._started = 0.0
        self.connections = 0
        self.sent: list[Sent] = []

    async def run(self) -> float:
        """Send everything when it is due and wait for the answers; return the first part's end."""
        plan = self._plan
        dues = [number / plan.per_s for number in range(len(plan.bodies))]
        overload_s = len(plan.bodies) / plan.per_s
        dues += [overload_s + number / plan.then_per_s for number in range(len(plan.then))]
        self._started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, body in enumerate(plan.bodies + plan.then):
                early_s = self._started + dues[number] - time.perf_counter()
                if early_s > 0 or number % BURST == 0:
                    await asyncio.sleep(max(0.0, early_s))
                group.create_task(self._send(number, body, dues[number]))
        for connection in self._idle:
            connection.close()
        return overload_s

    async def _send(self, number: int, body: bytes, due_s: float) -> None:
        status, late_s = 0, 0.0
        try:
            async with asyncio.timeout(ANSWER_S):
                connection = await self._connected()
                late_s = time.perf_counter() - self._started - due_s
                status, _ = await connection.send(Request("POST", self._plan.path, body))
                if connection.is_open:
                    self._idle.append(connection)
        except (OSError, TimeoutError):
            status = 0
        latency_s = time.perf_counter() - self._started - due_s
        self.sent.append(Sent(number, self._ids[number], due_s, status, latency_s, late_s))

    async def _connected(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        self.connections += 1
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(
            lambda: Connection(self._head), self._host, self._port
        )
        return made


async def _carry_out(plan: OpenPlan) -> OpenReport:
    offering = Offering(plan)
    # What it keeps is no garbage: to look through it took it tens of ms at a time.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    cpu_before, began = time.process_time(), time.perf_counter()
    overload_s = await offering.run()
    return OpenReport(
        offering.sent,
        time.perf_counter() - began,
        overload_s,
        time.process_time() - cpu_before,
        offering.connections,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def main() -> None:
    """Read the plan, carry it out, write the report."""
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=OpenPlan)
    report(msgspec.msgpack.encode(uvloop.run(_carry_out(plan))))


if __name__ == "__main__":
    main()
