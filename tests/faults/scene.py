"""The scene of a fault: a whole Daybook under its real supervisor, and a load on it.

The parts are the ones of `daybook serve`, started from `tests.faults.part`, so that a test can
tell one to die at a step. Invariant: nothing here starts a part again; if it comes back, the
supervisor did that, as it would at night.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL

from infra.demo.payment_day import BUSINESS_DATE
from infra.demo.system import free_port
from infra.first_start import first_start
from infra.postgres import EmbeddedPostgres
from infra.serve import (
    children_of,
    environment_of,
    listening_socket,
    postgres_look,
    wait_until_ready,
)
from infra.settings import Settings, load_settings, with_overrides
from infra.supervisor import PAUSE_FIRST_S, Supervisor
from tests.faults.part import ARMED, CLOCKS, SAID
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
_numbers = itertools.count(1)


@dataclass
class Scene:
    """A running system; `database_url` is the direct way to its database."""

    settings: Settings
    database_url: str
    url: str
    supervisor: Supervisor
    words: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The local key."""
        return self.settings.key_path.read_text("ascii").strip()

    @property
    def children(self) -> dict[str, int]:
        """The process ids of the parts, by name."""
        return self.supervisor.pids

    @property
    def log(self) -> str:
        """What the parts and their supervisor have said."""
        said = said_path(self.settings.home)
        text = said.read_text("utf-8", errors="replace") if said.exists() else ""
        return text + "\n".join(self.words)

    def arm(self, step: str, *, after: int = 0, thread: str = "", number: int = SIGKILL) -> None:
        """Let the next part that reaches the step for the (after + 1)th time get the signal.

        `thread` is part of a thread's name: only there it counts.
        """
        order = {"step": step, "after": after, "thread": thread, "signal": number}
        armed = armed_path(self.settings.home)
        fresh = armed.with_suffix(".new")
        fresh.write_text(json.dumps({**order, "no": next(_numbers)}))
        fresh.rename(armed)

    def set_clock(self, ahead_s: float, part: str | None = None) -> None:
        """Set the clock of a part, or of all, so many seconds ahead of the machine's."""
        clocks = clocks_path(self.settings.home)
        given = json.loads(clocks.read_text()) if clocks.exists() else {}
        given["*" if part is None else str(self.children[part])] = ahead_s
        fresh = clocks.with_suffix(".new")
        fresh.write_text(json.dumps(given))
        fresh.rename(clocks)

    def was_taken(self) -> bool:
        """Tell whether the armed step was reached."""
        return not armed_path(self.settings.home).exists()

    def kill_at(self, step: str, part: str, *, after: int = 0, thread: str = "") -> None:
        """kill -9 the part at a step, and wait for the one the supervisor starts instead."""
        victim = self.children[part]
        self.start_soon()
        self.arm(step, after=after, thread=thread)
        wait_until(self.was_taken, f"{part} reaches {step}")
        self.wait_for_successor(part, victim)

    def run(self, *words: str) -> int:
        """Run a command as an operator does; return its exit code, or minus the signal."""
        command = [*self.supervisor.command, *words]
        return subprocess.run(
            command, env=dict(self.supervisor.environment), check=False, timeout=120
        ).returncode

    def run_killed_at(self, step: str, *words: str, after: int = 0) -> None:
        """Run a command that is killed at a step."""
        self.arm(step, after=after)
        assert self.run(*words) == -SIGKILL, self.log

    def wait_for_successor(self, part: str, victim: int) -> None:
        """Wait until another process plays the part."""
        wait_until(lambda: self.children.get(part, victim) != victim, f"another {part} is started")

    def start_soon(self) -> None:
        """Forget earlier deaths: the supervisor would make pauses that grow with them."""
        for child in self.supervisor._children:
            child.pause_s = PAUSE_FIRST_S


@contextlib.contextmanager
def running_scene(
    home: Path,
    database_url: str,
    *,
    through: str | None = None,
    embedded: EmbeddedPostgres | None = None,
    **overrides: object,
) -> Iterator[Scene]:
    """Start a system on a database; its parts reach it by the address `through`, if given.

    `embedded` is a server that the supervisor starts again when it is gone.
    """
    settings = with_overrides(
        load_settings(),
        home=home,
        port=free_port(),
        log_level="warning",
        database_url=through or database_url,
        **{"retry_pause_s_max": 0.5, **overrides},
    )
    settings.home.mkdir(parents=True, exist_ok=True)
    words: list[str] = []
    with listening_socket(settings.host, settings.port) as listener:
        first_start(
            database_url,
            key_path=settings.key_path,
            book_id=settings.book,
            open_date=BUSINESS_DATE,
        )
        supervisor = Supervisor(
            specs=children_of(settings, listener.fileno()),
            environment=environment_of_parts(settings, settings.home),
            say=words.append,
            command=(sys.executable, "-m", "tests.faults.part"),
            look=postgres_look(embedded, words.append),
        )
        scene = Scene(settings, database_url, settings.api_url, supervisor, words)
        with _supervised(supervisor):
            assert wait_until_ready(scene.url, timeout_s=60), scene.log
            yield scene


def free_topics() -> dict[str, str]:
    """Name topics and a group that no other scene of this run uses."""
    run = f"faults.{next(_numbers)}"
    return {
        "operations_topic": f"{run}.ledger.operations",
        "results_topic": f"{run}.accounting.results",
        "consumer_group": f"{run}.vouchers",
    }


def armed_path(home: Path) -> Path:
    """The file that arms a failpoint of this scene's parts."""
    return home / "armed.json"


def clocks_path(home: Path) -> Path:
    """The file that says how far off each process's clock is."""
    return home / "clocks.json"


def said_path(home: Path) -> Path:
    """The file that this scene's parts write their log lines to."""
    return home / "said.log"


def environment_of_parts(settings: Settings, home: Path) -> dict[str, str]:
    """What a part is told: the settings, and the files in `home` that arm it and take its words."""
    assert settings.database_url is not None
    return {
        **environment_of(settings, settings.database_url),
        "PYTHONPATH": str(ROOT),
        CLOCKS: str(clocks_path(settings.home)),
        ARMED: str(armed_path(home)),
        SAID: str(said_path(home)),
    }


@contextlib.contextmanager
def _supervised(supervisor: Supervisor) -> Iterator[None]:
    """Run the supervisor in a thread. Its children end when that thread does, also uncleanly."""
    thread = threading.Thread(target=supervisor.run, name="supervisor")
    thread.start()
    try:
        yield
    finally:
        supervisor.stop.set()
        thread.join(120)
        assert not thread.is_alive()
