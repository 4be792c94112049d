"""A wire to PostgreSQL that can be cut at the moment the server says that it has committed.

The wire is a Unix socket of its own beside the server's. Once `cut_next_commit` is called,
the next reply `COMMIT` is swallowed and both ends are closed: the work is committed, and
the client never learns it. `of` chooses whose: a part of how that client introduced itself, such as
its application name. An engine also looks, many times a second in a test, for what is due, and
commits that; such a commit is not cut, as only what is under the log's lock can be lost.
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
UNDER_LOCK = (b"enter_log", b"append_batch", b"pg_advisory_xact_lock")  # how the lock is asked for
INTRODUCTION_BYTES = 500


class Client:
    """What a client of the wire has said."""

    def __init__(self) -> None:
        self.introduction = bytearray()
        self.asked_for_lock = False  # since its last commit

    def says(self, data: bytes) -> None:
        """Note what it sends; the server has not seen it yet."""
        self.introduction += data[: max(0, INTRODUCTION_BYTES - len(self.introduction))]
        self.asked_for_lock = self.asked_for_lock or any(word in data for word in UNDER_LOCK)


class CutWire:
    """Forwards connections from `folder` to the server's socket."""

    def __init__(self, server_folder: str, folder: str) -> None:
        self.cuts = 0
        self._server = str(Path(server_folder) / SOCKET_NAME)
        self._armed = 0
        self._of = b""
        self._under_lock = True
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(folder) / SOCKET_NAME))
        self._listener.listen()
        self._start(self._accept)

    def cut_next_commit(self, times: int = 1, *, of: str = "", under_lock: bool = True) -> None:
        """Swallow the next replies to COMMIT, of transactions that asked for the log's lock."""
        self._of = of.encode()
        self._under_lock = under_lock
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
            of = Client()
            self._start(self._forward, client, server, of, "requests")
            self._start(self._forward, server, client, of, "replies")

    def _forward(self, source: socket.socket, target: socket.socket, of: Client, what: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if what == "requests":
                    of.says(data)
                elif any(word in data for word in COMMITTED):
                    if self._is_to_be_cut(of):
                        self._armed -= 1
                        self.cuts += 1
                        break
                    of.asked_for_lock = False
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_to_be_cut(self, of: Client) -> bool:
        wanted = of.asked_for_lock or not self._under_lock
        return bool(self._armed) and self._of in of.introduction and wanted


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
