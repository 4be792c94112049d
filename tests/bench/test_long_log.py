"""A filled log is one that the engine could have written: it is audited, read and gone on with."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest

from bench.documents import Documents
from bench.in_process import engine_s
from bench.long_log import LongLog, fill
from bench.place import BOOK, engine_on, open_funded_accounts, parser
from infra.audit import replay, verify
from infra.postgres import EmbeddedPostgres
from ledger.recall import select_records_in_tx
from tests.fix_postgres import fresh_database

BLOCK = 1_500
EVENTS = 40_000 + 3 * 2 * BLOCK + 100  # the accounts' openings, the block, two copies of it


@pytest.fixture(scope="module")
def filled(
    postgres_server: EmbeddedPostgres, template_database: str
) -> Iterator[tuple[str, LongLog]]:
    """A database whose log was filled, and what is known of it."""
    with fresh_database(postgres_server, template_database) as url:
        open_funded_accounts(url)
        yield url, fill(url, EVENTS, block_operations=BLOCK)


def test_filled_log_passes_the_audit_before_and_after_the_engine_goes_on(
    filled: tuple[str, LongLog],
) -> None:
    url, log = filled
    assert log.copies == 2
    assert log.events == EVENTS - 100 + 3
    with psycopg.connect(url, autocommit=True) as conn:
        before = verify(conn)
        with engine_on(url, batch_size_max=500) as engine:
            engine_s(engine, parser(), Documents(seed=1).transfers(1_000), 500)
        after = verify(conn)
    assert (before.difference, after.difference) == (None, None)
    assert after.events == before.events + 3_000


def test_ids_of_the_whole_log_are_found_and_others_are_not(filled: tuple[str, LongLog]) -> None:
    url, log = filled
    pick = random.Random(1)
    known = {log.known_id(pick) for _ in range(300)}
    unknown = {log.unknown_id(pick) for _ in range(300)}
    with psycopg.connect(url, autocommit=True) as conn, conn.cursor() as cursor:
        assert select_records_in_tx(cursor, BOOK, known).keys() == known
        assert select_records_in_tx(cursor, BOOK, unknown) == {}
        stored = conn.execute(
            "SELECT count(DISTINCT originator_id) FROM ledger.stored_events "
            "WHERE topic = 'ledger.recorded:OperationBooked' AND originator_version = 1"
        ).fetchone()
    assert stored is not None
    assert stored[0] >= 10_000 + 3 * BLOCK  # the fundings, the block and its copies: all different


def test_an_account_of_the_block_has_its_events_once_for_every_copy(
    filled: tuple[str, LongLog],
) -> None:
    url, log = filled
    with psycopg.connect(url, autocommit=True) as conn:
        replayed = replay(conn, BOOK, log.account)
    moved = log.block.moved[log.account]
    assert len(replayed.events) >= 2 + 3 * moved.events
    assert replayed.account.debit_total_minor >= 3 * moved.debits
