"""The table of `make faults`: a fault without a verdict is named, and fails the run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.catalogue import LIST, standing_of
from tests.faults.verdicts import NONE, Fault

MakeFaults = Callable[..., tuple[int, str]]

ROOT = Path(__file__).parents[2]
OF_TWO = """
from tests.faults import catalogue
catalogue.LIST = {"one fault": "^one", "another fault": "^another"}
"""
ONE = """
def test_one(fault): fault.recovered("by itself")
"""
ANOTHER = """
def test_another(fault): fault.recovered("by itself")
"""
UNSAID = """
def test_another(fault): assert fault.seed
"""
NOT_RUN = """
import pytest
def test_another(fault): pytest.skip("not today")
"""


@pytest.fixture
def make_faults(tmp_path: Path) -> MakeFaults:
    """Run a folder's faults as `make faults` runs its own, in a process; the list has two."""

    def run(tests: str, *options: str) -> tuple[int, str]:
        (tmp_path / "pytest.ini").write_text("[pytest]")
        (tmp_path / "conftest.py").write_text(OF_TWO)
        (tmp_path / "test_given.py").write_text(tests)
        words = [sys.executable, "-m", "pytest", "-q", "-p", "tests.faults.conftest", *options]
        words += ["-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    return run


def test_a_run_is_green_when_every_fault_of_the_list_held(make_faults: MakeFaults) -> None:
    code, said = make_faults(ONE + ANOTHER)
    assert (code, NONE in said) == (0, False), said


def test_a_fault_of_the_list_that_nobody_injected_fails_a_whole_run(
    make_faults: MakeFaults,
) -> None:
    code, said = make_faults(ONE)
    assert (code, said.count(NONE)) == (1, 1), said
    assert "1 passed" in said
    code, said = make_faults(ONE, "-k", "one")
    assert (code, NONE in said) == (0, False), said


@pytest.mark.parametrize(
    ("without", "options"), [(UNSAID, ("-k", "one or another")), (UNSAID, ()), (NOT_RUN, ())]
)
def test_a_fault_whose_test_says_no_recovery_fails_any_run(
    make_faults: MakeFaults, without: str, options: tuple[str, ...]
) -> None:
    code, said = make_faults(ONE + without, *options)
    table = said[said.index(" faults =") :]
    lines = [line for line in table.splitlines() if line.endswith(NONE)]
    assert code == 1, said
    assert len(lines) == (1 if options else 2), said  # in the table, and in the list of a whole run
    assert all(line.startswith("another") for line in lines)


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
