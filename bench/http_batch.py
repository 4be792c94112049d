"""Batches over HTTP: JSON arrays and NDJSON of 100, 1,000 and 8,000 operations, one caller."""

from __future__ import annotations

import time

from bench.documents import Documents, batches
from bench.load import Plan, post_load
from bench.place import BOOK, PRINCIPAL, Run, check_booked, engine_on, parser
from bench.processes import api_server
from bench.scale import HTTP_BATCH_SIZES
from ledger.engine import Engine
from ledger.job import Job

BATCH = "HTTP batches (two-leg transfers), one caller"
PATH = "/v1/operations:batch"
RATE, P50, IN_PROCESS, RATIO = "operations/s", "p50 ms", "engine in process/s", "ratio to engine"
FORMATS = {"NDJSON": "application/x-ndjson", "JSON array": "application/json"}


def run(run: Run) -> None:
    """Measure each size and format once a round, beside the engine in process."""
    place, scale = run.place, run.scale
    with (
        api_server(place.database("http_batch"), place.folder) as (url, _),
        engine_on(place.database("engine_batch")) as engine,
    ):
        for number in range(scale.rounds):
            documents = Documents(seed=2_000 + number)
            for size in HTTP_BATCH_SIZES:
                count = scale.http_batch_operations[size]
                engine_rate = count / _engine_s(engine, documents.transfers(count), size)
                for name, content_type in FORMATS.items():
                    bodies = [
                        _body(part, content_type)
                        for part in batches(documents.transfers(count), size)
                    ]
                    plan = Plan(url, PATH, place.key, BOOK, 1, content_type, bodies)
                    report = post_load(plan, expected=(200,))
                    rate = count / report.elapsed_s
                    run.sheet.add(
                        BATCH,
                        f"{name}, {size:,}",
                        {
                            RATE: rate,
                            P50: report.percentile_ms(50),
                            IN_PROCESS: engine_rate,
                            RATIO: rate / engine_rate,
                        },
                    )


def _body(documents: list[bytes], content_type: str) -> bytes:
    if content_type == FORMATS["NDJSON"]:
        return b"\n".join(documents) + b"\n"
    return b"[" + b",".join(documents) + b"]"


def _engine_s(engine: Engine, documents: list[bytes], size: int) -> float:
    reads = parser()
    started = time.perf_counter()
    for part in batches(documents, size):
        submissions = tuple(reads.operation(raw, None, BOOK, PRINCIPAL) for raw in part)
        check_booked(engine.post(Job(book_id=BOOK, submissions=submissions)))
    return time.perf_counter() - started
