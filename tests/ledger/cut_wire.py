"""A wire to PostgreSQL that can be cut at the moment the server says that it has committed.

The wire is a Unix socket of its own beside the server's. Once `cut_next_commit` is called,
the next reply `COMMIT` is swallowed and both ends are closed: the work is committed, and
the client never learns it. `of` chooses whose: a part of how that client introduced itself, such as
its application name.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.ledger.booking import Ledger, running_ledger

SOCKET_NAME = ".s.PGSQL.5432"
COMMITTED = (b"COMMIT\x00", b"appended\x00")  # the column of `ledger.append_batch`
INTRODUCTION_BYTES = 500


class CutWire:
    """Forwards connections from `folder` to the server's socket."""

    def __init__(self, server_folder: str, folder: str) -> None:
        self.cuts = 0
        self._server = str(Path(server_folder) / SOCKET_NAME)
        self._armed = 0
        self._of = b""
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(folder) / SOCKET_NAME))
        self._listener.listen()
        self._start(self._accept)

    def cut_next_commit(self, times: int = 1, *, of: str = "") -> None:
        """Swallow the next replies to COMMIT."""
        self._of = of.encode()
        self._armed = times

    def close(self) -> None:
        """Cut everything and wait until nothing is forwarded any more."""
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._ends += [client, server]
            said = bytearray()
            self._start(self._forward, client, server, said, "requests")
            self._start(self._forward, server, client, said, "replies")

    def _forward(
        self, source: socket.socket, target: socket.socket, said: bytearray, what: str
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if what == "requests":
                    said += data[: max(0, INTRODUCTION_BYTES - len(said))]
                elif self._armed and self._of in said and any(w in data for w in COMMITTED):
                    self._armed -= 1
                    self.cuts += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cut_wire(database_url: str) -> Iterator[tuple[CutWire, str]]:
    """Give a wire to the database's server, and the address of the database over it."""
    given = conninfo_to_dict(database_url)
    with tempfile.TemporaryDirectory(prefix="wire-") as folder:
        wire = CutWire(str(given["host"]), folder)
        url = f"postgresql://{given['user']}@/{given['dbname']}?host={quote(folder, safe='')}"
        try:
            yield wire, url
        finally:
            wire.close()


@contextlib.contextmanager
def ledger_on_wire(database_url: str) -> Iterator[tuple[CutWire, Ledger]]:
    """Run an engine whose connections go over a wire that can be cut."""
    with (
        cut_wire(database_url) as (wire, url),
        running_ledger(
            database_url, connect=lambda: psycopg.connect(url, autocommit=True)
        ) as ledger,
    ):
        yield wire, ledger
