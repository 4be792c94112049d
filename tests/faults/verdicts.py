"""The verdict of each fault: collected while the tests run, printed as one table at the end.

Invariant: a fault without a passed test that says how the system recovered has no good verdict.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

SEED = "DAYBOOK_FAULTS_SEED"
SEED_DEFAULT = 20261125
NONE = "NO VERDICT"
HEADINGS = ("fault", "seed", "verdict", "how it recovered")


@dataclass
class Fault:
    """One injected fault: tests say in words what it is and how the system came back."""

    name: str
    seed: int
    recovery: str = ""
    verdict: str = NONE

    def recovered(self, how: str) -> None:
        """Say how the system recovered; called last, when all has been asserted."""
        self.recovery = how


def seed_of(test: str) -> int:
    """Give a test its seed: the run's, and the test's name, so that no two loads are alike."""
    given = int(os.environ.get(SEED) or SEED_DEFAULT)
    return (given * 31 + sum(test.encode())) % 1_000_000


def table_of(faults: list[Fault]) -> list[str]:
    """Lay the verdicts out in columns."""
    rows = [
        HEADINGS,
        *((each.name, str(each.seed), each.verdict, each.recovery) for each in faults),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
