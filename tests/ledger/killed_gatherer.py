"""A process that pays from an account with stripes and is killed at a step of that batch.

`python -m tests.ledger.killed_gatherer URL STEP` prints `ready` before the kill can come.
"""

from __future__ import annotations

import sys

from ledger import operation as op
from tests.ledger import builders as b
from tests.ledger.booking import running_ledger
from tests.ledger.killed import KillAt

INFLOWS, EACH_MINOR, PAID_MINOR = 12, 10, 75


def payout() -> op.Submission:
    """What is posted when the kill comes: more than lies on any stripe."""
    return b.post("fee", b.debit("M-1", PAID_MINOR), operation_id="paid")


def main(database_url: str, step: str) -> None:
    """Take money in on stripes, then pay and be killed at the step."""
    kill = KillAt(step)
    with running_ledger(database_url, reach=kill.reach) as ledger:
        ledger.open("M-1")
        ledger.answer(b.command("M-1", op.SetStripes(stripes=4)))
        for number in range(INFLOWS):
            recharge = b.post("recharge", b.credit("M-1", EACH_MINOR), operation_id=f"r-{number}")
            ledger.answer(recharge)
        print("ready", flush=True)
        kill.armed = True
        ledger.answer(payout())


if __name__ == "__main__":
    main(*sys.argv[1:])
