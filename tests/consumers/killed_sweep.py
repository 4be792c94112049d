"""A process that sweeps by schedule and is killed at a step: `python -m … URL STEP`."""

from __future__ import annotations

import os
import signal
import sys

from consumers.sweeps import Sweeper
from ledger.statuses import apply_results_in_tx
from projections.tables import connect_to


def main(database_url: str, step: str) -> None:
    """Sweep once, and be killed when the step is reached."""

    def reach(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with connect_to(database_url) as conn, connect_to(database_url) as beside:
        sweeper = Sweeper(conn, beside=beside, deliver_in_tx=apply_results_in_tx, failpoint=reach)
        sweeper.by_schedule(interval_s=0, full_every_s=3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
