"""What a longer log costs: the same work on logs of different length, in turns.

The logs are filled (`bench/long_log.py`); then everything is the product's own doing: an engine in
this process, an API process, the look-up that every batch makes, the replay of an account.
"""

from __future__ import annotations

import random
import shutil
import time
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

import psycopg

from bench.copy_ceiling import last_id
from bench.documents import Documents
from bench.http_single import POSTINGS
from bench.in_process import engine_s
from bench.load import Plan, post_load
from bench.long_log import LongLog, fill
from bench.place import BOOK, Run, catch_up, engine_on, parser, scalar
from bench.processes import api_server
from bench.sheet import Aim
from infra.audit import replay
from ledger.recall import select_records_in_tx

SIZE = "Size: the same work on a longer log (transfers, 10,000 accounts)"
READS = "Size: reads of a longer log"
DISK = "Size: disk bytes for a transfer (three events, a voucher of two lines)"
BATCH_COST, HTTP_COST = "batch 1,000: µs a posting", "HTTP, 32 callers: µs a posting"
BATCH_TIMES, HTTP_TIMES = "batch: × the smallest", "HTTP: × the smallest"
KNOWN, UNKNOWN = "look up a known id: µs", "an unknown id: µs"
REPLAYED, REPLAY_MS = "one account's events", "replay: ms"
ROWS, INDEXES = "table: bytes an event", "indexes: bytes an event"
WAL, WAL_HTTP = "batch: WAL bytes a posting", "HTTP: WAL bytes a posting"
CALLERS = 32
TIMES_MOST = 1.2
SPARED_BYTES = 12 << 30  # of the disk: for the WAL, and for whoever else writes
BYTES_AN_EVENT = 780  # with indexes
RELATIONS = {
    "log: rows": "SELECT pg_table_size('ledger.stored_events')",
    "log: indexes": "SELECT pg_indexes_size('ledger.stored_events')",
    "books and statuses": """SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'
        AND (n.nspname = 'projections' OR c.relname = 'accounting_statuses')""",
}


class Filled(NamedTuple):
    """A database with a long log, and a connection to it."""

    name: str
    url: str
    log: LongLog
    conn: psycopg.Connection[Any]


def run(run: Run) -> None:
    """Fill a log of each size, then measure them in turns, every figure once a round."""
    with ExitStack() as stack:
        logs = [_filled(run, events, stack) for events in _sizes_with_room(run)]
        _post_in_process(run, logs)
        _post_over_http(run, logs)
        for number in range(run.scale.rounds):
            for log in logs:
                _read(run, log, random.Random(number))
    _disk(run)
    larger = logs[-1].name
    if len(logs) > 1:
        for how, column in (("in process", BATCH_TIMES), ("over HTTP", HTTP_TIMES)):
            words = f"cost of a posting {how}, {larger}: times {logs[0].name}"
            run.sheet.aim(Aim(words, SIZE, larger, column, at_most=TIMES_MOST))
    run.sheet.note(SIZE, "HTTP: what the machine takes, load generator and all.")
    run.sheet.note(READS, "Look-ups: one id of any time of the log in a statement, the median.")


