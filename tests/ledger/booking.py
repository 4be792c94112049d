"""A ledger that really books: an engine on a test's own database, in a few words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from ledger import operation as op
from ledger.batch import Job
from ledger.books import open_book, open_day
from ledger.business_types import load_business_types
from ledger.engine import Engine, EngineSettings
from tests.ledger.builders import BOOK, DAY, PRINCIPAL, open_account

FAST = EngineSettings(sweep_interval_s=0.05)


class FixedClock:
    """A clock that a test moves by hand; `steady` moves with it unless the test says `jump`.

    It starts some minutes ahead of the real clock that the test's book was opened by.
    """

    def __init__(self, ahead_s: float = 600.0) -> None:
        self.now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead_s)
        self.steady_s = 1000.0

    def __call__(self) -> dt.datetime:
        return self.now

    def steady(self) -> float:
        return self.steady_s

    def pass_time(self, seconds: float) -> None:
        """Let time go by."""
        self.now += dt.timedelta(seconds=seconds)
        self.steady_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as an administrator would."""
        self.now += dt.timedelta(seconds=seconds)


class Ledger:
    """An engine with its database; posting returns answers or raises."""

    def __init__(self, database_url: str, engine: Engine) -> None:
        self.database_url = database_url
        self.engine = engine

    def post(self, *submissions: op.Submission, **more: Any) -> list[op.Result]:
        """Post submissions as one job and return their results."""
        return self.engine.post(Job(book_id=BOOK, submissions=submissions, **more), 60)

    def answer(self, submitted: op.Submission) -> op.Answer:
        """Post one submission; an error is raised."""
        result = self.post(submitted)[0]
        if isinstance(result, Exception):
            raise result
        return result

    def open(self, *numbers: str, **facts: Any) -> None:
        """Open accounts."""
        for result in self.post(*(open_account(number, **facts) for number in numbers)):
            assert isinstance(result, op.Answer), result
            assert result.status == "booked", result

    def open_day(self, date: str) -> None:
        """Move the open business date."""
        with psycopg.connect(self.database_url) as conn:
            open_day(conn, BOOK, dt.date.fromisoformat(date), principal=PRINCIPAL)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read from the database."""
        with psycopg.connect(self.database_url) as conn:
            return conn.execute(query.encode(), values).fetchall()


def open_test_book(database_url: str, date: str = DAY) -> None:
    """Open the tests' book."""
    with psycopg.connect(database_url) as conn:
        open_book(conn, BOOK, "Main book", dt.date.fromisoformat(date), principal=PRINCIPAL)


@contextmanager
def running_ledger(
    database_url: str,
    *,
    date: str = DAY,
    settings: EngineSettings = FAST,
    connect: Callable[[], psycopg.Connection[Any]] | None = None,
    **more: Any,
) -> Iterator[Ledger]:
    """Open the book and run an engine on it for a while."""
    open_test_book(database_url, date)
    opened = connect or (lambda: psycopg.connect(database_url, autocommit=True))
    engine = Engine(opened, load_business_types(), settings, **more).start()
    try:
        yield Ledger(database_url, engine)
    finally:
        engine.stop()
