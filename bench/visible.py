"""How soon an answered posting is in the trial balance, on the running system.

API and consumer run as one `daybook serve` would run them. One caller posts, waits for the answer,
and at once asks for the trial balance of that position (`min_position`, which waits); the time from
the first answer to the second is the figure. The read alone stands beside it. First nothing else
happens; then a generator process posts at half of the rate that 32 callers reached just before.
"""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import msgspec

from bench.documents import Documents
from bench.http_single import POSTINGS
from bench.load import Plan, post_load
from bench.place import BOOK, Run
from bench.processes import api_server, child
from bench.sheet import Aim
from infra.http_load import Caller, Request, percentile

VISIBLE = "From the answer to the trial balance (log bus)"
LOADED = "posting answered → in the trial balance, under half of the maximum"
OFFERED = "others post/s"
CALLERS = 32
SUBJECT = "posting answered → in the trial balance"
READ = "the same trial balance, nothing to wait for"
P50, P99 = "p50 ms", "p99 ms"
PAUSE_S_MAX = 0.03
PROBES_AT_ONCE = 20
TRIAL_BALANCE = "/v1/trial-balance"


class _Answer(msgspec.Struct):
    position: int


def run(run: Run) -> None:
    """Measure the lateness of the books, once a round."""
    place = run.place
    url = place.caught_up_database("visible")
    environment = {"DAYBOOK_HOME": str(place.folder), "DAYBOOK_DATABASE_URL": url}
    with (
        api_server(url, place.folder) as (api_url, _),
        child("consumer", "infra", "consume", folder=place.folder, environment=environment),
    ):
        asyncio.run(_probes(run, api_url, 3, seed=0))  # until the consumer is there
        for number in range(run.scale.rounds):
            count = run.scale.visible_probes
            late, reads = asyncio.run(_probes(run, api_url, count, seed=number + 1))
            for subject, times in ((SUBJECT, late), (READ, reads)):
                run.sheet.add(VISIBLE, subject, _percentiles(times))
            _under_load(run, api_url, number)
    for subject in (SUBJECT, LOADED):
        run.sheet.aim(Aim(f"{subject}: p99 ms", VISIBLE, subject, P99, at_most=1_000))


def _under_load(run: Run, api_url: str, number: int) -> None:
    """Find the maximum, then probe while a generator posts at half of it."""
    count = run.scale.visible_postings
    most = post_load(_plan(run, api_url, 7_000 + number, count))
    half = most.per_s / 2
    with ThreadPoolExecutor(1) as others:
        load = others.submit(post_load, _plan(run, api_url, 8_000 + number, count, per_s=half))
        late: list[float] = []
        while not load.done():
            more, _ = asyncio.run(_probes(run, api_url, PROBES_AT_ONCE, seed=9_000 + number))
            late += more
        offered = load.result().per_s
    run.sheet.add(VISIBLE, LOADED, {**_percentiles(late), OFFERED: offered})


def _plan(run: Run, api_url: str, seed: int, count: int, per_s: float | None = None) -> Plan:
    bodies = Documents(seed=seed).recharges_with_fee(count)
    key = run.place.key
    return Plan(api_url, POSTINGS, key, BOOK, CALLERS, "application/json", bodies, per_s)


def _percentiles(times: list[float]) -> dict[str, float]:
    return {P50: percentile(times, 50) * 1e3, P99: percentile(times, 99) * 1e3}


async def _probes(run: Run, url: str, count: int, *, seed: int) -> tuple[list[float], list[float]]:
    headers = {"Authorization": f"Bearer {run.place.key}", "Daybook-Book": BOOK}
    caller = Caller(url, headers)
    pause = random.Random(seed)
    late: list[float] = []
    reads: list[float] = []
    for body in Documents(seed=5_000 + seed).recharges_with_fee(count):
        posted = await caller.call(Request("POST", POSTINGS, body))
        position = msgspec.json.decode(posted.body, type=_Answer).position
        waited = await caller.call(Request("GET", f"{TRIAL_BALANCE}?min_position={position}"))
        read = await caller.call(Request("GET", TRIAL_BALANCE))
        if (posted.status, waited.status, read.status) != (201, 200, 200):
            raise RuntimeError(f"{posted.status}, {waited.status}: {waited.body[:300]!r}")
        late.append(waited.answered_at - posted.answered_at)
        reads.append(read.latency_s)
        await asyncio.sleep(pause.uniform(0, PAUSE_S_MAX))  # no step with the consumer's pause
    caller.close()
    return late, reads
