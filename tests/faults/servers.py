"""PostgreSQL servers of a test's own, which may be stopped, filled and lost.

They live outside pytest's folders: those become unreadable for the server's user when another run
of pytest begins.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.postgres import EmbeddedPostgres, embedded_postgres
from tests.fix_postgres import SMALL


@contextlib.contextmanager
def own_folder(name: str) -> Iterator[Path]:
    """A folder for servers; it goes with everything in it."""
    folder = Path(tempfile.mkdtemp(prefix=f"daybook-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def own_server(**settings: str) -> Iterator[EmbeddedPostgres]:
    """A running server in a folder of its own."""
    with own_folder("server") as folder, server_in(folder, **settings) as server:
        yield server


@contextlib.contextmanager
def server_in(folder: Path, **settings: str) -> Iterator[EmbeddedPostgres]:
    """The server of a folder, for as long as the block runs."""
    server = embedded_postgres(folder, settings={**SMALL, **settings})
    try:
        yield server.start()
    finally:
        server.crash()
        server.stop()
