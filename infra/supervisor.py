"""Child processes of one `daybook serve`: started, started again when they die, drained at the end.

Invariants: a child that dies is started again after a pause that grows while it keeps dying; a
child that does not end when asked is killed, and both are said aloud. Children end by themselves
when the supervisor is gone (`end_with_parent`), so that nothing is left behind by a kill -9.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

PAUSE_FIRST_S = 0.2
PAUSE_MAX_S = 10.0
HEALTHY_S = 20.0  # a child that has lived so long starts again without a pause
LOOK_S = 0.1
PR_SET_PDEATHSIG = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class ChildSpec:
    """What to run: arguments after `python -m infra`. Lower `drain_order` is stopped first."""

    name: str
    arguments: tuple[str, ...]
    drain_order: int = 0
    pass_fds: tuple[int, ...] = ()


@dataclass
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    pause_s: float = PAUSE_FIRST_S


@dataclass
class Supervisor:
    """Runs children until `stop` is set; `look` is called between looks at them."""

    specs: Sequence[ChildSpec]
    environment: Mapping[str, str]
    say: Say
    drain_timeout_s: float = 20.0
    look: Callable[[], None] = lambda: None
    on_children: Callable[[], object] = lambda: None  # called when a child was started
    on_drain: Callable[[], object] = lambda: None  # called once no child is started any more
    command: Sequence[str] = field(default_factory=lambda: program())
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Make one record for each child."""
        self._children = [_Child(spec) for spec in self.specs]

    @property
    def pids(self) -> dict[str, int]:
        """The running children's process ids by name."""
        return {
            child.spec.name: child.process.pid
            for child in self._children
            if child.process is not None and child.process.poll() is None
        }

    def run(self) -> None:
        """Start all children and keep them running; drain them when `stop` is set."""
        try:
            while not self.stop.is_set():
                for child in self._children:
                    self._tend(child)
                self.look()
                self.stop.wait(LOOK_S)
        finally:
            self.drain()

    def drain(self) -> None:
        """Stop the children in their order, each group when the one before has ended."""
        self.on_drain()
        for order in sorted({spec.drain_order for spec in self.specs}):
            group = [child for child in self._children if child.spec.drain_order == order]
            for child in group:
                if child.process is not None and child.process.poll() is None:
                    child.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + self.drain_timeout_s + 5
            for child in group:
                self._wait(child, deadline)

    def _tend(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            lived_s = now - child.started_at
            child.process = None
            if lived_s >= HEALTHY_S:
                child.pause_s = PAUSE_FIRST_S
            child.start_at = now + child.pause_s
            self.say(
                f"{child.spec.name} ended by itself ({_ending(code)}) after {lived_s:.1f} s; "
                f"starting it again in {child.pause_s:.1f} s"
            )
            child.pause_s = min(child.pause_s * 2, PAUSE_MAX_S)
        if now >= child.start_at:
            child.process = self._started(child.spec)
            child.started_at = now
            self.on_children()

    def _started(self, spec: ChildSpec) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.command, *spec.arguments, "--parent-pid", str(os.getpid())],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            pass_fds=spec.pass_fds,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which drains in order
        )

    def _wait(self, child: _Child, deadline: float) -> None:
        if child.process is None:
            return
        try:
            code = child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.say(f"{child.spec.name} did not end in time and is killed")
            child.process.kill()
            code = child.process.wait()
        if code not in (0, -signal.SIGTERM):
            self.say(f"{child.spec.name} ended with {_ending(code)}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name


def end_with_parent(parent_pid: int) -> None:
    """Ask the system to send this process SIGTERM when its parent ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def program() -> tuple[str, ...]:
    """Return the command that runs this program again."""
    return (sys.executable, "-m", "infra")
