"""Connections as the composition root makes them: what a database's own defaults cannot change."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from infra.connections import connect, connection_pool
from infra.relay import relay_connection
from infra.settings import load_settings
from ledger import operation as op
from ledger.business_types import load_business_types
from ledger.engine import Engine
from ledger.job import Job
from projections.tables import connect_to
from tests.ledger import builders as b
from tests.ledger.booking import open_test_book

BATCHES = 40
CUT_THE_POOL = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'test-cut'
"""


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_stricter_default_of_the_database_keeps_nobody_from_seeing_what_the_lock_was_for(
    database_url: str, level: str
) -> None:
    """Two engines whose snapshots were from before the lock would decide on an old seal."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        name = conn.info.dbname
        conn.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    open_test_book(database_url)
    settings = load_settings()
    engines = [
        Engine(lambda: connect(database_url, settings, "test"), load_business_types()).start()
        for _ in range(2)
    ]
    try:
        opened = Job(book_id=b.BOOK, submissions=(b.open_account("C-1"),))
        assert isinstance(engines[0].post(opened, 60)[0], op.Answer)
        threads = [threading.Thread(target=_post, args=(engine,)) for engine in engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        for engine in engines:
            engine.stop()
    with connect_to(database_url) as conn:
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
        balance = conn.execute("SELECT balance FROM ledger.accounts").fetchone()
        assert balance == (2 * BATCHES,)


def _post(engine: Engine) -> None:
    for _ in range(BATCHES):
        credited = b.post("recharge", b.credit("C-1", 1))
        (answer,) = engine.post(Job(book_id=b.BOOK, submissions=(credited,)), 60)
        assert isinstance(answer, op.Answer), answer


@pytest.mark.parametrize(
    "opened",
    [
        relay_connection,
        connect_to,
        lambda url: connect(url, load_settings(), "test"),
    ],
    ids=["relay", "accounting", "ledger"],
)
def test_a_peer_that_is_gone_without_a_word_is_noticed(
    database_url: str, opened: Callable[[str], Connection[Any]]
) -> None:
    """The kernel is told so, for each way to connect: it asks a silent peer and gives up."""
    with over_tcp(database_url) as url, opened(url) as conn:
        with socket.socket(fileno=os.dup(conn.fileno())) as wire:
            tcp = {
                name: wire.getsockopt(socket.IPPROTO_TCP, option)
                for name, option in (
                    ("user_timeout_ms", socket.TCP_USER_TIMEOUT),
                    ("idle_s", socket.TCP_KEEPIDLE),
                    ("interval_s", socket.TCP_KEEPINTVL),
                )
            }
            asks = wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert conn.info.get_parameters()["connect_timeout"] == "5"
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
    assert asks == 1
    assert tcp == {"user_timeout_ms": 20_000, "idle_s": 20, "interval_s": 5}


def test_after_a_cut_the_next_caller_is_served_however_many_connections_lay_ready(
    database_url: str,
) -> None:
    ready = 6
    with connection_pool(database_url, load_settings(), "test-cut") as pool:
        with ExitStack() as held:
            for _ in range(ready):
                held.enter_context(pool.connection())
        assert pool.get_stats()["pool_available"] == ready
        with psycopg.connect(database_url, autocommit=True) as admin:
            cut = admin.execute(CUT_THE_POOL).fetchone()
            assert cut == (ready,)
        with pool.connection() as conn:  # would raise PoolTimeout: more deaths than patience
            assert conn.execute("SELECT 1").fetchone() == (1,)


@contextmanager
def over_tcp(database_url: str) -> Iterator[str]:
    """The server's address over TCP: what comes is handed to its socket by a thread."""
    given = conninfo_to_dict(database_url)
    path = f"{given['host']}/.s.PGSQL.{given.get('port', 5432)}"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hand_on() -> None:
            caller, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(path)
            back = threading.Thread(target=pump, args=(server, caller))
            with caller, server:
                back.start()
                pump(caller, server)
                back.join()

        handing_on = threading.Thread(target=hand_on)
        handing_on.start()
        port = listener.getsockname()[1]
        tcp = {**given, "host": "127.0.0.1", "port": port, "gssencmode": "disable"}
        yield make_conninfo(**{**tcp, "sslmode": "disable"})
        handing_on.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
