"""One command that runs everything: `daybook serve`.

Embedded PostgreSQL (unless a database is named) → migrate → first book, rules and key → API
processes on one listening socket, the consumer, and with Kafka the relay and the results consumer.
Invariants: one server per home; what is stopped first is what takes work in, and every process
finishes what it has accepted.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.day_schedule import ScheduleRefused, day_schedule
from infra.first_start import Started, first_start
from infra.postgres import EmbeddedPostgres, PostgresUnavailable, embedded_postgres
from infra.settings import Settings
from infra.supervisor import ChildSpec, Say, Supervisor

BACKLOG = 2_048
READY_TIMEOUT_S = 120.0
POSTGRES_LOOK_S = 1.0
API_METRICS_OFFSET = 10


class ServeRefused(Exception):
    """The server cannot start here; the text says why and what to do."""


def serve(
    settings: Settings,
    *,
    open_date: dt.date,
    say: Say,
    on_ready: Callable[[Started], None],
) -> None:
    """Run until SIGTERM or SIGINT, then drain. Raises `ServeRefused` before anything is started."""
    try:
        day_schedule(settings)
    except ScheduleRefused as error:
        raise ServeRefused(str(error)) from error
    settings.home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_server_of(settings.home))
        listener = stack.enter_context(listening_socket(settings.host, settings.port))
        postgres = _embedded(settings)
        if postgres is not None:
            stack.callback(postgres.stop)  # last, when everything has let go
            say(f"starting PostgreSQL in {settings.postgres_dir}")
            postgres.start()
        database_url = settings.database_url or (postgres.url if postgres else "")
        started = first_start(
            database_url,
            key_path=settings.key_path,
            book_id=settings.book,
            open_date=open_date,
        )
        supervisor = Supervisor(
            specs=children_of(settings, listener.fileno()),
            environment=environment_of(settings, database_url),
            say=say,
            drain_timeout_s=settings.drain_notice_s + settings.drain_timeout_s,
            look=postgres_look(postgres, say),
            on_drain=listener.close,  # so that nobody waits at a door behind which no API is left
        )
        _stop_on_signals(supervisor.stop, say)
        url = f"http://{_reachable(settings.host)}:{listener.getsockname()[1]}"
        stack.enter_context(_state_file(settings.home, url, supervisor))
        _announce_when_ready(url, supervisor.stop, lambda: on_ready(started))
        supervisor.run()
        say("everything is drained")


def children_of(settings: Settings, listener_fd: int) -> list[ChildSpec]:
    """Return the processes of this bus; the API is drained first, then relay, then consumers."""

    def with_port(offset: int, *arguments: str) -> tuple[str, ...]:
        port = settings.metrics_port + offset if settings.metrics_port else 0
        return (*arguments, "--metrics-port", str(port))

    fds = (listener_fd,)
    apis = [
        ChildSpec(
            f"api-{number}",
            with_port(API_METRICS_OFFSET + number - 1, "api", "--fd", str(listener_fd)),
            0,
            fds,
        )
        for number in range(1, settings.processes + 1)
    ]
    days = [ChildSpec("days", ("day", "keep"), 0)] if settings.day_opens_at else []
    every = f"{settings.sweep_interval_s:g}"
    sweep = ChildSpec("sweep", with_port(3, "sweep", "--every", every), 0)
    sweeps = [sweep] if settings.sweep_interval_s else []
    if settings.bus == "log":
        return [*apis, *days, *sweeps, ChildSpec("consumer", with_port(0, "consume"), 1)]
    return [
        *apis,
        *days,
        *sweeps,
        ChildSpec("relay", with_port(1, "relay"), 1),
        ChildSpec("consumer", with_port(0, "consume"), 2),
        ChildSpec("results", with_port(2, "results"), 3),
    ]


def environment_of(settings: Settings, database_url: str) -> dict[str, str]:
    """Return the children's environment: the settings in use, and the database that was started."""
    given = {
        f"DAYBOOK_{name.upper()}": str(value)
        for name, value in settings.model_dump(mode="json", exclude={"key"}).items()
        if value is not None
    }
    return {**os.environ, **given, "DAYBOOK_DATABASE_URL": database_url}


@contextlib.contextmanager
def only_server_of(home: Path) -> Iterator[None]:
    """Hold the home's lock. Raises `ServeRefused` when another server has it."""
    with (home / "serve.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = running_server(home)
            where = f" (process {state['pid']}, {state['url']})" if state else ""
            msg = f"another daybook serves {home}{where}; stop it, or choose another --home"
            raise ServeRefused(msg) from None
        yield


def running_server(home: Path) -> dict[str, object] | None:
    """Return what the server of this home says of itself, None when none runs."""
    try:
        state: dict[str, object] = json.loads((home / "serve.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return state


@contextlib.contextmanager
def _state_file(home: Path, url: str, supervisor: Supervisor) -> Iterator[None]:
    """Write down where the server is and its processes, for people and tests."""
    path = home / "serve.json"
    path.write_text(json.dumps({"pid": os.getpid(), "url": url, "children": {}}))
    supervisor.on_children = lambda: path.write_text(
        json.dumps({"pid": os.getpid(), "url": url, "children": supervisor.pids})
    )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Listen here; the API processes share it, so that a restart of one refuses nobody."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            msg = f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
            raise ServeRefused(msg) from error
        listener.listen(BACKLOG)
        listener.set_inheritable(True)
        yield listener


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104


def _embedded(settings: Settings) -> EmbeddedPostgres | None:
    return None if settings.database_url else embedded_postgres(settings.postgres_dir)


def postgres_look(postgres: EmbeddedPostgres | None, say: Say) -> Callable[[], None]:
    """Return a look that starts the embedded PostgreSQL again when it has gone."""
    looked_at = 0.0

    def look() -> None:
        nonlocal looked_at
        if postgres is None or time.monotonic() - looked_at < POSTGRES_LOOK_S:
            return
        looked_at = time.monotonic()
        try:
            _ = postgres.url
        except PostgresUnavailable:
            say("PostgreSQL is gone; starting it again")
            try:
                postgres.start()
            except PostgresUnavailable as error:
                say(f"PostgreSQL does not start: {error}")

    return look


def _stop_on_signals(stop: threading.Event, say: Say) -> None:
    def on_signal(number: int, _frame: object) -> None:
        if not stop.is_set():
            say(f"{signal.Signals(number).name}: draining")
            stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def _announce_when_ready(url: str, stop: threading.Event, announce: Callable[[], None]) -> None:
    def wait() -> None:
        if wait_until_ready(url, stop=stop):
            announce()

    threading.Thread(target=wait, name="ready", daemon=True).start()


def wait_until_ready(
    url: str, *, timeout_s: float = READY_TIMEOUT_S, stop: threading.Event | None = None
) -> bool:
    """Ask the readiness of a server until it is ready; False when it never was or `stop` is set."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not (stop is not None and stop.is_set()):
        with contextlib.suppress(OSError):
            if _is_ready(url):
                return True
        time.sleep(0.05)
    return False


def _is_ready(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/health/ready", timeout=2) as answer:  # noqa: S310
        return bool(answer.status == 200)
