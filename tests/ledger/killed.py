"""Processes that kill themselves at a step of a batch, and the tests that run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


class KillAt:
    """Kills this process when the engine reaches a step, once it is armed."""

    def __init__(self, step: str) -> None:
        self.armed = False
        self._step = step

    def reach(self, reached: str) -> None:
        """What the engine calls at each of its steps."""
        if self.armed and reached == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(module: str, *words: str) -> list[str]:
    """Run `python -m MODULE WORDS`, which must die by its own hand; return what it has printed."""
    killed = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return killed.stdout.split()
