"""Work that can wait goes after postings: its process, and its server process where that is here.

On a machine whose processors are all wanted an audit would take as much of them as the engine does.
Invariant: only a priority is lowered; what is read and decided stays the same, and where it cannot
be lowered (the server is on another machine, or another user's) the work goes on as it is.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from psycopg import Connection

# Of a processor that all want, postings take 1, books about a third of that, the rest a tenth.
BOOKS, NICENESS = 5, 10
PEER = struct.Struct("3i")  # process, user, group


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
