"""Stop the embedded PostgreSQL when its last user is gone, however that user went.

Every user of a data directory holds a shared lock on its `users.lock`; the system drops the lock
when the process ends, also by kill -9. This guard waits for the exclusive lock: to get it means
that nobody is left. It runs as a process of its own, from the standard library only.

Invariant: the server is stopped only by a holder of the exclusive lock.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

STOP_PATIENCE_S = 60.0


def postmaster_pid(cluster: Path) -> int | None:
    """The process serving this cluster, or None. A pid file left by a crash counts as none,
    also when its number now belongs to some other program."""
    try:
        pid = abs(int((cluster / "postmaster.pid").read_text().split("\n", 1)[0]))
    except (FileNotFoundError, ValueError):
        return None
    if not is_alive(pid):
        return None
    try:
        return pid if Path(f"/proc/{pid}/cwd").resolve(strict=True) == cluster.resolve() else None
    except FileNotFoundError:
        return None if Path("/proc/self/cwd").exists() else pid
    except PermissionError:
        return pid


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs; one that ended and awaits its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, IndexError):
        return not Path("/proc/self/stat").exists()


def stop_postmaster(cluster: Path, *, how: signal.Signals = signal.SIGINT) -> bool:
    """Stop the server and wait. SIGINT ends sessions and checkpoints; SIGQUIT is a power cut.

    Returns False when it still ran after the patience; the caller says what that means.
    """
    pid = postmaster_pid(cluster)
    if pid is None:
        return True
    os.kill(pid, how)
    deadline = time.monotonic() + STOP_PATIENCE_S
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def main(users_lock: str, guard_lock: str, cluster: str) -> int:
    os.chdir("/")  # so that no folder of its starter stays in use
    guard = os.open(guard_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another guard already waits
    users = os.open(users_lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_EX)
    return 0 if stop_postmaster(Path(cluster)) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
