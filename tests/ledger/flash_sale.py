"""A flash sale: many callers, one merchant, a fee split, one refund in a hundred.

`python -m tests.ledger.flash_sale URL FIRST LAST` sells on an engine of its own and prints the id
of each operation that was acknowledged, one a line, until it is done or killed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ledger import operation as op
from ledger.errors import BufferFull
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger

CALLERS = 8
CUSTOMERS = 50
START_MINOR = 1_000_000
PRICE_MINOR, FEE_MINOR = 100, 3
NET_MINOR = PRICE_MINOR - FEE_MINOR
REFUNDED_EVERY = 100
BUFFER_MS = 100
TRIES = 600
TRY_AGAIN_S = 0.1


def prepare(ledger: Ledger) -> None:
    """Customers with money, a merchant under an agreement, the fee's account likewise."""
    customers = [f"C-{no}" for no in range(CUSTOMERS)]
    ledger.open(*customers)
    ledger.open("M-1", type="merchant", subject="2002.01")
    ledger.open("FEE", type="merchant", subject="2002.01")
    ledger.post(*(b.post("recharge", b.credit(each, START_MINOR)) for each in customers))
    for number in ("M-1", "FEE"):
        change = op.SetBuffering(buffer_ms=BUFFER_MS, agreement="A-1")
        ledger.answer(b.command(number, change))


def sales(no: int) -> list[op.Submission]:
    """The sale of a number, and its refund if it is one in a hundred."""
    customer = f"C-{no % CUSTOMERS}"
    sale = b.post(
        "payment",
        b.debit(customer, PRICE_MINOR),
        b.credit("M-1", NET_MINOR),
        b.credit("FEE", FEE_MINOR),
        operation_id=f"sale-{no}",
    )
    if no % REFUNDED_EVERY:
        return [sale]
    refund = b.post(
        "refund",
        b.debit("M-1", NET_MINOR),
        b.debit("FEE", FEE_MINOR),
        b.credit(customer, PRICE_MINOR),
        operation_id=f"refund-{no}",
        original_operation_id=f"sale-{no}",
    )
    return [sale, refund]


def answered(ledger: Ledger, submitted: op.Submission) -> op.Answer:
    """The answer to an operation, asked for again while its buffer is full."""
    for _ in range(TRIES):
        try:
            return ledger.answer(submitted)
        except BufferFull:
            time.sleep(TRY_AGAIN_S)
    return ledger.answer(submitted)


def sell(ledger: Ledger, first: int, last: int, tell: Callable[[op.Answer], None]) -> None:
    """Sell numbers `first` up to `last` from several callers; each waits for its answer.

    A caller who is pushed back, as a busy machine does it, comes again with the same operation.
    """

    def one(no: int) -> None:
        for each in sales(no):
            tell(answered(ledger, each))

    with ThreadPoolExecutor(CALLERS) as callers:
        for done in callers.map(one, range(first, last)):
            assert done is None


def final(count: int) -> dict[str, int]:
    """The balances after `count` sales, whatever happened on the way."""
    kept = count - len(range(0, count, REFUNDED_EVERY))
    return {"M-1": kept * NET_MINOR, "FEE": kept * FEE_MINOR}


def main(database_url: str, first: str, last: str) -> None:
    """Sell, and say what was acknowledged."""

    def tell(answer: op.Answer) -> None:
        os.write(1, f"{answer.operation_id}\n".encode())  # a line whole, whoever writes beside it

    with running_ledger(database_url) as ledger:
        sell(ledger, int(first), int(last), tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
