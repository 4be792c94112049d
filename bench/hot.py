"""One hot account in process: beside spread, and with its inflows over eight stripes.

The same recharges to all accounts, to one, and to one with stripes, a batch size at a time; and
money out of the last two, where what the account itself is short of is gathered first. Invariant:
the balances are exact at the end, or the benchmark fails.
"""

from __future__ import annotations

import psycopg

from bench.documents import FUNDING_MINOR, RECHARGE_MINOR, Documents, account_number
from bench.in_process import engine_s
from bench.place import BOOK, PRINCIPAL, Run, engine_on, parser, post
from ledger.engine import Engine
from ledger.operation import SetStripes, Submission, fingerprint_of
from ledger.reads import select_account

TITLE = "One hot account, engine in process"
STRIPES = 8
SIZES = (1, 100, 1_000)
HOT, STRIPED = account_number(1), account_number(2)
RATE, RATIO = "operations/s", "ratio to spread"
SPREAD, ONE_STRIPED = "recharges, spread over 10,000 accounts", "recharges, all to one striped"


def run(run: Run) -> None:
    """Post to all accounts, to one and to one with stripes, then take it all out, in turns."""
    url = run.place.database("hot")
    expected = [0, 0]
    for size in SIZES:
        with engine_on(url, batch_size_max=size) as engine:
            if size == SIZES[0]:
                _prepare(engine)
            for number in range(run.scale.rounds):
                spread = _round(run, engine, Documents(seed=8_000 + number), size)
                for index, each in enumerate((HOT, STRIPED)):
                    expected[index] += RECHARGE_MINOR * sum(each.encode() in doc for doc in spread)
    with psycopg.connect(url, autocommit=True) as conn:
        left = [select_account(conn, BOOK, number).balance_minor for number in (HOT, STRIPED)]
    if left != expected:
        raise RuntimeError(f"hot and striped account hold {left}; expected {expected}")
    run.sheet.note(
        TITLE,
        f"{STRIPES} stripes. A batch is one transaction under the log's one lock: nobody waits for "
        "a hot account, and stripes make nothing faster. A fee finds its account empty: what it "
        "takes is gathered first, an operation of its own.",
    )


def _prepare(engine: Engine) -> None:
    stripe(engine, STRIPED)
    documents = Documents(seed=0)
    for number in (HOT, STRIPED):
        engine_s(engine, parser(), documents.fees_of(number, 1, FUNDING_MINOR), 1)


def stripe(engine: Engine, number: str) -> None:
    """Let the inflows of an account go over stripes."""
    change = SetStripes(operation_id=f"stripe-{number}", stripes=STRIPES)
    fingerprint = fingerprint_of(BOOK, change, number)
    operation_id = change.operation_id or ""
    post(engine, [Submission(BOOK, PRINCIPAL.name, operation_id, fingerprint, change, number)])


def _round(run: Run, engine: Engine, documents: Documents, size: int) -> list[bytes]:
    """Take every figure once; return what was spread, as some of it went to these two as well."""
    count = run.scale.operations_by_batch_size[size]
    subjects = {
        SPREAD: documents.recharges(count),
        "recharges, all to one": documents.recharges_of(HOT, count),
        ONE_STRIPED: documents.recharges_of(STRIPED, count),
        "fees, all from one": documents.fees_of(HOT, count, RECHARGE_MINOR),
        "fees, all from one striped": documents.fees_of(STRIPED, count, RECHARGE_MINOR),
    }
    spread = 0.0
    for words, bodies in subjects.items():
        rate = count / engine_s(engine, parser(), bodies, size)
        spread = spread or rate
        run.sheet.add(TITLE, f"{words}, batch {size:,}", {RATE: rate, RATIO: rate / spread})
    return subjects[SPREAD]
