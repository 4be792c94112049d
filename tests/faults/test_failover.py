"""The primary is lost under load: its synchronous standby has everything that was acknowledged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import parse_qs, quote, urlsplit

import psycopg

from infra.postgres import EmbeddedPostgres, binaries, embedded_postgres
from infra.postgres_owner import owner_of_server
from tests.faults.load import SeededLoad
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.probe import open_probe, probe
from tests.faults.scene import running_scene
from tests.faults.servers import own_folder, server_in
from tests.faults.verdicts import Fault
from tests.fix_postgres import SMALL
from tests.waiting import wait_until


def socket_of(server: EmbeddedPostgres) -> str:
    """The folder of a server's socket, which is its host."""
    return parse_qs(urlsplit(server.url).query)["host"][0]


@contextlib.contextmanager
def standby_of(primary: EmbeddedPostgres, folder: Path) -> Iterator[EmbeddedPostgres]:
    """A standby that streams from the primary; from then on no commit is one without it."""
    standby = embedded_postgres(folder, settings=SMALL)
    standby.data_dir.mkdir()
    standby._owner = owner_of_server(binaries(), standby.cluster)
    standby._owner.let_through(standby.data_dir)
    standby._own_dir(standby.cluster)
    came_from = f"host={socket_of(primary)} user=postgres application_name=standby"
    words = ("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast")
    standby._run("pg_basebackup", "--pgdata", str(standby.cluster), "-d", came_from, *words)
    with server_in(folder) as started:
        with psycopg.connect(primary.url, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            admin.execute("SELECT pg_reload_conf()")
            wait_until(
                lambda: (
                    admin.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
                    == [("sync",)]
                ),
                "the standby is synchronous",
            )
        yield started


def address_of(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> str:
    """One address of both, the primary first."""
    hosts = f"{quote(socket_of(primary), safe='')},{quote(socket_of(standby), safe='')}"
    return f"postgresql://postgres@/daybook?host={hosts}&target_session_attrs=read-write"


def test_a_lost_primary_is_replaced_by_its_standby(tmp_path: Path, fault: Fault) -> None:
    fault.name = "database: failover to the synchronous standby"
    with (
        own_folder("failover") as folder,
        server_in(folder / "a") as primary,
        standby_of(primary, folder / "b") as standby,
    ):
        both = address_of(primary, standby)
        with running_scene(tmp_path, both) as scene:
            open_probe(scene)
            with SeededLoad(scene, seed=fault.seed) as load:
                load.wait_for_more(100)
                primary.crash()
                assert probe(scene).status_code == 503
                with psycopg.connect(standby.url, autocommit=True) as admin:
                    admin.execute("SELECT pg_promote()")
                load.wait_for_more(100)
            assert_nothing_lost(standby.url, load)
    fault.recovered("all parts found the promoted standby by the second host of their address")


def test_an_old_primary_that_comes_back_is_not_believed(tmp_path: Path, fault: Fault) -> None:
    """It is the first host of the address, takes writes, and has what the standby never got: a
    repeat of that was answered from it, and was lost with it."""
    fault.name = "database: failover, and the old primary comes back as if nothing had been"
    with (
        own_folder("comeback") as folder,
        server_in(folder / "a") as primary,
        standby_of(primary, folder / "b") as standby,
    ):
        both = address_of(primary, standby)
        with (
            running_scene(tmp_path, both) as scene,
            psycopg.connect(standby.url, autocommit=True) as admin,
        ):
            open_probe(scene)
            with SeededLoad(scene, seed=fault.seed) as load:
                load.wait_for_more(100)
                admin.execute("ALTER SYSTEM SET primary_conninfo = ''")
                admin.execute("SELECT pg_reload_conf()")
                wait_until(lambda: waits_for_standby(primary), "commits wait for the standby")
                primary.crash()
                primary.start()
                assert probe(scene).status_code == 503, "nobody commits now"
                admin.execute("SELECT pg_promote()")
                load.wait_for_more(100)
                lonely = operations_in(primary) - operations_in(standby)
            assert lonely == set(), "what only the old one has was asked again, and booked here"
            assert_nothing_lost(standby.url, load)
            assert len(operations_in(standby)) > len(operations_in(primary))
    fault.recovered("no part believes a host that does not commit; all work on the promoted one")


def waits_for_standby(server: EmbeddedPostgres) -> bool:
    """Tell whether the engine's commit waits there for a standby."""
    return bool(
        rows_of(
            server,
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' "
            "AND application_name = 'daybook-engine'",
        )
    )


def operations_in(server: EmbeddedPostgres) -> set[str]:
    """The ids of the operations that a server has booked."""
    query = """
        SELECT convert_from(state, 'UTF8')::jsonb ->> 'operation_id' FROM ledger.stored_events
        WHERE topic = 'ledger.recorded:OperationBooked'
    """
    return {row[0] for row in rows_of(server, query)}


def rows_of(server: EmbeddedPostgres, query: LiteralString) -> list[tuple[Any, ...]]:
    """Read from a server."""
    with psycopg.connect(server.url) as conn:
        return conn.execute(query).fetchall()
