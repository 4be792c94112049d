"""Single postings of other kinds, beside the same transfers spread over all accounts.

One hot account, every request sent twice, half of them rejected; and one API process beside two
on one database. All with 32 callers, in turns.
"""

from __future__ import annotations

from bench.documents import Documents, account_number
from bench.http_single import POSTINGS
from bench.load import Plan, Report, post_load
from bench.place import BOOK, Run
from bench.processes import api_server
from bench.sheet import Aim

MIXES = "HTTP single postings of other kinds, 32 callers"
PROCESSES = "API processes on one database, 32 callers"
CALLERS = 32
RATE, P50, P99 = "postings/s", "p50 ms", "p99 ms"
RATIO, RATIO_TO_ONE = "ratio to spread", "ratio to one"
SPREAD = "single-leg, spread over 10,000 accounts"
HOT = "single-leg, all on one hot account"
REPEATED = "the same requests again (replayed)"


def run(run: Run) -> None:
    """Measure each mix once a round, spread first."""
    place, scale, sheet = run.place, run.scale, run.sheet
    with (
        api_server(place.database("mixes"), place.folder) as (url, _),
        api_server(place.database("two"), place.folder, processes=2) as (two_url, _two),
    ):
        for number in range(scale.rounds):
            documents = Documents(seed=3_000 + number)
            count = scale.mix_postings
            spread_bodies = documents.recharges(count)
            spread = _post(run, url, spread_bodies)
            _add(run, SPREAD, spread, spread)
            hot = _post(run, url, documents.recharges_of(account_number(0), count))
            _add(run, HOT, hot, spread)
            ten = [account_number(index) for index in range(10)]
            few = _post(run, url, documents.recharges_of_some(ten, count))
            _add(run, "single-leg, on ten hot accounts", few, spread)
            again = _post(run, url, spread_bodies)
            _add(run, REPEATED, again, spread)
            transfers = _post(run, url, documents.transfers(count))
            _add(run, "two-leg transfer, spread", transfers, spread)
            half = _post(run, url, documents.half_refused(count), expected=(201, 422))
            _add(run, "two-leg transfer, half rejected", half, spread)
            two = _post(run, two_url, documents.recharges(count))
            for name, report in (("one process", spread), ("two processes", two)):
                cells = _cells(report) | {RATIO_TO_ONE: report.per_s / spread.per_s}
                sheet.add(PROCESSES, name, cells)
    _aims(run)
    sheet.note(
        PROCESSES,
        "The two share one engine, as `daybook serve --processes 2` starts them; on two processors "
        "they compete with the generator and with PostgreSQL.",
    )


def _aims(run: Run) -> None:
    sheet = run.sheet
    sheet.aim(Aim("HTTP, one hot account: ratio to spread", MIXES, HOT, RATIO, at_least=0.9))
    sheet.aim(Aim("HTTP, repeats: ratio to first", MIXES, REPEATED, RATIO, at_least=1))
    words = "HTTP, two API processes: ratio to one"
    sheet.aim(Aim(words, PROCESSES, "two processes", RATIO_TO_ONE, at_least=1))


def _post(run: Run, url: str, bodies: list[bytes], expected: tuple[int, ...] = (201,)) -> Report:
    plan = Plan(url, POSTINGS, run.place.key, BOOK, CALLERS, "application/json", bodies)
    return post_load(plan, expected=expected)


def _cells(report: Report) -> dict[str, float]:
    return {RATE: report.per_s, P50: report.percentile_ms(50), P99: report.percentile_ms(99)}


def _add(run: Run, subject: str, report: Report, spread: Report) -> None:
    run.sheet.add(MIXES, subject, _cells(report) | {RATIO: report.per_s / spread.per_s})
