"""How fast history is checked: `audit verify` over ledger and books, replay of one account."""

from __future__ import annotations

import time

import psycopg

from bench.documents import Documents, account_number
from bench.in_process import engine_s
from bench.place import BOOK, Run, catch_up, engine_on, parser
from infra.audit import replay, verify

AUDIT = "Audit"
RATE, SECONDS = "events/s", "seconds"
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
    for _ in range(run.scale.rounds):
        with psycopg.connect(url, autocommit=True) as conn:
            started = time.perf_counter()
            verdict = verify(conn)
            _add(run, VERIFY, verdict.events, time.perf_counter() - started)
            if not verdict.passed:
                raise RuntimeError(f"the benchmark's books differ: {verdict.difference}")
            started = time.perf_counter()
            replayed = replay(conn, BOOK, HOT)
            _add(run, REPLAY, len(replayed.events), time.perf_counter() - started)
    run.sheet.note(AUDIT, "In one process, reading from the server; verify reads every event once.")


def _add(run: Run, subject: str, events: int, seconds: float) -> None:
    run.sheet.add(AUDIT, subject, {"events": events, SECONDS: seconds, RATE: events / seconds})
