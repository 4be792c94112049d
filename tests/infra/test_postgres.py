"""The embedded PostgreSQL: shared, restarted after every kind of end, refused in plain words."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.postgres import EmbeddedPostgres, PostgresUnavailable, embedded_postgres
from infra.postgres_guard import is_alive, postmaster_pid
from tests.waiting import wait_until

SMALL = {"shared_buffers": "64MB", "min_wal_size": "80MB", "max_wal_size": "256MB"}
ROOT = Path(__file__).parents[2]
HOLD_AND_WAIT = """
import sys
from pathlib import Path
from infra.postgres import embedded_postgres
embedded_postgres(Path(sys.argv[1])).start()
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="daybook-pg-"))
    yield folder
    embedded_postgres(folder, settings=SMALL).stop()
    wait_until(lambda: postmaster_pid(folder / "cluster") is None, "the server stops")
    shutil.rmtree(folder, ignore_errors=True)


def server_of(data_dir: Path) -> EmbeddedPostgres:
    return embedded_postgres(data_dir, settings=SMALL)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as conn:
        row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def test_server_is_postgres_18_with_fsync_and_a_private_socket(postgres_url: str) -> None:
    assert str(ask(postgres_url, "SHOW server_version")).startswith("18.")
    assert ask(postgres_url, "SHOW fsync") == "on"
    assert ask(postgres_url, "SHOW synchronous_commit") == "on"
    assert ask(postgres_url, "SHOW full_page_writes") == "on"
    assert ask(postgres_url, "SHOW data_checksums") == "on"
    assert ask(postgres_url, "SHOW listen_addresses") == ""
    socket_dir = Path(str(ask(postgres_url, "SHOW unix_socket_directories")))
    assert socket_dir.stat().st_mode & 0o077 == 0


def test_two_users_share_one_server_and_the_last_one_stops_it(data_dir: Path) -> None:
    first = server_of(data_dir).start()
    second = server_of(data_dir).start()
    assert first.url == second.url
    first.stop()
    assert ask(second.url, "SELECT 1") == 1
    second.stop()
    assert postmaster_pid(second.cluster) is None


def test_start_and_stop_may_be_repeated(data_dir: Path) -> None:
    server = server_of(data_dir)
    server.start()
    server.start()
    server.stop()
    server.stop()
    with pytest.raises(PostgresUnavailable, match=r"call start\(\) first"):
        _ = server.url


def test_data_survives_a_stop(data_dir: Path) -> None:
    with server_of(data_dir) as server, psycopg.connect(server.url) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 7 AS n")
    with server_of(data_dir) as server:
        assert ask(server.url, "SELECT n FROM kept") == 7


def test_server_stops_when_its_last_user_is_killed(data_dir: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_AND_WAIT, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"started\n"
        assert postmaster_pid(data_dir / "cluster") is not None
        holder.kill()
    wait_until(lambda: postmaster_pid(data_dir / "cluster") is None, "the guard stops the server")
    with server_of(data_dir) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_server_killed_with_its_sessions_starts_again(data_dir: Path) -> None:
    server = server_of(data_dir).start()
    pid = postmaster_pid(server.cluster)
    assert pid is not None
    with psycopg.connect(server.url, autocommit=True) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 7 AS n")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the server is gone")
    server.start()
    assert ask(server.url, "SELECT n FROM kept") == 7
    server.stop()


def test_stale_pid_file_naming_another_program_does_not_block_the_start(data_dir: Path) -> None:
    with server_of(data_dir) as server:
        pid_file = server.cluster / "postmaster.pid"
        lines = pid_file.read_text().split("\n")
        server.crash()
    owner = server.cluster.stat()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    os.chown(pid_file, owner.st_uid, owner.st_gid)
    pid_file.chmod(0o600)
    with server_of(data_dir) as again:
        assert ask(again.url, "SELECT 1") == 1


def test_half_made_cluster_is_made_again(data_dir: Path) -> None:
    (data_dir / "cluster.new").mkdir()
    (data_dir / "cluster.new" / "PG_VERSION").write_text("18\n")
    with server_of(data_dir) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_cluster_of_another_version_is_refused(data_dir: Path) -> None:
    (data_dir / "cluster").mkdir()
    (data_dir / "cluster" / "PG_VERSION").write_text("14\n")
    with pytest.raises(PostgresUnavailable, match="made by PostgreSQL 14, this is 18"):
        server_of(data_dir).start()


def test_failure_to_start_shows_the_servers_own_words(data_dir: Path) -> None:
    server = embedded_postgres(data_dir, settings={"shared_buffers": "nonsense"})
    with pytest.raises(PostgresUnavailable, match='invalid value for parameter "shared_buffers"'):
        server.start()


def test_long_path_uses_a_private_socket_folder_elsewhere(data_dir: Path) -> None:
    deep = data_dir / ("a-rather-long-name-" * 3) / ("b-rather-long-name-" * 3)
    with server_of(deep) as server:
        assert ask(server.url, "SELECT 1") == 1
        socket_dir = Path(str(ask(server.url, "SHOW unix_socket_directories")))
    shutil.rmtree(socket_dir)
