"""A part of Daybook as the supervisor runs it, with failpoints that are armed from outside.

`python -m tests.faults.part consume` is `python -m infra consume`, but for this: when it reaches
the step that the armed file names, it takes the file and sends itself the signal named there. Its
successor finds no file, and lives.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from functools import partial
from pathlib import Path

from consumers import repair
from infra import draining
from infra.cli import main, rebuilding, serving, sweeping

ARMED = "DAYBOOK_FAULTS_ARMED"
CLOCKS = "DAYBOOK_FAULTS_CLOCKS"
SAID = "DAYBOOK_FAULTS_SAID"


class Failpoints:
    """Looks at every step whether this is the one; `armed` says which, where and what then."""

    def __init__(self, armed: Path) -> None:
        self._armed = armed
        self._reached: dict[str, int] = {}

    def reach(self, step: str) -> None:
        """Send this process the armed signal, once, when the step was reached often enough."""
        try:
            order = self._armed.read_text()
        except FileNotFoundError:
            return
        given = json.loads(order)
        if given["step"] != step or given["thread"] not in threading.current_thread().name:
            return
        self._reached[order] = self._reached.get(order, 0) + 1
        if self._reached[order] <= given["after"]:
            return
        try:
            self._armed.rename(self._armed.with_suffix(".taken"))
        except FileNotFoundError:
            return  # another process of this part was faster
        os.kill(os.getpid(), given["signal"])


class SetClock:
    """The system's clock, as far off as the file says for this process id, or for all (`*`)."""

    def __init__(self, clocks: Path) -> None:
        self._clocks = clocks

    def __call__(self) -> dt.datetime:
        """Return the UTC time as this process believes it."""
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self._ahead_s())

    def _ahead_s(self) -> float:
        try:
            given = json.loads(self._clocks.read_text())
        except FileNotFoundError:
            return 0
        return float(given.get(str(os.getpid()), given.get("*", 0)))


def arm_commands(reach: Failpoints, clock: SetClock) -> None:
    """Give the failpoints and the clock to what the commands run."""
    draining.build_app = partial(draining.build_app, reach=reach.reach, clock=clock)
    serving.run_consumer = partial(serving.run_consumer, failpoint=reach.reach)
    serving.run_relay = partial(serving.run_relay, failpoint=reach.reach)
    serving.run_results = partial(serving.run_results, failpoint=reach.reach)
    rebuilding.rebuild = partial(rebuilding.rebuild, failpoint=reach.reach)
    repair.retry = partial(repair.retry, failpoint=reach.reach)
    sweeping.run_sweeper = partial(sweeping.run_sweeper, failpoint=reach.reach)


def _speak_into(path: str) -> None:
    said = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)


if __name__ == "__main__":
    _speak_into(os.environ[SAID])
    arm_commands(Failpoints(Path(os.environ[ARMED])), SetClock(Path(os.environ[CLOCKS])))
    main()