def _sizes_with_room(run: Run) -> list[int]:
    """Return the sizes that the disk has room for; the ends go before what lies between.

    Of a size that has none, as many of its tenths as have.
    """
    free = shutil.disk_usage(run.place.folder).free - SPARED_BYTES
    smallest, *between, largest = run.scale.size_events
    fitting = []
    for events in (smallest, largest, *between):
        tenths = min(10, 10 * free // (events * BYTES_AN_EVENT))
        if tenths < 10:
            run.sheet.note(SIZE, f"The disk has no room for {events:,} events.")
        if tenths > 1:
            fitting.append(events * tenths // 10)
            free -= fitting[-1] * BYTES_AN_EVENT
    return sorted(set(fitting))


def _filled(run: Run, events: int, stack: ExitStack) -> Filled:
    name = f"{events:,} events"
    url = run.place.database("size")
    started = time.perf_counter()
    log = fill(url, events, block_operations=run.scale.size_block)
    seconds = time.perf_counter() - started
    run.sheet.note(SIZE, f"{log.events:,} events written in {seconds:.0f} s.")
    return Filled(name, url, log, stack.enter_context(psycopg.connect(url, autocommit=True)))


def _post_in_process(run: Run, logs: list[Filled]) -> None:
    count = run.scale.size_operations
    with ExitStack() as stack:
        engines = [stack.enter_context(engine_on(log.url, batch_size_max=1_000)) for log in logs]
        for number in range(run.scale.rounds):
            documents = Documents(seed=11_000 + number)
            costs = []
            for log, engine in zip(logs, engines, strict=True):
                wal = _wal_bytes(log)
                costs.append(engine_s(engine, parser(), documents.transfers(count), 1_000) / count)
                figures = {
                    BATCH_COST: costs[-1] * 1e6,
                    BATCH_TIMES: costs[-1] / costs[0],
                    WAL: (_wal_bytes(log) - wal) / count,
                }
                run.sheet.add(SIZE, log.name, figures)


def _post_over_http(run: Run, logs: list[Filled]) -> None:
    count, key = run.scale.size_postings, run.place.key
    with ExitStack() as stack:
        urls = [stack.enter_context(api_server(log.url, run.place.folder))[0] for log in logs]
        for number in range(run.scale.rounds):
            documents = Documents(seed=12_000 + number)
            costs = []
            for log, url in zip(logs, urls, strict=True):
                bodies, wal = documents.transfers(count), _wal_bytes(log)
                plan = Plan(url, POSTINGS, key, BOOK, CALLERS, "application/json", bodies)
                costs.append(1 / post_load(plan).per_s)
                figures = {
                    HTTP_COST: costs[-1] * 1e6,
                    HTTP_TIMES: costs[-1] / costs[0],
                    WAL_HTTP: (_wal_bytes(log) - wal) / count,
                }
                run.sheet.add(SIZE, log.name, figures)


def _read(run: Run, log: Filled, pick: random.Random) -> None:
    count = run.scale.size_look_ups
    known = [log.log.known_id(pick) for _ in range(count)]
    unknown = [log.log.unknown_id(pick) for _ in range(count)]
    started = time.perf_counter()
    replayed = len(replay(log.conn, BOOK, log.log.account).events)
    seconds = time.perf_counter() - started
    figures = {
        KNOWN: _look_up_s(log, known, found=1) * 1e6,
        UNKNOWN: _look_up_s(log, unknown, found=0) * 1e6,
        REPLAYED: replayed,
        REPLAY_MS: seconds * 1e3,
        ROWS: scalar(log.conn, RELATIONS["log: rows"]) / last_id(log.conn),
        INDEXES: scalar(log.conn, RELATIONS["log: indexes"]) / last_id(log.conn),
    }
    run.sheet.add(READS, log.name, figures)


def _look_up_s(log: Filled, operation_ids: list[str], *, found: int) -> float:
    """Return the median time of looking one id up. Raises when the log says otherwise of it."""
    times = []
    with log.conn.cursor() as cursor:
        for operation_id in operation_ids:
            started = time.perf_counter()
            records = select_records_in_tx(cursor, BOOK, [operation_id])
            times.append(time.perf_counter() - started)
            if len(records) != found:
                raise RuntimeError(f"{operation_id}: {len(records)} records, not {found}")
    return median(times)


def _disk(run: Run) -> None:
    """Write down how much every part of the database grows by a transfer, books included."""
    url = run.place.caught_up_database("disk")
    count = run.scale.drain_operations
    with psycopg.connect(url, autocommit=True) as conn:
        before = {name: scalar(conn, query) for name, query in RELATIONS.items()}
        with engine_on(url, batch_size_max=1_000) as engine:
            engine_s(engine, parser(), Documents(seed=13_000).transfers(count), 1_000)
        catch_up(url)
        grown = {n: (scalar(conn, q) - before[n]) / count for n, q in RELATIONS.items()}
    run.sheet.add(DISK, f"{count:,} transfers, drained", grown | {"together": sum(grown.values())})


def _wal_bytes(log: Filled) -> int:
    return scalar(log.conn, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
