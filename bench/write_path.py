"""The write path in process, beside its ceiling and beside what people do without us.

In every round, in turns on one server: the engine at each batch size, COPY of the very rows it
wrote, the textbook transaction with 1, 8 and 32 connections, aggregates of `eventsourcing`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg

from bench.aggregates import open_bank, transfers_s
from bench.copy_ceiling import copy_commits, last_id, select_commits
from bench.documents import Documents
from bench.durable import durable_commit_ms
from bench.in_process import engine_s
from bench.place import Run, engine_on, parser
from bench.scale import ACCOUNTS, BATCH_SIZES
from bench.sheet import Aim
from bench.textbook import make_textbook, psycopg_rate, textbook_rate
from ledger.engine import Engine

ENGINE = "Engine in process, 10,000 accounts"
OTHERS = "What people do without us (transfers)"
RATE = "operations/s"
MS = "ms a batch"
CEILING = "COPY of its rows"
RATIO = "ratio to COPY"
ROWS = "COPY rows/s"
TIMES = "engine (batch 1,000) is"
CONNECTIONS = (1, 8, 32)
PYTHON_CONNECTIONS = (1, 8)
WORKLOADS = ("single-leg", "two-leg transfer")


@dataclass
class Pair:
    """An engine and the COPY of its rows, for one batch size; equal databases at every turn."""

    size: int
    engine: Engine
    reader: psycopg.Connection[Any]
    copier: psycopg.Connection[Any]


def run(run: Run) -> None:
    """Measure the write path; every figure is taken once a round."""
    place, scale = run.place, run.scale
    textbook_url = place.bare_database("textbook")
    script = make_textbook(textbook_url, place.folder)
    bank = open_bank(place.bare_database("aggregates"))
    accounts = bank.open_accounts(ACCOUNTS)
    with ExitStack() as stack:
        pairs = [_open_pair(run, size, stack) for size in BATCH_SIZES]
        for number in range(scale.rounds):
            documents = Documents(seed=number)
            for workload in WORKLOADS:
                for pair in pairs:
                    _engine_beside_copy(run, pair, documents, workload)
            _commit_alone(run, textbook_url)
            for connections in CONNECTIONS:
                rate = textbook_rate(
                    textbook_url, script, connections=connections, seconds=scale.textbook_s
                )
                _add_other(run, f"textbook SQL, connections: {connections}", rate)
            for connections in PYTHON_CONNECTIONS:
                rate = psycopg_rate(textbook_url, connections=connections, seconds=scale.textbook_s)
                _add_other(run, f"the same from Python (psycopg), connections: {connections}", rate)
            seconds = transfers_s(bank, accounts, scale.aggregate_transfers, number)
            _add_other(
                run, "eventsourcing aggregates, 1 caller", scale.aggregate_transfers / seconds
            )
    bank.close()
    _aims_and_notes(run)


def _open_pair(run: Run, size: int, stack: ExitStack) -> Pair:
    engine_url, copy_url = run.place.database("engine"), run.place.database("copy")
    return Pair(
        size,
        stack.enter_context(engine_on(engine_url, batch_size_max=size)),
        stack.enter_context(psycopg.connect(engine_url, autocommit=True)),
        stack.enter_context(psycopg.connect(copy_url, autocommit=True)),
    )


def _engine_beside_copy(run: Run, pair: Pair, documents: Documents, workload: str) -> None:
    reader, copier, size = pair.reader, pair.copier, pair.size
    count = run.scale.operations_by_batch_size[size]
    make = documents.recharges if workload == WORKLOADS[0] else documents.transfers
    after = last_id(reader)
    seconds = engine_s(pair.engine, parser(), make(count), size)
    commits = select_commits(reader, after)
    copy_s = copy_commits(copier, commits)
    if last_id(copier) != last_id(reader):
        raise RuntimeError("the COPY baseline did not write the engine's rows")
    run.sheet.add(
        ENGINE,
        f"{workload}, batch {size:,}",
        {
            RATE: count / seconds,
            MS: seconds / len(commits) * 1e3,
            CEILING: count / copy_s,
            RATIO: copy_s / seconds,
            ROWS: sum(commit.rows for commit in commits) / copy_s,
        },
    )


def _commit_alone(run: Run, url: str) -> None:
    ms = durable_commit_ms(url, run.scale.durable_commits)
    run.sheet.add(OTHERS, "one durable commit of one row", {"ms (p50)": ms})


def _add_other(run: Run, subject: str, rate: float) -> None:
    sheet = run.sheet
    ours = sheet.last(ENGINE, "two-leg transfer, batch 1,000", RATE)
    sheet.add(OTHERS, subject, {"transfers/s": rate, TIMES: ours / rate})


def _aims_and_notes(run: Run) -> None:
    sheet = run.sheet
    for workload in WORKLOADS:
        for size, bound in (("1,000", 0.5), ("8,000", 0.7)):
            subject = f"{workload}, batch {size}"
            words = f"engine, {subject}: ratio to COPY"
            sheet.aim(Aim(words, ENGINE, subject, RATIO, at_least=bound))
    for subject in (f"textbook SQL, connections: {number}" for number in CONNECTIONS):
        sheet.aim(Aim(f"engine beside {subject}", OTHERS, subject, TIMES, at_least=10))
    sheet.note(
        ENGINE,
        "From JSON bytes to committed answers, three jobs in flight (batch 1: one); "
        "COPY: the very rows that it wrote, packed beforehand, in the same commits.",
    )
    sheet.note(
        OTHERS,
        "The textbook's caller is pgbench (C, prepared statements): it pays for no application. "
        "From Python the same statements come from psycopg, a connection in each thread.",
    )
