"""The processes of a benchmark: API servers, consumers, relay; started, waited for, ended.

Invariant: a process ends with the block that started it, by SIGTERM, and by SIGKILL only when it
does not drain; its standard error goes to a file beside the databases.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from infra.serve import listening_socket, wait_until_ready

DRAIN_S = 30
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Child:
    """A running process, and what it has used so far."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def cpu_s(self) -> float:
        """Processor time used so far, user and system."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    @property
    def memory_mib(self) -> float:
        """Resident memory now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0


@contextmanager
def child(
    name: str,
    *arguments: str,
    folder: Path,
    fds: tuple[int, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Child]:
    """Run `python -m …` while the block runs."""
    log = folder / f"{name}.log"
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=fds,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield Child(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def api_server(
    database_url: str, folder: Path, *, processes: int = 1
) -> Iterator[tuple[str, list[Child]]]:
    """Serve a database on a free port; gives the address and the processes."""
    with ExitStack() as stack:
        listener = stack.enter_context(listening_socket("127.0.0.1", 0))
        url = url_of(listener)
        children = [
            stack.enter_context(
                child(
                    f"api-{number}",
                    "bench.api_server",
                    str(listener.fileno()),
                    database_url,
                    folder=folder,
                    fds=(listener.fileno(),),
                    environment={
                        "DAYBOOK_HOME": str(folder),
                        "DAYBOOK_LOG_LEVEL": "warning",
                        "DAYBOOK_PROCESSES": str(processes),  # as `daybook serve` tells them
                    },
                )
            )
            for number in range(processes)
        ]
        if not wait_until_ready(url):
            raise RuntimeError(f"the API did not start: {children[0].log.read_text()[-2000:]}")
        yield url, children


@contextmanager
def bare_server(folder: Path) -> Iterator[str]:
    """Serve fixed answers on a free port; gives the address."""
    with listening_socket("127.0.0.1", 0) as listener:
        fd = listener.fileno()
        with child("bare", "bench.bare_server", str(fd), folder=folder, fds=(fd,)):
            yield url_of(listener)


def url_of(listener: socket.socket) -> str:
    """The address of a listening socket."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
