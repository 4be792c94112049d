"""The processes of a rebuild: each is given stretches of the log until there are no more.

Invariant: when this returns, every stretch is written and summed, and its processes have ended
(after a failure they are killed, and may be gone a moment later); when the asking process dies,
its processes end with the stretch they are at. One process imports the handlers and forks the
others, each with a socket to the asking one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import BufferedReader

import msgspec

from consumers.stretches import Asked, Posted, Stretch
from ledger.errors import LedgerError

ROWS_PER_STRETCH = 20_000
END = Stretch(0, 0)


class StretchFailed(LedgerError):
    """A process could not read or write its stretch: the rebuild ends, nothing was swapped."""

    code = "rebuild_failed"


def processes_default() -> int:
    """Give one process for each processor, and one more: they wait for the database in turns."""
    return min((os.cpu_count() or 1) + 1, 8)


class StretchProcesses:
    """Posts everything up to a position with a number of processes beside each other."""

    def __init__(
        self, database_url: str, count: int, *, rows_per_stretch: int = ROWS_PER_STRETCH
    ) -> None:
        self._database_url = database_url
        self._count = count
        self._rows_per_stretch = rows_per_stretch
        self._turn = threading.Lock()
        self._failed = threading.Event()
        self._first: BaseException | None = None

    def post(self, shadow: int, through: int, progress: Callable[[int, int], None]) -> Posted:
        """Post the log up to a position; return the operations and what is left of them.

        `shadow` is the number of the schema that is filled.

        `progress` is told positions done and to do, from any thread, one at a time.
        """
        stretches = self._stretches(through)
        done = 0

        def advance(stretch: Stretch) -> None:
            nonlocal done
            with self._turn:
                done += stretch.through - stretch.after
                progress(done, through)

        with ExitStack() as stack:
            process, sockets = stack.enter_context(_started(self._count))
            pool = stack.enter_context(ThreadPoolExecutor(self._count))
            try:
                for each in sockets:
                    each.sendall(msgspec.json.encode(Asked(self._database_url, shadow)) + b"\n")
                feed = partial(self._feed, process, stretches=stretches, advance=advance)
                parts = list(pool.map(feed, sockets))
            except BaseException:
                self._failed.set()
                if self._first is not None:  # the others ended because it did: it is the reason
                    raise self._first from None
                raise
        left = sorted(position for part in parts for position in part.left)
        return Posted(sum(part.operations for part in parts), tuple(left))

    def _feed(
        self,
        process: subprocess.Popen[bytes],
        its: socket.socket,
        stretches: Iterator[Stretch],
        advance: Callable[[Stretch], None],
    ) -> Posted:
        """Give one process its stretches until there are none; then let it write its sums."""
        operations = 0
        left: list[int] = []
        lines = its.makefile("rb")
        try:
            while not self._failed.is_set():
                with self._turn:
                    stretch = next(stretches, END)
                posted = _ask(its, lines, stretch)
                if stretch is END:
                    break
                operations += posted.operations
                left += posted.left
                advance(stretch)
        except BaseException as error:
            with self._turn:
                self._first = self._first or error
            self._failed.set()
            raise
        finally:
            lines.close()  # else the socket stays open, and the process waits
            if self._failed.is_set():
                _kill(process)
        return Posted(operations, tuple(left))

    def _stretches(self, through: int) -> Iterator[Stretch]:
        for after in range(0, through, self._rows_per_stretch):
            yield Stretch(after, min(through, after + self._rows_per_stretch))


@contextmanager
def _started(count: int) -> Iterator[tuple[subprocess.Popen[bytes], list[socket.socket]]]:
    """Start the processes and give a socket to each; at the end they are waited for."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        theirs = [pair[1].fileno() for pair in pairs]
        command = [sys.executable, "-m", "consumers.stretches", *map(str, theirs)]
        # A session of its own, so that all of them can be killed by one number.
        process = subprocess.Popen(command, pass_fds=theirs, start_new_session=True)
        stack.callback(process.wait)
        for ours, other in pairs:
            other.close()
            stack.enter_context(ours)
        yield process, [ours for ours, _ in pairs]


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _ask(its: socket.socket, lines: BufferedReader, stretch: Stretch) -> Posted:
    try:
        its.sendall(msgspec.json.encode(stretch) + b"\n")
        line = lines.readline()
    except OSError as error:
        raise StretchFailed(f"a process has ended: {error}") from error
    if not line:
        raise StretchFailed(f"a process has ended before ({stretch.after}, {stretch.through}]")
    posted = msgspec.json.decode(line, type=Posted)
    if posted.failed is not None:
        raise StretchFailed(posted.failed)
    return posted
