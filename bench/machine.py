"""What the figures were measured on: a number without its machine says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psycopg

LIBRARIES = ("eventsourcing", "psycopg", "msgspec", "uvicorn", "fastapi", "kafka-python")
SETTINGS = (
    *("shared_buffers", "wal_buffers", "min_wal_size", "max_wal_size"),
    *("fsync", "synchronous_commit", "jit"),
)


def machine_description(url: str, folder: Path) -> dict[str, str]:
    """Describe processor, memory, disk, programs and the settings of PostgreSQL that matter."""
    with psycopg.connect(url) as conn:
        shown = {name: _setting(conn, name) for name in SETTINGS}
        server = _setting(conn, "server_version")
    return {
        "processor": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "disk": _file_system(folder),
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "PostgreSQL": server,
        "PostgreSQL settings": ", ".join(f"{name}={value}" for name, value in shown.items()),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "commit": _commit(),
    }


def _setting(conn: psycopg.Connection[tuple[object, ...]], name: str) -> str:
    row = conn.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return str(row[0]) if row else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """Name the file system, as a commit on memory would cost nothing."""
    done = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    return " ".join(done.stdout.split()) or "unknown"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
