"""How fast history is checked: `audit verify` over ledger and books, replay of one account."""

from __future__ import annotations

import time

import psycopg

from bench.documents import Documents, account_number
from bench.in_process import engine_s
from bench.place import BOOK, Run, catch_up, engine_on, parser
from bench.sheet import Aim
from infra.audit import replay, verify

AUDIT = "Audit"
RATE, SECONDS = "events/s", "seconds"
WRITTEN, TIMES = "written/s (batch 1,000)", "× written"
TIMES_LEAST = 10
EVENTS_EACH = 2  # of a recharge
VERIFY = "audit verify: ledger, books, seals, sums"
REPLAY = "audit replay: one account's events"
HOT = account_number(0)


def run(run: Run) -> None:
    """Verify and replay the same log once a round, in turns."""
    url = run.place.caught_up_database("audit")
    count = run.scale.drain_operations
    with engine_on(url) as engine:
        documents = Documents(seed=6_000)
        engine_s(engine, parser(), documents.recharges_with_fee(count), 1_000)
        engine_s(engine, parser(), documents.recharges_of(HOT, count), 1_000)
    catch_up(url)
    writes_to = run.place.database("written")
    for number in range(run.scale.rounds):
        written = _written_per_s(run, writes_to, number)
        with psycopg.connect(url, autocommit=True) as conn:
            started = time.perf_counter()
            verdict = verify(conn)
            _add(run, VERIFY, verdict.events, time.perf_counter() - started, written)
            if not verdict.passed:
                raise RuntimeError(f"the benchmark's books differ: {verdict.difference}")
            started = time.perf_counter()
            replayed = replay(conn, BOOK, HOT)
            _add(run, REPLAY, len(replayed.events), time.perf_counter() - started, written)
    run.sheet.note(
        AUDIT, "Verify reads every event once, in two processes from 50,000 on; replay in one."
    )
    for words, subject in (("verify", VERIFY), ("replay", REPLAY)):
        aim = Aim(f"audit {words}: times the rate of writing", AUDIT, subject, TIMES, TIMES_LEAST)
        run.sheet.aim(aim)


def _written_per_s(run: Run, url: str, number: int) -> float:
    """Return the events a second that the engine writes in process, in this round."""
    count = run.scale.operations_by_batch_size[1_000]
    documents = Documents(seed=6_100 + number).recharges(count)
    with engine_on(url, batch_size_max=1_000) as engine:
        return EVENTS_EACH * count / engine_s(engine, parser(), documents, 1_000)


def _add(run: Run, subject: str, events: int, seconds: float, written_per_s: float) -> None:
    rate = events / seconds
    figures = {SECONDS: seconds, RATE: rate, WRITTEN: written_per_s, TIMES: rate / written_per_s}
    run.sheet.add(AUDIT, subject, {"events": events, **figures})
