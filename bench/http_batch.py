"""Batches over HTTP: JSON arrays and NDJSON of 100, 1,000 and 8,000 operations.

Two callers, so that one batch is parsed while the other is booked; beside them the engine in
process.
"""

from __future__ import annotations

from contextlib import ExitStack

from bench.documents import Documents, batches
from bench.in_process import engine_s
from bench.load import Plan, post_load
from bench.place import BOOK, Run, engine_on, parser
from bench.processes import api_server
from bench.scale import HTTP_BATCH_SIZES
from bench.sheet import Aim
from bench.textbook import Textbook

BATCH = "HTTP batches (two-leg transfers), two callers"
CALLERS = 2
PATH = "/v1/operations:batch"
RATE, P50, IN_PROCESS, RATIO = "operations/s", "p50 ms", "engine in process/s", "ratio to engine"
TIMES = "× textbook's best"
TIMES_LEAST = 10
FORMATS = {"NDJSON": "application/x-ndjson", "JSON array": "application/json"}


def run(run: Run) -> None:
    """Measure each size and format once a round, beside the engine in process."""
    place, scale = run.place, run.scale
    textbook = Textbook(place.bare_database("textbook"), place.folder)
    with (
        api_server(place.database("http_batch"), place.folder) as (url, _),
        ExitStack() as stack,
    ):
        engines = {
            size: stack.enter_context(engine_on(place.database("engine"), batch_size_max=size))
            for size in HTTP_BATCH_SIZES
        }
        for number in range(scale.rounds):
            documents = Documents(seed=2_000 + number)
            best = textbook.best_per_s(scale.textbook_s)
            for size in HTTP_BATCH_SIZES:
                count = scale.http_batch_operations[size]
                engine_rate = count / engine_s(
                    engines[size], parser(), documents.transfers(count), size
                )
                for name, content_type in FORMATS.items():
                    bodies = [
                        _body(part, content_type)
                        for part in batches(documents.transfers(count), size)
                    ]
                    plan = Plan(url, PATH, place.key, BOOK, CALLERS, content_type, bodies)
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
                            TIMES: rate / best,
                        },
                    )
    for size in HTTP_BATCH_SIZES[1:]:
        words = f"HTTP, NDJSON batches of {size:,}: times the textbook's best"
        run.sheet.aim(Aim(words, BATCH, f"NDJSON, {size:,}", TIMES, at_least=TIMES_LEAST))


def _body(documents: list[bytes], content_type: str) -> bytes:
    if content_type == FORMATS["NDJSON"]:
        return b"\n".join(documents) + b"\n"
    return b"[" + b",".join(documents) + b"]"
