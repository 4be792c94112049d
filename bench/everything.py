"""Postings at half of the maximum while everything else goes on, beside the same with nothing else.

Beside the API: a consumer posts the books, `audit verify` runs again and again, all accounts and
their days are read in one snapshot as at a day's end, and autovacuum looks for work every second,
not every minute. First all rounds alone, then all with everything, as that takes seconds to start.
Postings are offered when they are due (open loop), so nobody's waiting is hidden.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from bench.beside import KINDS
from bench.books import daybook_process, wait_until_visible
from bench.documents import Documents
from bench.http_single import POSTINGS
from bench.load import Plan, post_load
from bench.open_load import OpenPlan, OpenReport, offer
from bench.place import BOOK, Run, scalar
from bench.processes import Child, api_server, child
from bench.sheet import Aim
from bench.usage import CPU, MEMORY, Usage, add_usage
from infra.http_load import percentile
from projections.positions import select_head
from projections.tables import connect_to

EVERYTHING = "HTTP single postings at half of the maximum (32 callers), open loop"
PROCESSES = "Processes: memory and CPU at half of the maximum"
ALONE, BESIDE = "nothing beside", "consumer, audit, reads of all accounts, autovacuum beside"
P50, P99, P999, REFUSED = "p50 ms", "p99 ms", "p99.9 ms", "refused %"
CALLERS = 32
P99_MS = 50.0
VACUUMED = "SELECT sum(autovacuum_count + autoanalyze_count)::bigint FROM pg_stat_user_tables"


def run(run: Run) -> None:
    """Find the maximum, then offer half of it twice: alone, and with everything beside."""
    place, scale = run.place, run.scale
    url = place.caught_up_database("everything")
    with api_server(url, place.folder) as (api_url, (api,)):
        halves = []
        for number in range(scale.rounds):
            documents = Documents(seed=14_000 + number)
            halves.append(_maximum_per_s(run, api_url, documents) / 2)
            _offer(run, api_url, documents, halves[-1], ALONE, "alone", {"API": api}, url)
        with ExitStack() as stack:
            server = stack.enter_context(_often_vacuumed(url))
            beside = _start_beside(run, url, stack)
            for number, half in enumerate(halves):
                documents = Documents(seed=15_000 + number)
                rounds = {name: _rounds(beside[name]) for name in KINDS}
                vacuumed = scalar(server, VACUUMED)
                everybody = {"API": api, **beside}
                _offer(run, api_url, documents, half, BESIDE, "everything", everybody, url)
                done = {n: float(_rounds(beside[n]) - rounds[n]) for n in KINDS}
                done["autovacuum"] = float(scalar(server, VACUUMED) - vacuumed)
                run.sheet.add(EVERYTHING, BESIDE, done)
    words = "everything at once, half of maximum: p99 ms"
    run.sheet.aim(Aim(words, EVERYTHING, BESIDE, P99, at_most=P99_MS))
    words = "everything at once, half of maximum: refused, %"
    run.sheet.aim(Aim(words, EVERYTHING, BESIDE, REFUSED, at_most=0.01))
    run.sheet.note(
        EVERYTHING,
        "audit, accounts: how often each was done meanwhile, to its end; autovacuum: how many "
        "tables it cleared or looked through.",
    )
    run.sheet.note(
        PROCESSES,
        "100 % is one processor. Memory is a process's own (shared_buffers not counted); the "
        "generator's is the most that it had, with all requests in it. Backends that came and went "
        "meanwhile (of the audit, the reads, autovacuum) are not in it.",
    )


@contextmanager
def _often_vacuumed(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Let autovacuum look for work every second while the block runs."""
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        server.execute("SELECT pg_reload_conf()")
        try:
            yield server
        finally:
            server.execute("ALTER SYSTEM RESET autovacuum_naptime")
            server.execute("SELECT pg_reload_conf()")


def _start_beside(run: Run, url: str, stack: ExitStack) -> dict[str, Child]:
    """Start all of it, and wait until the consumer follows."""
    beside = {"consumer": stack.enter_context(daybook_process(run, "consumer", "consume", url, {}))}
    with connect_to(url) as watcher:
        wait_until_visible(watcher, select_head(watcher))
    for kind in KINDS:
        process = child(f"beside-{kind}", "bench.beside", kind, url, folder=run.place.folder)
        beside[kind] = stack.enter_context(process)
        _wait_for_a_round(beside[kind])
    return beside


def _offer(
    run: Run,
    api_url: str,
    documents: Documents,
    per_s: float,
    subject: str,
    doing: str,
    processes: Mapping[str, Child],
    url: str,
) -> None:
    bodies = documents.recharges_with_fee(int(per_s * run.scale.everything_s))
    plan = OpenPlan(api_url, POSTINGS, run.place.key, BOOK, bodies, per_s, len(bodies))
    with connect_to(url) as conn:
        usage = Usage(conn, {name: each.process.pid for name, each in processes.items()})
        report = offer(plan)
        figures = usage.figures()
    figures["load generator"] = {
        CPU: report.cpu_s / report.elapsed_s * 100,
        MEMORY: report.memory_mib,
    }
    for child_name, each in processes.items():
        if each.process.poll() is not None:
            raise RuntimeError(f"{child_name} ended: {each.log.read_text()[-2000:]}")
    add_usage(run.sheet, PROCESSES, doing, figures)
    run.sheet.add(EVERYTHING, subject, _latencies(report, per_s))


def _latencies(report: OpenReport, per_s: float) -> dict[str, float]:
    """Return latencies of what was booked, and what share was refused in an overload."""
    latencies = [sent.latency_s for sent in report.sent if sent.status == 201]
    refused = sum(sent.status == 503 for sent in report.sent)
    if lost := len(report.sent) - len(latencies) - refused:
        raise RuntimeError(f"{lost} of {len(report.sent)} postings were neither booked nor refused")
    return {
        "offered/s": per_s,
        P50: percentile(latencies, 50) * 1e3,
        P99: percentile(latencies, 99) * 1e3,
        P999: percentile(latencies, 99.9) * 1e3,
        REFUSED: refused / len(report.sent) * 100,
    }


def _maximum_per_s(run: Run, api_url: str, documents: Documents) -> float:
    bodies = documents.recharges_with_fee(run.scale.mix_postings)
    plan = Plan(api_url, POSTINGS, run.place.key, BOOK, CALLERS, "application/json", bodies)
    return post_load(plan).per_s


def _rounds(process: Child) -> int:
    return process.log.read_text().count("\n")


def _wait_for_a_round(process: Child) -> None:
    before = _rounds(process)
    while _rounds(process) == before:
        if process.process.poll() is not None:
            raise RuntimeError(f"it ended: {process.log.read_text()[-2000:]}")
        time.sleep(0.05)
