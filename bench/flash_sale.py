"""A flash sale over HTTP: 64 callers, one merchant, a fee split, one refund in a hundred.

The same payments three times a round: to all merchants there are, to one merchant, and to one
merchant whose inflows (and those of the account for fees) are buffered. Invariant: the merchant's
balance is exact at the end, or the benchmark fails.
"""

from __future__ import annotations

import time

import msgspec
import psycopg

from bench.documents import FEE_MINOR, PRICE_MINOR, Documents, account_number
from bench.http_single import POSTINGS
from bench.load import Plan, Report, post_load
from bench.place import BOOK, PRINCIPAL, Run, engine_on, post, scalar
from bench.processes import api_server
from bench.scale import ACCOUNTS
from ledger.operation import SetBuffering, Submission, fingerprint_of

TITLE = "flash sale over HTTP, 64 callers, three legs"
CALLERS = 64
BUFFER_MS = 500
APPLIED_WITHIN_S = 5.0  # patience of the benchmark, ten times the bound
MERCHANT, FEES = 1, 2  # indexes of accounts; those of the buffered ones follow
BUFFERED = 3
SELECT_BALANCE = "SELECT balance FROM ledger.accounts WHERE number = %s"
COUNT_WAITING = "SELECT count(*) FROM ledger.accepted"


def run(run: Run) -> None:
    """Sell to all merchants, to one, and to one that buffers, in turns."""
    place, scale = run.place, run.scale
    url = place.database("sale")
    agree(url, (account_number(BUFFERED), account_number(BUFFERED + 1)))
    everybody = [account_number(index) for index in range(10, ACCOUNTS // 2)]
    with api_server(url, place.folder) as (api_url, _):
        for number in range(scale.rounds):
            documents = Documents(seed=7_000 + number)
            spread = _sell(run, api_url, documents, everybody, FEES + 5)
            _add(run, f"to {len(everybody):,} merchants", spread, spread)
            for words, index in (("to one merchant", MERCHANT), ("… buffered", BUFFERED)):
                hot = _sell(run, api_url, documents, [account_number(index)], index + 1)
                _add(run, words, hot, spread)
        _check(url, scale.sale_payments * scale.rounds)  # the server applies what is due
    run.sheet.note(
        TITLE,
        f"Buffered: the answer is 202 and durable; applied within {BUFFER_MS} ms. In group commit "
        "one account is updated once per batch, so a hot one is no queue either way.",
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
    """Raise unless both merchants hold what they sold, to the last cent."""
    with psycopg.connect(url, autocommit=True) as conn:
        deadline = time.monotonic() + APPLIED_WITHIN_S
        while scalar(conn, COUNT_WAITING):
            if time.monotonic() > deadline:
                raise RuntimeError("what was accepted is not applied")
            time.sleep(0.05)
        plain, buffered = (
            [scalar(conn, SELECT_BALANCE, account_number(index + more)) for more in (0, 1)]
            for index in (MERCHANT, BUFFERED)
        )
        kept = payments - payments // 100
        untouched = scalar(conn, SELECT_BALANCE, account_number(9))
    expected = [untouched + kept * (PRICE_MINOR - FEE_MINOR), untouched + kept * FEE_MINOR]
    if plain != expected or buffered != expected:
        raise RuntimeError(f"merchant and fees: {plain}, {buffered}; expected {expected}")


def _add(run: Run, subject: str, report: Report, spread: Report) -> None:
    cells = {
        "postings/s": report.per_s,
        "p50 ms": report.percentile_ms(50),
        "p99 ms": report.percentile_ms(99),
        "ratio to spread": report.per_s / spread.per_s,
    }
    run.sheet.add(TITLE, subject, cells)
