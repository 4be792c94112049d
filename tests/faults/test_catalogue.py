"""The table of `make faults`: faults of the list that nobody injected are named."""

from __future__ import annotations

from tests.faults.catalogue import LIST, NONE, standing_of
from tests.faults.verdicts import Fault


def test_a_fault_without_a_verdict_is_named() -> None:
    lines = standing_of([])
    assert len(lines) == len(LIST)
    assert all(line.endswith(NONE) for line in lines)


def test_a_fault_is_counted_as_held_only_by_its_own_tests_that_passed() -> None:
    held = Fault("kill -9: rebuild, after the swap", 1, verdict="held")
    failed = Fault("kill -9: rebuild, while it fills", 1, verdict="FAILED")
    (line,) = [line for line in standing_of([held, failed]) if not line.endswith(NONE)]
    assert line.startswith("rebuild and its swap")
    assert line.endswith("1 of 2 held")
