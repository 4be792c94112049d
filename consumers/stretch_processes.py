"""The processes of a rebuild: each is given stretches of the log until there are no more.

Invariant: when this returns, every stretch is written and summed, and no process of it is
left; when the asking process dies, its processes end with the stretch they are at.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

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
            processes = [stack.enter_context(self._started(shadow)) for _ in range(self._count)]
            pool = stack.enter_context(ThreadPoolExecutor(self._count))
            try:
                feed = partial(self._feed, stretches=stretches, advance=advance)
                parts = list(pool.map(feed, processes))
            except BaseException:
                self._failed.set()
                raise
        left = sorted(position for part in parts for position in part.left)
        return Posted(sum(part.operations for part in parts), tuple(left))

    def _started(self, shadow: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "consumers.stretches"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(Asked(self._database_url, shadow)) + b"\n")
        return process

    def _feed(
        self,
        process: subprocess.Popen[bytes],
        stretches: Iterator[Stretch],
        advance: Callable[[Stretch], None],
    ) -> Posted:
        """Give one process its stretches until there are none; then let it write its sums."""
        operations = 0
        left: list[int] = []
        try:
            while not self._failed.is_set():
                with self._turn:
                    stretch = next(stretches, END)
                posted = _ask(process, stretch)
                if stretch is END:
                    break
                operations += posted.operations
                left += posted.left
                advance(stretch)
        except BaseException:
            self._failed.set()
            raise
        finally:
            if self._failed.is_set():
                process.kill()
        return Posted(operations, tuple(left))

    def _stretches(self, through: int) -> Iterator[Stretch]:
        for after in range(0, through, self._rows_per_stretch):
            yield Stretch(after, min(through, after + self._rows_per_stretch))


def _ask(process: subprocess.Popen[bytes], stretch: Stretch) -> Posted:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(stretch) + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError as error:
        raise StretchFailed(f"a process has ended: {error}") from error
    if not line:
        raise StretchFailed(f"a process has ended before ({stretch.after}, {stretch.through}]")
    posted = msgspec.json.decode(line, type=Posted)
    if posted.failed is not None:
        raise StretchFailed(posted.failed)
    return posted
