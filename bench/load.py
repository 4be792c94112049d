"""The load generator: a process of its own that posts documents and reports what came back.

Used as a function here, run as `python -m bench.load` there: the plan goes in by standard input,
the report comes out by standard output. The clock runs only while requests are sent; connecting
is part of it. Invariant: every document is answered once with an expected status, or it fails.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

import msgspec
import uvloop

from infra.http_load import Reply, Request, percentile, run_callers


class Plan(msgspec.Struct, frozen=True):
    """What to post, to where, by how many callers at once, and at most how many a second."""

    url: str
    path: str
    key: str
    book: str
    callers: int
    content_type: str
    bodies: list[bytes]
    per_s: float | None = None


class Report(msgspec.Struct, frozen=True):
    """What came back. `cpu_s` is the generator's own processor time."""

    elapsed_s: float
    cpu_s: float
    latencies_s: list[float]
    statuses: dict[int, int]
    retries: int

    @property
    def per_s(self) -> float:
        """Requests answered a second."""
        return len(self.latencies_s) / self.elapsed_s

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the answers' latencies."""
        return percentile(self.latencies_s, percent) * 1e3


def post_load(plan: Plan, *, expected: tuple[int, ...] = (201,)) -> Report:
    """Let a generator process carry out the plan. Raises on an answer nobody expected."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.msgpack.encode(plan),
        stdout=subprocess.PIPE,
        check=True,
    )
    report = msgspec.msgpack.decode(done.stdout, type=Report)
    unexpected = set(report.statuses) - set(expected)
    if unexpected or report.retries:
        raise RuntimeError(f"answers {report.statuses}, {report.retries} retries: {plan.path}")
    return report


async def _carry_out(plan: Plan) -> Report:
    statuses: Counter[int] = Counter()

    def on_reply(_request: Request, reply: Reply) -> None:
        statuses[reply.status] += 1

    requests = [Request("POST", plan.path, body, plan.content_type) for body in plan.bodies]
    cpu_before = time.process_time()
    tally = await run_callers(
        requests,
        url=plan.url,
        headers={"Authorization": f"Bearer {plan.key}", "Daybook-Book": plan.book},
        callers=plan.callers,
        on_reply=on_reply,
        per_s=plan.per_s,
    )
    cpu_s = time.process_time() - cpu_before
    return Report(tally.elapsed_s, cpu_s, tally.latencies_s, dict(statuses), tally.retries)


def report(data: bytes) -> None:
    """Write all of it to standard output, which may take a part when PYTHONUNBUFFERED is set."""
    with open(sys.stdout.fileno(), "wb", closefd=False) as whole:
        whole.write(data)


def main() -> None:
    """Read the plan, carry it out, write the report."""
    plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Plan)
    report(msgspec.msgpack.encode(uvloop.run(_carry_out(plan))))


if __name__ == "__main__":
    main()
