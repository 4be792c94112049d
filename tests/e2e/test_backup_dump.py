"""The page's lines for a server of one's own: dump, restore elsewhere, prove, the same books."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

import infra
from consumers.rebuild import rebuild
from infra.postgres import binaries
from tests.audit import story
from tests.consumers.caught_up import books
from tests.docs.snippets import blocks_of

PAGE = Path(infra.__file__).parent / "backup.md"


def run(script: str, folder: Path, **given: str) -> None:
    """Run lines of the page as a person does; each must succeed."""
    path = f"{Path(sys.prefix) / 'bin'}:{binaries()}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "DAYBOOK_HOME": str(folder / "home"), **given},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_dump_restored_into_another_database_has_the_same_books(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    # given days of real operations, dumped
    dump, restore = [
        block.text for block in blocks_of(PAGE.read_text("utf-8")) if "dump" in block.words
    ]
    story.tell(database_url)
    before = books(database_url)
    run(dump, tmp_path, DAYBOOK_DATABASE_URL=database_url)

    # when it is restored and proved by the page's lines
    run(restore, tmp_path, DAYBOOK_DATABASE_URL=database_url, RESTORED=empty_database_url)

    # then the books are the same, also when made again from the log
    assert before["vouchers"]
    assert books(empty_database_url) == before
    report = rebuild(empty_database_url)
    assert (report.difference, report.swapped) == (None, True)
    assert books(empty_database_url) == before
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT incarnation FROM ledger.log").fetchone() == (2,)
