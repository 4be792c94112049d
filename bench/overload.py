"""Overload: callers offer twice what the server can do, and do not wait for each other.

The rate is found by callers who wait (closed loop); then a generator process of its own sends
requests when they are due (open loop), whether or not others are answered: latency counts from when
a request was due. One in twenty releases money that was held before. Nothing is sent again. At the
end every accepted id is in the log once, and no other one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from bench.documents import Documents
from bench.http_single import POSTINGS
from bench.load import Plan, post_load
from bench.open_load import OpenPlan, OpenReport, offer
from bench.place import BOOK, PRINCIPAL, Run, engine_on, parser, post
from bench.processes import Child, api_server, bare_server
from bench.scale import ROUNDS_LEAST
from bench.sheet import Aim, Sheet
from infra.http_load import percentile

OVERLOAD = "Overload: offered twice the maximum, open loop (one in twenty a release)"
CALLERS = 64
TIMES = 2.0
RELEASE_EVERY = 20
AFTER_S = 8.0
AFTER_SHARE = 0.5
NORMAL_MS = 50.0
SLICE_S = 0.25
CEILING_S = 5.0
P50, P99, P999 = "p50 ms", "p99 ms", "p99.9 ms"
P99_RELEASES, P99_REFUSED = "releases: p99 ms", "refused: p99 ms"
START, HALFWAY, END = "MiB at start", "MiB halfway", "MiB at end"
MOST, GROWN, CREPT = "MiB at most", "MiB at most / start", "MiB at most / halfway"
LATE, CEILING = "sent late: p99 ms", "bare socket: p99 ms"
RECOVERED, LOST, WRONG = "s to normal", "without an answer", "not booked exactly once"
SELECT_BOOKED = """SELECT convert_from(state, 'UTF8')::json ->> 'operation_id'
    FROM ledger.stored_events WHERE topic = 'ledger.recorded:OperationBooked'"""


def run(run: Run) -> None:
    """Overload an API process, each time a fresh one on a database of its own."""
    subject = f"twice the maximum for {run.scale.overload_s:.0f} s"
    for number in range(ROUNDS_LEAST):
        run.sheet.add(OVERLOAD, subject, _overload(run, Documents(seed=9_000 + number)))
    _aims(run.sheet, subject)
    run.sheet.note(
        OVERLOAD,
        f"{ROUNDS_LEAST} times. Maximum: by {CALLERS} callers who wait, just before. After the "
        "overload half of it is offered; "
        f"normal is when {SLICE_S:g} s in a row have a p99 below {NORMAL_MS:.0f} ms.",
    )


def _overload(run: Run, documents: Documents) -> dict[str, float]:
    place, scale = run.place, run.scale
    url = place.database("overload")
    with (
        api_server(url, place.folder) as (api_url, (api,)),
        bare_server(place.folder) as bare_url,
    ):
        maximum = _maximum_per_s(run, api_url, documents)
        offered = TIMES * maximum
        count = int(offered * scale.overload_s)
        after = int(maximum * AFTER_SHARE * AFTER_S)
        bodies = overload_bodies(url, documents, count)
        calm = documents.recharges(after)
        ceiling = ceiling_ms(run, bare_url, bodies, offered)
        with memory_watched(api) as memory:
            plan = OpenPlan(api_url, POSTINGS, place.key, BOOK, bodies, offered, RELEASE_EVERY)
            report = offer(plan, then=calm, then_per_s=maximum * AFTER_SHARE)
    figures = {"maximum/s": maximum} | figures_of(report, count) | memory_figures(memory)
    return figures | {CEILING: ceiling, WRONG: booked_wrongly(url, report)}


def ceiling_ms(run: Run, bare_url: str, bodies: list[bytes], per_s: float) -> float:
    """Return the generator's own p99 at this rate: against a socket that answers at once."""
    first = bodies[: int(per_s * CEILING_S)]
    report = offer(OpenPlan(bare_url, POSTINGS, run.place.key, BOOK, first, per_s, RELEASE_EVERY))
    return percentile([sent.latency_s for sent in report.sent], 99) * 1e3


