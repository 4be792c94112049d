"""Run the README's snippets in order, in one shell, beside a fresh server.

The shell stands in a folder that looks like a checkout (links to its rooms and its .venv), so
that every command is run as it is written; only the port is another one. Invariant: nothing is
left behind: server, database and folder are gone when the block ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.kafka import free_port
from tests.docs.likeness import folded, trimmed
from tests.docs.snippets import Block, Snippet, blocks_of, snippets_of
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ADDRESS = "127.0.0.1:8480"
LINKED = ("accounting", "infra")
SERVE = re.compile(r'^make serve ARGS="(?P<args>[^"]*)"$', re.MULTILINE)
MARK = "=== the snippet has ended ==="


class Shell:
    """One bash for the whole tour, so that variables and functions stay."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            text=True,
        )

    def run(self, command: str) -> str:
        """Run a snippet and return what it printed, errors included."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{command}\nprintf '\\n%s\\n' '{MARK}'\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        for line in self._bash.stdout:
            if line.rstrip("\n") == MARK:
                return trimmed("".join(lines))
            lines.append(line)
        raise AssertionError("the shell has ended:\n" + "".join(lines))

    def close(self) -> None:
        """End the shell."""
        self._bash.communicate(timeout=30)


def outputs_of(page: str) -> dict[Snippet, str]:
    """Run every snippet of a page and return what each printed, JSON folded."""
    (serve,) = [block for block in blocks_of(page) if "serve" in block.words]
    port = free_port()
    with _checkout() as folder, _serving(folder, port, serve) as environment:
        shell = Shell(folder, environment)
        try:
            return {snippet: _printed(shell, snippet, port) for snippet in snippets_of(page)}
        finally:
            shell.close()


def _printed(shell: Shell, snippet: Snippet, port: int) -> str:
    here = f"127.0.0.1:{port}"
    text = shell.run(snippet.command.text.replace(ADDRESS, here)).replace(here, ADDRESS)
    if not snippet.prints_json:
        return text
    try:
        return folded(json.loads(text))
    except json.JSONDecodeError as error:
        raise AssertionError(f"{snippet.name} printed no JSON: {text}") from error


@contextlib.contextmanager
def _checkout() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="daybook-tour-"))
    try:
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _serving(folder: Path, port: int, serve: Block) -> Iterator[dict[str, str]]:
    """Serve with the README's own arguments; yield the environment of a newcomer's shell."""
    found = SERVE.search(serve.text)
    assert found is not None, f"no server is started: {serve.text}"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    words = [str(Path(sys.prefix) / "bin" / "daybook"), "serve", *shlex.split(found["args"])]
    log = folder / "serve.log"
    with log.open("wb") as written:
        server = subprocess.Popen(
            words,
            cwd=folder,
            env={**plain, "DAYBOOK_PORT": str(port)},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(
            lambda: "Daybook serves on" in log.read_text() or server.poll() is not None,
            "the server says that it serves",
        )
        assert server.poll() is None, log.read_text()
        yield plain
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
