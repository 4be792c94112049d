"""A process that accepts for a hot account and is killed at a step of the application.

`python -m tests.ledger.killed_applier URL STEP` prints `accepted` before the kill can come.
"""

from __future__ import annotations

import sys
import threading

from ledger import operation as op
from tests.ledger import builders as b
from tests.ledger.booking import running_ledger
from tests.ledger.killed import KillAt

ACCEPTED_MINOR = 40
PATIENCE_S = 60.0


def main(database_url: str, step: str) -> None:
    """Accept, and be killed when the engine applies it by itself."""
    kill = KillAt(step)
    with running_ledger(database_url, reach=kill.reach) as ledger:
        ledger.open("M-1")
        ledger.answer(b.command("M-1", op.SetBuffering(buffer_ms=2_000, agreement="A-1")))
        recharge = b.post("recharge", b.credit("M-1", ACCEPTED_MINOR), operation_id="r")
        print(ledger.answer(recharge).status, flush=True)
        kill.armed = True
        threading.Event().wait(PATIENCE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
