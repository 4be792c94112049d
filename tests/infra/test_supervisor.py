"""The supervisor with real processes: restarts, drains in order, kills nothing in silence."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.supervisor import ChildSpec, Supervisor
from tests.waiting import wait_until

# A child: writes its name to a file when it is asked to end; `stubborn` does not end.
CHILD = """
import signal, sys, time
name, how, path = sys.argv[1:4]
if how == "dies":
    sys.exit(7)
def end(*_):
    with open(path, "a") as file:
        file.write(name + "\\n")
    if how != "stubborn":
        sys.exit(0)
signal.signal(signal.SIGTERM, end)
with open(path + "." + name, "w") as ready:
    ready.write("ready")
while True:
    time.sleep(0.05)
"""


def child(name: str, how: str, path: Path, drain_order: int = 0) -> ChildSpec:
    return ChildSpec(name, (name, how, str(path)), drain_order)


@contextmanager
def supervised(
    *specs: ChildSpec, drain_timeout_s: float = 20
) -> Iterator[tuple[Supervisor, list[str]]]:
    said: list[str] = []
    supervisor = Supervisor(
        specs,
        dict(os.environ),
        said.append,
        drain_timeout_s=drain_timeout_s,
        command=(sys.executable, "-c", CHILD),
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor, said
    finally:
        supervisor.stop.set()
        thread.join(60)
        assert not thread.is_alive()


def ready(path: Path, name: str) -> bool:
    return path.with_name(f"{path.name}.{name}").exists()


def test_children_end_in_their_order_when_drained(tmp_path: Path) -> None:
    path = tmp_path / "ended"
    specs = (
        child("consumer", "ends", path, 2),
        child("api", "ends", path),
        child("relay", "ends", path, 1),
    )
    with supervised(*specs) as (_, said):
        wait_until(lambda: all(ready(path, spec.name) for spec in specs), "all have started")
    assert path.read_text().split() == ["api", "relay", "consumer"]
    assert said == []


def test_a_child_that_was_killed_is_started_again_and_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ended"
    with supervised(child("api", "ends", path)) as (supervisor, said):
        wait_until(lambda: ready(path, "api"), "it has started")
        first = supervisor.pids["api"]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: supervisor.pids.get("api", first) != first, "another is started")
    assert "SIGKILL" in said[0]


def test_a_child_that_keeps_dying_is_started_after_growing_pauses(tmp_path: Path) -> None:
    with supervised(child("api", "dies", tmp_path / "ended")) as (_, said):
        wait_until(lambda: len(said) >= 3, "it has died three times")
    assert all("exit code 7" in line for line in said)
    pauses = [float(line.rsplit(" in ", 1)[1].removesuffix(" s")) for line in said[:3]]
    assert pauses == [0.2, 0.4, 0.8]


def test_a_child_that_does_not_end_is_killed_and_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ended"
    # drain_timeout_s may be negative here: the supervisor adds five seconds of its own
    with supervised(child("api", "stubborn", path), drain_timeout_s=-4) as (supervisor, said):
        wait_until(lambda: ready(path, "api"), "it has started")
    assert "api did not end in time and is killed" in said
    assert supervisor.pids == {}
