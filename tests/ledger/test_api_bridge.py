"""The bridge from the event loop to the engine's thread, on real PostgreSQL."""

from __future__ import annotations

import asyncio
import time

import pytest

from ledger.admission import Admission, AdmissionLimits
from ledger.api_bridge import EngineBridge
from ledger.engine import EngineSettings
from ledger.errors import EngineStopped, LedgerError, Overloaded
from ledger.job import Job
from ledger.operation import Answer
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.builders import BOOK, credit, post

CALLERS = 20


def bridge_to(ledger: Ledger) -> EngineBridge:
    """A bridge of the running loop; it pushes nobody back."""
    admission = Admission(AdmissionLimits(), frozenset(), time.monotonic)
    bridge = EngineBridge(ledger.engine, admission, patience_s=30.0)
    bridge.start()
    return bridge


async def post_at_once(ledger: Ledger, count: int) -> list[object]:
    """Post from so many callers in one turn of the loop; return what each is answered."""
    bridge = bridge_to(ledger)
    submissions = [post("recharge", credit("C-1", 1), operation_id=f"o-{n}") for n in range(count)]
    posted = [bridge.post(Job(book_id=BOOK, submissions=(each,))) for each in submissions]
    try:
        return list(await asyncio.gather(*posted, return_exceptions=True))
    finally:
        bridge.close()


def test_callers_that_come_in_one_turn_of_the_loop_are_booked_in_one_commit(
    database_url: str,
) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        before = ledger.rows("SELECT count(*) FROM ledger.seals")[0][0]

        results = asyncio.run(post_at_once(ledger, CALLERS))

        assert ledger.rows("SELECT count(*) FROM ledger.seals")[0][0] == before + 1
    ids = [result[0].operation_id for result in results if isinstance(result, list)]
    assert ids == [f"o-{number}" for number in range(CALLERS)]


def test_who_finds_the_queue_full_hears_so_and_the_others_are_booked(database_url: str) -> None:
    settings = EngineSettings(queue_size_max=CALLERS - 5)
    with running_ledger(database_url, settings=settings) as ledger:
        ledger.open("C-1")

        results = asyncio.run(post_at_once(ledger, CALLERS))

        assert [type(result) for result in results[-5:]] == [Overloaded] * 5
        booked = [result[0] for result in results if isinstance(result, list)]
        assert len(booked) == CALLERS - 5
        assert all(isinstance(answer, Answer) and answer.status == "booked" for answer in booked)
        (account,) = ledger.rows("SELECT balance FROM ledger.accounts WHERE number = 'C-1'")
        assert account == (CALLERS - 5,)


@pytest.mark.parametrize("count", [1, 3])
def test_a_draining_engine_refuses_every_caller_of_the_turn(database_url: str, count: int) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        ledger.engine.stop()

        results: list[object] = asyncio.run(post_at_once(ledger, count))

    assert [type(result) for result in results] == [EngineStopped] * count
    assert all(isinstance(result, LedgerError) for result in results)
