"""Fixtures of this folder: the fault with its seed, and the table of verdicts after the run."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.faults.catalogue import standing_of
from tests.faults.kafka_scene import on_kafka, operator
from tests.faults.verdicts import Fault, seed_of, table_of

__all__ = ["on_kafka", "operator"]  # fixtures of this folder

FAULTS = pytest.StashKey[list[Fault]]()
FAULT = pytest.StashKey[Fault]()


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """The test's line in the table; its name is the test's, in words."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    found = Fault(name, seed_of(request.node.nodeid))
    request.node.stash[FAULT] = found
    request.config.stash.setdefault(FAULTS, []).append(found)
    return found


@pytest.fixture
def seed(fault: Fault) -> int:
    """The test's seed; DAYBOOK_FAULTS_SEED changes all of them."""
    return fault.seed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the verdict of a fault down: it held, or something failed."""
    report = yield
    found = item.stash.get(FAULT, None)
    if found is not None:
        if report.failed:
            found.verdict = "FAILED"
        elif report.when == "call":
            found.verdict = "held"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of the faults that were injected."""
    config = terminalreporter.config
    faults = config.stash.get(FAULTS, [])
    if faults:
        terminalreporter.section("faults")
        for line in table_of(faults):
            terminalreporter.write_line(line)
        if not config.option.keyword and all(Path(each).is_dir() for each in config.args):
            terminalreporter.section("the list")  # only a whole run can tell what is missing
            for line in standing_of(faults):
                terminalreporter.write_line(line)
