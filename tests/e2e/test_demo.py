"""The demo command with a small day: figures, exit code, a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from infra.cli.exit_codes import ExitCode
from infra.demo.payment_day import OPERATIONS_MIN, payment_day
from infra.supervisor import program


def daybook(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program(), *words],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_demo_passes_twice_in_one_folder_with_the_same_figures_and_leaves_nothing_running(
    tmp_path: Path,
) -> None:
    home = tmp_path / "demo"
    first, second = (figures_of(home) for _ in range(2))
    for figures in (first, second):
        assert figures["passed"] is True
        assert figures["audit"]["passed"] is True
        assert figures["identity"]["holds"] is True
        assert figures["rates"]["operations"] == payment_day(OPERATIONS_MIN).operations
        assert figures["parked_before_repair"]["parked: no_rule"] > 0
        assert figures["parked_before_repair"]["waiting: behind_original"] > 0
        assert set(figures["repaired"]) == {"vouchered"}
        assert figures["endings"]["insufficient_funds"] > 0
    for same in ("voucher_hash", "vouchers", "trial_balance", "endings"):
        assert first[same] == second[same]
    assert not (home / "serve.json").exists()


def figures_of(home: Path) -> Any:
    done = daybook("demo", "--home", str(home), "--operations", str(OPERATIONS_MIN), "--json")
    assert done.returncode == ExitCode.OK, done.stderr
    return json.loads(done.stdout)


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "precious.txt"
    mine.write_text("kept")
    refused = daybook("demo", "--home", str(tmp_path))
    assert refused.returncode == ExitCode.UNAVAILABLE
    assert "was not made by a demo" in refused.stderr
    assert mine.read_text() == "kept"


def test_the_tables_for_people_name_the_verdict_and_what_to_try_next(tmp_path: Path) -> None:
    done = daybook("demo", "--home", str(tmp_path / "d"), "--operations", str(OPERATIONS_MIN))
    assert done.returncode == ExitCode.OK, done.stderr
    for words in ("Trial balance in CNY", "Identity", "audit passed", "everything ties", "curl -H"):
        assert words in done.stdout
