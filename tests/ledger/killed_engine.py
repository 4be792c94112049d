"""A process that books a few operations and is killed at a step: `python -m … URL STEP`.

It prints the id of every operation that was acknowledged, one a line.
"""

from __future__ import annotations

import os
import signal
import sys

from ledger.operation import Answer, Submission
from tests.ledger import builders as b
from tests.ledger.booking import running_ledger

NUMBERS = ("C-1", "C-2")
BEFORE = "before"


def payments() -> list[Submission]:
    """What is posted when the kill comes: one job, one batch."""
    return [
        b.post("transfer", b.debit("C-1", 5), b.credit("C-2", 5), operation_id=f"t-{no}")
        for no in range(10)
    ]


def main(database_url: str, step: str) -> None:
    """Book, then book again and be killed at the step."""
    armed = False

    def reach(reached: str) -> None:
        if armed and reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with running_ledger(database_url, reach=reach) as ledger:
        ledger.open(*NUMBERS)
        ledger.answer(b.post("recharge", b.credit("C-1", 1_000), operation_id=BEFORE))
        print(BEFORE, flush=True)
        armed = True
        for result in ledger.post(*payments()):
            assert isinstance(result, Answer)
            print(result.operation_id, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
