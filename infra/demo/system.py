"""A whole Daybook of one's own: `daybook serve` as a child process, for the demo and for tests.

Invariant: it is gone when the block ends, however it ends; its words are in `serve.log`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kafka.errors import KafkaError

from infra.kafka import delete_topics
from infra.serve import ServeRefused, only_server_of, running_server, wait_until_ready
from infra.settings import Settings, with_overrides
from infra.supervisor import program

MARK = "made-by-demo"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


class SystemFailed(Exception):
    """The system did not start, or ended by itself; the text has its last words."""


@dataclass
class System:
    """A running system. `settings` are those of its home."""

    settings: Settings
    process: subprocess.Popen[bytes]
    url: str

    @property
    def key(self) -> str:
        """The local key."""
        return self.settings.key_path.read_text("ascii").strip()

    @property
    def children(self) -> dict[str, int]:
        """The process ids of its parts, by name."""
        state = running_server(self.settings.home) or {}
        children = state.get("children", {})
        assert isinstance(children, dict)
        return {str(name): int(pid) for name, pid in children.items()}

    @property
    def log(self) -> str:
        """What its processes have said."""
        return (self.settings.home / "serve.log").read_text("utf-8", errors="replace")

    def stop(self) -> int:
        """Ask it to drain, wait until it has ended, return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise SystemFailed(f"it did not drain in {STOP_TIMEOUT_S:.0f} s\n{self.log}") from None


@contextlib.contextmanager
def system(
    settings: Settings, *, open_date: dt.date, environment: Mapping[str, str] | None = None
) -> Iterator[System]:
    """Start everything in the settings' home and wait until it is ready; stop it afterwards."""
    started = start_system(settings, open_date=open_date, environment=environment)
    try:
        yield started
    finally:
        started.stop()


def start_system(
    settings: Settings, *, open_date: dt.date, environment: Mapping[str, str] | None = None
) -> System:
    """Start `daybook serve` and wait until it is ready. Raises `SystemFailed`."""
    settings.home.mkdir(parents=True, exist_ok=True)
    arguments = ("serve", "--open-date", open_date.isoformat(), "--parent-pid", str(os.getpid()))
    with (settings.home / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [*program(), *arguments],
            env={**os.environ, **variables(settings), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    started = System(settings, process, settings.api_url)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not wait_until_ready(started.url, timeout_s=0.3):
        if process.poll() is not None:
            raise SystemFailed(f"it did not start:\n{_last_words(started)}")
        if time.monotonic() > deadline:
            started.stop()
            raise SystemFailed(f"not ready in {START_TIMEOUT_S:.0f} s:\n{_last_words(started)}")
    return started


def variables(settings: Settings) -> dict[str, str]:
    """Return the environment that gives another process these settings."""
    values = settings.model_dump(mode="json", exclude_unset=True, exclude={"key", "url"})
    return {f"DAYBOOK_{name.upper()}": str(v) for name, v in values.items() if v is not None}


def own_settings(
    settings: Settings, *, home: Path, bus: str | None = None, port: int | None = None
) -> Settings:
    """Return settings for a system of its own: home, port and, on Kafka, topics and group.

    A topic belongs to one log for good, so a fresh log needs fresh topics.
    """
    run = secrets.token_hex(4)
    return with_overrides(
        settings,
        home=home,
        port=port or free_port(),
        bus=bus,
        operations_topic=f"own.{run}.ledger.operations",
        results_topic=f"own.{run}.accounting.results",
        consumer_group=f"own.{run}.vouchers",
    )


@contextlib.contextmanager
def own_topics(settings: Settings) -> Iterator[None]:
    """Delete the system's own topics from the broker when the block ends."""
    try:
        yield
    finally:
        if settings.bus == "kafka":
            topics = (settings.operations_topic, settings.results_topic)
            with contextlib.suppress(KafkaError):
                delete_topics(settings.kafka_bootstrap, topics)


def fresh_home(home: Path) -> None:
    """Empty a home that an earlier demo made. Raises `ServeRefused` for anybody else's."""
    if home.exists() and any(home.iterdir()):
        if not (home / MARK).exists():
            msg = f"{home} was not made by a demo and is left alone; choose another --home"
            raise ServeRefused(msg)
        with only_server_of(home):
            pass
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARK).write_text(json.dumps({"safe_to_delete": True}))


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_words(started: System) -> str:
    return "\n".join(started.log.splitlines()[-25:])
