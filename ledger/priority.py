"""Work that can wait goes after postings: its process, and its server process where that is here.

On a machine whose processors are all wanted an audit would take as much of them as the engine does.
A low priority alone leaves it every moment in which the engine waits for the disk, and the engine
then waits for its caches and its turn; so a pass over the whole log rests as well (`GivesWay`).
Invariant: only a priority is lowered, or a pause made; what is read and decided stays the same, and
where it cannot be lowered (the server is on another machine, or another user's) the work goes on as
it is. Whatever gives way goes on: a rest has a bound.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from psycopg import Connection

# Of a processor that all want, postings take 1, books about a third of that, the rest a tenth.
BOOKS, NICENESS = 5, 10
PEER = struct.Struct("3i")  # process, user, group
PIECE_S = 0.02
RESTS = 3  # times as long as it worked, so a pass takes four times as long on a full machine
REST_S_MAX = 1.0


@contextmanager
def after_postings(niceness: int = NICENESS) -> Iterator[None]:
    """Lower the calling thread, and the threads and processes that it starts, in the block (and
    behind it, for a user who may not raise a priority again)."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    _lower(0, niceness)
    try:
        yield
    finally:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


def server_goes_after_postings(conn: Connection[Any], niceness: int = NICENESS) -> None:
    """Lower the connection's server process, if it runs on this machine and may be lowered."""
    backend = conn.info.backend_pid
    if _listener(conn) == _parent(backend) != 0:
        _lower(backend, niceness)


def processor_times() -> tuple[int, int] | None:
    """Give the nanoseconds that this thread ran, and waited for a processor; None: nobody says."""
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:
        return None
    return int(ran), int(waited)


class Waits:
    """Tells whether a thread waits for processors; one per thread, made in it."""

    def __init__(self, times: Callable[[], tuple[int, int] | None] = processor_times) -> None:
        self._times = times
        self._before = times()

    def longer_than_it_runs(self) -> bool:
        """Say whether since the last call it waited for a processor longer than it had one."""
        before, self._before = self._before, self._times()
        if before is None or self._before is None:
            return False
        return self._before[1] - before[1] > self._before[0] - before[0]


class GivesWay:
    """Lets a thread's work that goes after postings rest while others want the processors.

    It rests once it has waited for a processor longer than it had one. Work whose priority nobody
    lowered, and work on a system that does not tell, never rests. One per thread, made in it.
    """

    def __init__(
        self,
        *,
        times: Callable[[], tuple[int, int] | None] = processor_times,
        clock: Callable[[], float] = time.monotonic,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._rest = clock, rest
        self._waits = Waits(times)
        self._lowered = os.getpriority(os.PRIO_PROCESS, 0) >= NICENESS
        self._since = clock()

    def between(self) -> None:
        """Stand between two pieces of work, as small as you like."""
        if not self._lowered or (worked_s := self._clock() - self._since) < PIECE_S:
            return
        if self._waits.longer_than_it_runs():
            self._rest(min(RESTS * worked_s, REST_S_MAX))
        self._since = self._clock()


def _lower(process: int, niceness: int) -> None:
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, process) < niceness:
            os.setpriority(os.PRIO_PROCESS, process, niceness)


def _listener(conn: Connection[Any]) -> int:
    """Give the process that listens at the other end of a socket of this machine; 0 for others."""
    with socket.socket(fileno=os.dup(conn.fileno())) as wire:
        if wire.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
            return 0
        peer = wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    return int(PEER.unpack(peer)[0])


def _parent(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])
