"""The processes of a rebuild: each is given stretches of the log until there are no more.

Invariant: after `finish` every stretch is written and summed; when it is left, its processes have
ended (after a failure they are killed, and may be gone a moment later); when the asking process
dies, its processes end with the stretch they are at. One process imports the handlers and forks the
others, each with a socket to the asking one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import BufferedReader
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from consumers.stretches import Asked, Posted, Stretch
from ledger.errors import LedgerError

ROWS_PER_STRETCH = 20_000
LEFT_PER_STRETCH = 2_000
END = Stretch(0, 0)


class _Started(NamedTuple):
    """One of the processes: its socket and the lines it answers; `process` has forked it."""

    process: subprocess.Popen[bytes]
    its: socket.socket
    lines: BufferedReader


class StretchFailed(LedgerError):
    """A process could not read or write its stretch: the rebuild ends, nothing was swapped."""

    code = "rebuild_failed"


def processes_default() -> int:
    """Give one process for each processor, and one more: they wait for the database in turns."""
    return min((os.cpu_count() or 1) + 1, 8)


class StretchProcesses:
    """A number of processes that post stretches beside each other, from when it is entered."""

    def __init__(
        self, database_url: str, count: int, *, rows_per_stretch: int = ROWS_PER_STRETCH
    ) -> None:
        self.database_url = database_url
        self.rows_per_stretch = rows_per_stretch
        self._count = count
        self._turn = threading.Lock()
        self._failed = threading.Event()
        self._first: BaseException | None = None
        self._stack = ExitStack()
        self._started: list[_Started] = []

    def __enter__(self) -> Self:
        process, sockets = self._stack.enter_context(_started(self._count))
        for its in sockets:
            lines = self._stack.enter_context(its.makefile("rb"))
            self._started.append(_Started(process, its, lines))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._started:
            _kill(self._started[0].process)
        self._stack.close()

    def begin(self, shadow: int) -> None:
        """Say where to write: `shadow` is the number of the schema that is filled."""
        asked = msgspec.json.encode(Asked(self.database_url, shadow)) + b"\n"
        for each in self._started:
            each.its.sendall(asked)

    def post(
        self, stretches: Iterable[Stretch], advance: Callable[[Stretch], None] = lambda _: None
    ) -> Posted:
        """Post stretches, each by the next free process; return operations and what is left.

        `advance` is told each stretch that is written, from any thread, one at a time.
        """
        parts = self._each(partial(self._feed, stretches=iter(stretches), advance=advance))
        left = sorted(position for part in parts for position in part.left)
        return Posted(sum(part.operations for part in parts), tuple(left))

    def finish(self) -> None:
        """Let each process write its sums: now everything is in the shadow."""
        self._each(partial(_ask, stretch=END))

    def _each(self, do: Callable[[_Started], Posted]) -> list[Posted]:
        """Do something with every process, beside each other."""
        with ThreadPoolExecutor(self._count) as pool:
            try:
                return list(pool.map(partial(self._or_end_all, do), self._started))
            except BaseException:
                self._failed.set()
                if self._first is not None:  # the others ended because it did: it is the reason
                    raise self._first from None
                raise

    def _or_end_all(self, do: Callable[[_Started], Posted], started: _Started) -> Posted:
        try:
            return do(started)
        except BaseException as error:
            with self._turn:
                self._first = self._first or error
            self._failed.set()
            raise
        finally:
            if self._failed.is_set():
                _kill(started.process)

    def _feed(
        self, started: _Started, stretches: Iterator[Stretch], advance: Callable[[Stretch], None]
    ) -> Posted:
        """Give one process its stretches until there are none."""
        operations = 0
        left: list[int] = []
        while not self._failed.is_set():
            with self._turn:
                stretch = next(stretches, END)
            if stretch is END:
                break
            posted = _ask(started, stretch)
            operations += posted.operations
            left += posted.left
            with self._turn:
                advance(stretch)
        return Posted(operations, tuple(left))


def stretches_through(through: int, rows: int) -> Iterator[Stretch]:
    """Cut the log up to a position into stretches of so many rows."""
    for after in range(0, through, rows):
        yield Stretch(after, min(through, after + rows))


def stretches_at(positions: Sequence[int]) -> Iterator[Stretch]:
    """Put ordered positions that were left into stretches that name them."""
    for first in range(0, len(positions), LEFT_PER_STRETCH):
        part = tuple(positions[first : first + LEFT_PER_STRETCH])
        yield Stretch(part[0] - 1, part[-1], part)


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


def _ask(started: _Started, stretch: Stretch) -> Posted:
    try:
        started.its.sendall(msgspec.json.encode(stretch) + b"\n")
        line = started.lines.readline()
    except OSError as error:
        raise StretchFailed(f"a process has ended: {error}") from error
    if not line:
        raise StretchFailed(f"a process has ended before ({stretch.after}, {stretch.through}]")
    posted = msgspec.json.decode(line, type=Posted)
    if posted.failed is not None:
        raise StretchFailed(posted.failed)
    return posted
