"""A flash sale over HTTP: 64 callers, one merchant, a fee split, one refund in a hundred.

The same payments four times a round: to all merchants there are, to one merchant, and to one
merchant whose inflows (and those of the account for fees) are buffered, or striped. Invariant: the
merchant's balance is exact at the end, or the benchmark fails.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import psycopg

from bench.documents import FEE_MINOR, PRICE_MINOR, Documents, account_number
from bench.hot import STRIPES, stripe
from bench.http_single import POSTINGS
from bench.load import Plan, Report, post_load
from bench.place import BOOK, PRINCIPAL, Run, engine_on, post, scalar
from bench.processes import api_server
from bench.scale import ACCOUNTS
from ledger.operation import SetBuffering, Submission, fingerprint_of
from ledger.reads import select_account

TITLE = "flash sale over HTTP, 64 callers, three legs"
CALLERS = 64
BUFFER_MS = 500
APPLIED_WITHIN_S = 5.0  # patience of the benchmark, ten times the bound
MERCHANT = 1  # index of its account; the next one is that of its fees
BUFFERED, STRIPED = 3, 5
SPREAD_FEES, UNTOUCHED = 7, 9
SUBJECTS = {
    "to one merchant": MERCHANT,
    "… buffered": BUFFERED,
    f"… striped over {STRIPES}": STRIPED,
}
COUNT_WAITING = "SELECT count(*) FROM ledger.accepted"


def run(run: Run) -> None:
    """Sell to all merchants, to one, and to one that buffers, in turns."""
    place, scale = run.place, run.scale
    url = place.database("sale")
    agree(url, (account_number(BUFFERED), account_number(BUFFERED + 1)))
    with engine_on(url) as engine:
        for index in (STRIPED, STRIPED + 1):
            stripe(engine, account_number(index))
    everybody = [account_number(index) for index in range(10, ACCOUNTS // 2)]
    with api_server(url, place.folder) as (api_url, _):
        for number in range(scale.rounds):
            documents = Documents(seed=7_000 + number)
            spread = _sell(run, api_url, documents, everybody, SPREAD_FEES)
            _add(run, f"to {len(everybody):,} merchants", spread, spread)
            for words, index in SUBJECTS.items():
                hot = _sell(run, api_url, documents, [account_number(index)], index + 1)
                _add(run, words, hot, spread)
        _check(url, scale.sale_payments * scale.rounds)  # the server applies what is due
    run.sheet.note(
        TITLE,
        f"Buffered: the answer is 202 and durable; applied within {BUFFER_MS} ms. In group commit "
        "one account is updated once per batch, so a hot one is no queue either way, and stripes "
        "are no faster.",
    )


def agree(url: str, numbers: tuple[str, ...]) -> None:
    """Let the inflows of some accounts be buffered."""
    with engine_on(url) as engine:
        for number in numbers:
            change = SetBuffering(operation_id=f"agree-{number}", buffer_ms=BUFFER_MS)
            change = msgspec.structs.replace(change, agreement="A-1")
            fingerprint = fingerprint_of(BOOK, change, number)
            operation_id = change.operation_id or ""
            post(
                engine,
                [Submission(BOOK, PRINCIPAL.name, operation_id, fingerprint, change, number)],
            )


def _sell(
    run: Run, url: str, documents: Documents, merchants: list[str], fee_account: int
) -> Report:
    bodies = documents.sales(run.scale.sale_payments, merchants, account_number(fee_account))
    plan = Plan(url, POSTINGS, run.place.key, BOOK, CALLERS, "application/json", bodies)
    return post_load(plan, expected=(201, 202))


def _check(url: str, payments: int) -> None:
    """Raise unless each merchant holds what it sold, to the last cent."""
    with psycopg.connect(url, autocommit=True) as conn:
        deadline = time.monotonic() + APPLIED_WITHIN_S
        while scalar(conn, COUNT_WAITING):
            if time.monotonic() > deadline:
                raise RuntimeError("what was accepted is not applied")
            time.sleep(0.05)
        found = {
            words: [_balance(conn, index), _balance(conn, index + 1)]
            for words, index in SUBJECTS.items()
        }
        untouched = _balance(conn, UNTOUCHED)
    kept = payments - payments // 100
    expected = [untouched + kept * (PRICE_MINOR - FEE_MINOR), untouched + kept * FEE_MINOR]
    if any(balances != expected for balances in found.values()):
        raise RuntimeError(f"merchants and their fees: {found}; expected {expected}")


def _balance(conn: psycopg.Connection[Any], index: int) -> int:
    return select_account(conn, BOOK, account_number(index)).balance_minor


def _add(run: Run, subject: str, report: Report, spread: Report) -> None:
    cells = {
        "postings/s": report.per_s,
        "p50 ms": report.percentile_ms(50),
        "p99 ms": report.percentile_ms(99),
        "ratio to spread": report.per_s / spread.per_s,
    }
    run.sheet.add(TITLE, subject, cells)
