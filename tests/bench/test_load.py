"""What a generator process hands back comes whole, and what a process uses is its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psycopg

from bench.usage import CPU, MEMORY, Usage

LONG = 1_000_000
SAY = f"""
import signal
from bench.load import report
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.1)  # a signal ends a write that waits, half done
report(b'x' * {LONG})
"""


def test_long_report_comes_whole_also_without_buffers() -> None:
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE, env=unbuffered)
    time.sleep(0.5)  # the pipe is full, and the signal comes, before anybody reads
    said, _ = process.communicate()
    assert (process.returncode, len(said)) == (0, LONG)


def test_usage_names_processes_and_backends_and_what_they_used(database_url: str) -> None:
    busy = "SELECT count(*) FROM generate_series(1, 3000000)"
    with (
        psycopg.connect(database_url, autocommit=True) as watcher,
        psycopg.connect(database_url, autocommit=True, application_name="worker") as worker,
    ):
        usage = Usage(watcher, {"this process": os.getpid()})
        worker.execute(busy)
        figures = usage.figures()
    assert figures["PostgreSQL: worker"][CPU] > 5
    assert figures["this process"][MEMORY] > 5
    assert figures["this process"][CPU] < figures["PostgreSQL: worker"][CPU]
