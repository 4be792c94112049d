"""API processes of one host in one loop: each with its engine, its bridge, and what they share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from ledger.admission import Admission, AdmissionLimits
from ledger.api_bridge import EngineBridge, Waiting
from ledger.business_types import load_business_types
from ledger.engine import Engine, EngineSettings
from ledger.job import Job
from ledger.operation import Answer
from ledger.shared_engine import SharedEngine
from tests.ledger.builders import BOOK, credit, post

QUIET = EngineSettings(sweep_interval_s=3_600)
LOG = "this-log"
PATIENCE_S = 60.0
LOCK_LOG = "SELECT pg_advisory_xact_lock(1145393475, hashtext('ledger'))"
COUNT_WAITERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
SELECT_SEAL_OF = """
    SELECT s.first_id FROM ledger.seals s JOIN ledger.stored_events e
      ON e.notification_id BETWEEN s.first_id AND s.last_id
    WHERE e.topic = 'ledger.recorded:OperationBooked'
      AND convert_from(e.state, 'UTF8')::json ->> 'operation_id' = %s
"""


class Process:
    """What one API process has between its HTTP side and the database."""

    def __init__(
        self, database_url: str, folder: Path, settings: EngineSettings = QUIET, log: str = LOG
    ) -> None:
        self.engine = Engine(
            lambda: psycopg.connect(database_url, autocommit=True), load_business_types(), settings
        ).start()
        self.shared = SharedEngine(self.engine, folder, lambda: log)
        admission = Admission(AdmissionLimits(), frozenset(), time.monotonic)
        self.bridge = EngineBridge(self.shared, admission, patience_s=PATIENCE_S)
        self.bridge.start()
        self.shared.start()

    def post(self, *names: str, **more: Any) -> list[Waiting]:
        """Recharge C-1 by 1 under each of these ids."""
        return [
            self.bridge.post(
                Job(
                    book_id=BOOK,
                    submissions=(post("recharge", credit("C-1", 1), operation_id=name),),
                    **more,
                )
            )
            for name in names
        ]

    async def stop(self) -> None:
        """Drain, as the lifespan does."""
        self.bridge.close()
        await self.shared.stop(30)


@asynccontextmanager
async def process(database_url: str, folder: Path, **more: Any) -> AsyncIterator[Process]:
    """Run one for a while."""
    running = Process(database_url, folder, **more)
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def booking_and_handing(
    database_url: str, folder: Path, **more: Any
) -> AsyncIterator[tuple[Process, Process]]:
    """Run two that share: the one that books, and the one that hands over."""
    async with process(database_url, folder, **more) as first:
        await until(lambda: first.shared.books_for_others, "the first books for others")
        async with process(database_url, folder) as second:
            await until(lambda: second.shared.hands_over, "the second hands over")
            yield first, second


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the loop turn until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        await asyncio.sleep(0.01)


@contextmanager
def log_locked(database_url: str) -> Iterator[Callable[[int], bool]]:
    """Hold the log's lock; gives a look whether so many wait for it."""
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url) as looker:
        looker.autocommit = True
        holder.execute(LOCK_LOG)

        def waiters(count: int) -> bool:
            return looker.execute(COUNT_WAITERS).fetchone() == (count,)

        yield waiters


async def answers_to(waiting: list[Waiting]) -> list[Answer]:
    """Return the answer to each posting; an error is raised."""
    answers: list[Answer] = []
    for (result,) in await asyncio.gather(*waiting):
        assert isinstance(result, Answer), result
        assert result.status == "booked"
        answers.append(result)
    return answers


def names(prefix: str, count: int) -> list[str]:
    """Return operation ids."""
    return [f"{prefix}-{number}" for number in range(count)]
