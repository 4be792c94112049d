"""Fixtures of this folder: the fault with its seed, and the table of verdicts after the run.

Invariant: a run is green only if every fault that it injected, and after a whole run every fault
of the list, has a verdict.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.faults.catalogue import standing_of
from tests.faults.kafka_scene import on_kafka, operator
from tests.faults.verdicts import NONE, Fault, seed_of, table_of

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
    """Write the verdict of a fault down: it held, something failed, or nobody has said."""
    report = yield
    found = item.stash.get(FAULT, None)
    if found is not None:
        if report.when == "call" and report.passed and not found.recovery:
            report.outcome = "failed"
            report.longrepr = f"{found.name}: {NONE}; the test never called fault.recovered(how)"
        elif report.failed:
            found.verdict = "FAILED"
        elif report.when == "call" and report.passed:
            found.verdict = "held"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of the faults that were injected."""
    faults = terminalreporter.config.stash.get(FAULTS, [])
    if faults:
        terminalreporter.section("faults")
        for line in table_of(faults):
            terminalreporter.write_line(line)
        standing = _standing(terminalreporter.config)
        if standing:
            terminalreporter.section("the list")
            for line in standing:
                terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run, whatever its tests say, when a fault injected or of the list has no verdict."""
    verdicts = [each.verdict for each in session.config.stash.get(FAULTS, [])]
    absent = any(each.endswith(NONE) for each in [*verdicts, *_standing(session.config)])
    if absent and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _standing(config: pytest.Config) -> list[str]:
    """Give the list with its verdicts, after a whole run: only that can tell what is missing."""
    faults = config.stash.get(FAULTS, [])
    whole = not config.option.keyword and all(Path(each).is_dir() for each in config.args)
    return standing_of(faults) if faults and whole else []
