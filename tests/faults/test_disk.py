"""The database's disk is full under load: posting is refused with the reason while it is."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from infra.postgres import EmbeddedPostgres
from tests.faults.load import SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.probe import open_probe, probe
from tests.faults.scene import running_scene
from tests.faults.servers import own_folder, server_in
from tests.faults.verdicts import Fault
from tests.waiting import wait_until

DISK_MIB = 224
NO_ROOM = "No space left on device"
SMALL_WAL = {"min_wal_size": "32MB", "max_wal_size": "64MB", "shared_buffers": "64MB"}


@contextlib.contextmanager
def small_disk() -> Iterator[tuple[Path, EmbeddedPostgres]]:
    """A server whose data directory is a small file system of its own."""
    with own_folder("disk") as disk:
        size = f"size={DISK_MIB}m,mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], check=True)
        try:
            with server_in(disk / "data", **SMALL_WAL) as server:
                yield disk, server
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)  # its guard may still leave


def fill(disk: Path) -> Path:
    """Leave no room at all."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    return ballast


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path, fault: Fault) -> None:
    fault.name = "database: disk full"
    with (
        small_disk() as (disk, server),
        running_scene(tmp_path, server.url, embedded=server) as scene,
    ):
        open_probe(scene)
        with SeededLoad(scene, seed=fault.seed) as load:
            load.wait_for_more(100)
            ballast = fill(disk)
            wait_until(lambda: probe(scene).status_code == 503, "there is no room any more")
            wait_until(lambda: NO_ROOM in scene.log + probe(scene).text, "somebody says why")
            ballast.unlink()
            load.wait_for_more(100)
        assert_nothing_lost(scene.database_url, load)
    fault.recovered("callers heard 503 and the reason; all went on when there was room")