def overload_bodies(url: str, documents: Documents, count: int) -> list[bytes]:
    """Return recharges with a release for every twentieth, whose hold is booked here."""
    bodies = documents.recharges(count)
    holds, releases = documents.holds_and_releases(-(-count // RELEASE_EVERY))
    reads = parser()
    with engine_on(url) as engine:
        for first in range(0, len(holds), 1_000):
            part = holds[first : first + 1_000]
            post(engine, [reads.operation(raw, None, BOOK, PRINCIPAL) for raw in part])
    bodies[::RELEASE_EVERY] = releases
    return bodies


def figures_of(report: OpenReport, count: int) -> dict[str, float]:
    """Return rates, latencies and what was lost, of the first `count` requests: the overload."""
    during = [sent for sent in report.sent if sent.number < count]
    taken = [sent for sent in during if sent.status == 201]
    refused = [sent.latency_s for sent in during if sent.status == 503]
    releases = [s.latency_s for s in during if s.number % RELEASE_EVERY == 0 and s.status == 201]
    latencies = [sent.latency_s for sent in taken]
    return {
        "offered/s": count / report.overload_s,
        "accepted/s": len(taken) / report.overload_s,
        "refused/s": len(refused) / report.overload_s,
        P50: percentile(latencies, 50) * 1e3,
        P99: percentile(latencies, 99) * 1e3,
        P999: percentile(latencies, 99.9) * 1e3,
        P99_RELEASES: percentile(releases, 99) * 1e3,
        "releases refused": sum(s.status != 201 for s in during if s.number % RELEASE_EVERY == 0),
        P99_REFUSED: percentile(refused, 99) * 1e3,
        LATE: percentile([sent.late_s for sent in during], 99) * 1e3,
        RECOVERED: recovered_s(report, count),
        LOST: sum(sent.status not in (201, 503) for sent in report.sent),
        "load CPU %": report.cpu_s / report.elapsed_s * 100,
    }


def recovered_s(report: OpenReport, count: int) -> float:
    """Return how long after the overload requests were due that first met a normal p99."""
    slices: dict[int, list[float]] = {}
    for sent in report.sent:
        if sent.number >= count:
            slices.setdefault(int(sent.due_s / SLICE_S), []).append(sent.latency_s)
    ordered = sorted(slices)
    for place in ordered:
        if percentile(slices[place], 99) * 1e3 < NORMAL_MS:
            return (place - ordered[0]) * SLICE_S
    return AFTER_S


def booked_wrongly(url: str, report: OpenReport) -> int:
    """Count accepted ids that are not in the log exactly once, and refused ones that are."""
    times: dict[str, int] = {}
    with psycopg.connect(url) as conn:
        for (name,) in conn.execute(SELECT_BOOKED):
            times[name] = times.get(name, 0) + 1
    return sum(times.get(s.operation_id, 0) != int(s.status == 201) for s in report.sent)


@contextmanager
def memory_watched(api: Child) -> Iterator[list[float]]:
    """Note the process's resident MiB every quarter of a second while the block runs."""
    seen = [api.memory_mib]
    done = threading.Event()

    def look() -> None:
        while not done.wait(SLICE_S):
            seen.append(api.memory_mib)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen.append(api.memory_mib)


def memory_figures(seen: list[float]) -> dict[str, float]:
    """Return memory at the start, halfway, at the end and at most, beside start and halfway."""
    halfway, most = seen[len(seen) // 2], max(seen)
    figures = {START: seen[0], HALFWAY: halfway, END: seen[-1], MOST: most}
    return figures | {GROWN: most / seen[0], CREPT: most / halfway}


def _maximum_per_s(run: Run, api_url: str, documents: Documents) -> float:
    rates: list[Any] = []
    for _ in range(3):
        bodies = documents.recharges(run.scale.overload_probe)
        plan = Plan(
            api_url, POSTINGS, run.place.key, BOOK, CALLERS, "application/json", bodies, None
        )
        rates.append(post_load(plan).per_s)
        time.sleep(0.2)
    return float(sorted(rates)[1])


def _aims(sheet: Sheet, subject: str) -> None:
    for words, column, bound in (
        ("overload: p99 of accepted, ms", P99, 100),
        ("overload: p99 of releases, ms", P99_RELEASES, 100),
        ("overload: requests without an answer", LOST, 1),
        ("overload: not booked exactly once", WRONG, 1),
        ("overload: s to normal", RECOVERED, 2.01),
        ("overload: memory at most, times the start", GROWN, 1.5),
        ("overload: memory at most, times halfway", CREPT, 1.1),
    ):
        sheet.aim(Aim(words, OVERLOAD, subject, column, at_most=bound))
