"""What each process of a run uses: share of a processor, and memory of its own.

PostgreSQL's processes are grouped by the name under which their client connected. Memory: what is
resident and not shared with others (`shared_buffers` is counted once, as the server's setting).
Invariant: a process that ended in between is left out: nothing is guessed.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from bench.sheet import Sheet

CPU, MEMORY, COUNT = "CPU %", "MiB", "processes"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
OTHERS = "PostgreSQL: writers of pages and WAL, autovacuum"
SELECT_BACKENDS = """
    SELECT pid, CASE WHEN backend_type = 'client backend'
                     THEN 'PostgreSQL: ' || coalesce(nullif(application_name, ''), 'others')
                     ELSE %s END
    FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (datname = %s OR datname IS NULL)
"""


class Usage:
    """What processes and the backends of one database use, from now on."""

    def __init__(self, conn: psycopg.Connection[Any], processes: Mapping[str, int]) -> None:
        self._conn = conn
        self._processes = dict(processes)
        self._began = self._cpu_s()
        self._started = time.perf_counter()

    def figures(self) -> dict[str, dict[str, float]]:
        """Return by name the share of a processor, the memory now, how many processes."""
        seconds = time.perf_counter() - self._started
        found: dict[str, dict[str, float]] = defaultdict(lambda: {CPU: 0.0, MEMORY: 0.0, COUNT: 0})
        for (name, pid), cpu_s in self._cpu_s().items():
            figures = found[name]
            figures[CPU] += (cpu_s - self._began.get((name, pid), cpu_s)) / seconds * 100
            figures[MEMORY] += own_memory_mib(pid)
            figures[COUNT] += 1
        return dict(found)

    def _cpu_s(self) -> dict[tuple[str, int], float]:
        named = [(name, pid) for name, pid in self._processes.items()]
        database = self._conn.info.dbname
        named += [(n, pid) for pid, n in self._conn.execute(SELECT_BACKENDS, (OTHERS, database))]
        return {each: cpu for each in named if (cpu := cpu_s_of(each[1])) is not None}


def add_usage(
    sheet: Sheet, section: str, doing: str, figures: Mapping[str, Mapping[str, float]]
) -> None:
    """Write down what each process used while something was done."""
    for name, values in figures.items():
        sheet.add(section, name, {f"{doing}: {column}": value for column, value in values.items()})


def cpu_s_of(pid: int) -> float | None:
    """Return the processor time of a process and of its children that have ended, None if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS_PER_S


def own_memory_mib(pid: int) -> float:
    """Return the resident memory that a process does not share."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0
