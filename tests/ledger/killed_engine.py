"""A process that books a few operations and is killed at a step: `python -m … URL STEP WAY`.

It prints the id of every operation that was acknowledged, one a line. WAY is `alone`, when the
engine is the only one and sends the batch as one statement, or `in-company`, when another one has
committed a moment ago and the batch is decided under the lock and sent together with its COMMIT, or
`large-in-company`, when it is written by COPY then, or `holding-` before either, when a hold is in
it too, or `asked`, when the engine is alone and waits for a line of input before it posts.
"""

from __future__ import annotations

import os
import signal
import sys

from ledger.operation import Answer, Submission
from ledger.statement import ROWS_MAX
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger

NUMBERS = ("C-1", "C-2")
BEFORE = "before"
START_MINOR = 100_000  # the first account has it


def payments(way: str = "alone") -> list[Submission]:
    """What is posted when the kill comes: one job, one batch; a transfer is three rows."""
    count = ROWS_MAX // 3 + 1 if way.startswith("large") else 10
    paid = [
        b.post("transfer", b.debit("C-1", 5), b.credit("C-2", 5), operation_id=f"t-{no}")
        for no in range(count)
    ]
    if way.startswith("holding"):
        paid.append(b.post("hold", b.hold("C-2", 5), operation_id="t-hold"))
    return paid


def seek_company(ledger: Ledger, database_url: str) -> None:
    """Let another engine commit in between, and this one notice it; both book a rejection."""
    with running_ledger(database_url) as other:
        other.answer(b.post("transfer", b.debit("nobody", 1)))
    ledger.answer(b.post("transfer", b.debit("nobody", 1)))


def main(database_url: str, step: str, way: str) -> None:
    """Book, then book again and be killed at the step."""
    armed = False

    def reach(reached: str) -> None:
        if armed and reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with running_ledger(database_url, reach=reach) as ledger:
        ledger.open(*NUMBERS)
        ledger.answer(b.post("recharge", b.credit("C-1", START_MINOR), operation_id=BEFORE))
        print(BEFORE, flush=True)
        if way.endswith("in-company"):
            seek_company(ledger, database_url)
        elif way == "asked":
            sys.stdin.readline()
        armed = True
        for result in ledger.post(*payments(way)):
            assert isinstance(result, Answer)
            print(result.operation_id, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
