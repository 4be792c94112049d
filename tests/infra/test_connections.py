"""Connections as the composition root makes them: what a database's own defaults cannot change."""

from __future__ import annotations

import threading

import psycopg
import pytest

from infra.connections import connect
from infra.settings import load_settings
from ledger import operation as op
from ledger.business_types import load_business_types
from ledger.engine import Engine
from ledger.job import Job
from projections.tables import connect_to
from tests.ledger import builders as b
from tests.ledger.booking import open_test_book

BATCHES = 40


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
