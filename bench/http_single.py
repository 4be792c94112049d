"""Single postings over HTTP, beside the same server without an engine.

In every round, for each number of callers in turns: the bare socket (what the generator can do),
the empty endpoint of the same API process, the product's endpoint.
"""

from __future__ import annotations

import asyncio
import json

from bench.api_server import EMPTY_PATH
from bench.documents import Documents
from bench.durable import durable_commit_ms
from bench.load import Plan, Report, post_load
from bench.place import BOOK, Run
from bench.processes import Child, api_server, bare_server
from bench.sheet import Aim, Sheet
from bench.textbook import Textbook
from infra.http_load import Caller, Request

HTTP = "HTTP single postings (recharge with a fee), one API process"
POSTINGS = "/v1/operations"
BESIDE_TEXTBOOK = 64  # callers
TIMES = "× textbook's best"
HALF_OF = 32  # callers, of whose rate half is offered
RATE = "postings/s"
P50, P99, P999 = "p50 ms", "p99 ms", "p99.9 ms"
EMPTY, GENERATOR, RATIO = "empty endpoint/s", "bare socket/s", "ratio to empty"
COMMITS = "p50 in durable commits"
AT_HALF = "at half of that rate: p99 ms"
API_CPU, GENERATOR_CPU = "API CPU %", "load CPU %"


def run(run: Run) -> None:
    """Measure single postings for each number of callers, once a round."""
    place, scale, sheet = run.place, run.scale, run.sheet
    with (
        api_server(place.database("http"), place.folder) as (url, (api,)),
        bare_server(place.folder) as bare_url,
    ):
        bare_database = place.bare_database("durable")
        textbook = Textbook(place.bare_database("textbook"), place.folder)
        asyncio.run(_prove_same_documents(place.key, url))
        for number in range(scale.rounds):
            documents = Documents(seed=1_000 + number)
            for callers in scale.callers:
                count = scale.postings_by_callers[callers]
                bare = _post(place.key, bare_url, POSTINGS, documents, callers, count)
                empty = _post(place.key, url, EMPTY_PATH, documents, callers, count)
                cpu_before = api.cpu_s
                posted = _post(place.key, url, POSTINGS, documents, callers, count)
                cpu = (api.cpu_s - cpu_before) / posted.elapsed_s
                commit_ms = durable_commit_ms(bare_database, scale.durable_commits)
                cells = _cells(bare, empty, posted, cpu)
                cells[COMMITS] = posted.percentile_ms(50) / commit_ms
                if callers == HALF_OF:
                    half = posted.per_s / 2
                    paced = _post(place.key, url, POSTINGS, documents, callers, count // 2, half)
                    cells[AT_HALF] = paced.percentile_ms(99)
                if callers == BESIDE_TEXTBOOK:
                    cells[TIMES] = posted.per_s / textbook.best_per_s(scale.textbook_s)
                sheet.add(HTTP, subject(callers), cells)
        _note_memory(sheet, api)
    _aims(run)


def subject(callers: int) -> str:
    """Name a number of callers."""
    return f"{callers} callers" if callers > 1 else "1 caller"


def _cells(bare: Report, empty: Report, posted: Report, api_cpu: float) -> dict[str, float]:
    return {
        RATE: posted.per_s,
        P50: posted.percentile_ms(50),
        P99: posted.percentile_ms(99),
        P999: posted.percentile_ms(99.9),
        EMPTY: empty.per_s,
        RATIO: posted.per_s / empty.per_s,
        GENERATOR: bare.per_s,
        API_CPU: api_cpu * 100,
        GENERATOR_CPU: posted.cpu_s / posted.elapsed_s * 100,
    }


def _post(
    key: str,
    url: str,
    path: str,
    documents: Documents,
    callers: int,
    count: int,
    per_s: float | None = None,
) -> Report:
    bodies = documents.recharges_with_fee(count)
    return post_load(Plan(url, path, key, BOOK, callers, "application/json", bodies, per_s))


async def _prove_same_documents(key: str, url: str) -> None:
    """Raise unless both endpoints answer the same request with documents of the same fields."""
    caller = Caller(url, {"Authorization": f"Bearer {key}", "Daybook-Book": BOOK})
    body = Documents(seed=999).recharges_with_fee(1)[0]
    empty = await caller.call(Request("POST", EMPTY_PATH, body))
    posted = await caller.call(Request("POST", POSTINGS, body))
    caller.close()
    if _fields(json.loads(empty.body)) != _fields(json.loads(posted.body)):
        raise RuntimeError(f"the empty endpoint answers {empty.body!r}, not {posted.body!r}")


def _fields(value: object) -> object:
    """Reduce a document to its fields."""
    if isinstance(value, dict):
        return {name: _fields(field) for name, field in value.items()}
    return [_fields(item) for item in value] if isinstance(value, list) else None


def _note_memory(sheet: Sheet, api: Child) -> None:
    sheet.note(HTTP, f"The API process had {api.memory_mib:.0f} MiB resident at the end.")
    sheet.note(
        HTTP,
        "Generator, API and PostgreSQL share the machine's processors: the generator takes "
        "its part of each figure, the empty endpoint's too.",
    )


def _aims(run: Run) -> None:
    words = subject(32)
    run.sheet.aim(
        Aim("HTTP, 32 callers: ratio to empty endpoint", HTTP, words, RATIO, at_least=0.6)
    )
    words_64 = f"HTTP, {BESIDE_TEXTBOOK} callers: times the textbook's best"
    run.sheet.aim(Aim(words_64, HTTP, subject(BESIDE_TEXTBOOK), TIMES, at_least=3))
    one, most = subject(1), subject(HALF_OF)
    run.sheet.aim(Aim("HTTP, 1 caller: p50 in commits", HTTP, one, COMMITS, at_most=4))
    run.sheet.aim(Aim("HTTP, half of maximum: p99 ms", HTTP, most, AT_HALF, at_most=20))
    run.sheet.aim(Aim("HTTP, 32 callers: p99 ms", HTTP, words, P99, at_most=50))
