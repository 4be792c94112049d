"""Heads in memory: as good as those of the tables, and only as long as they are.

Method: a booker that has read what was in use, on real PostgreSQL, beside an engine that goes on;
what it books, what it reads again and what the audit says show which heads it decided on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import Cursor

from ledger.account import Account
from ledger.audit import verify
from ledger.booking import Booker, Clocks
from ledger.business_types import load_business_types
from ledger.head_cache import RECENT_EVENTS, HeadCache, warm
from ledger.heads import select_accounts_in_tx
from ledger.job import Job
from ledger.log import Log
from ledger.operation import Answer, Submission
from ledger.statement import ROWS_MAX
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.builders import BOOK, account, credit, debit, freeze, hold, post, release
from tests.waiting import wait_until

WAITING_FOR_LOCK = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)
NUMBERS = ["A-1", "A-2", "A-3"]


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """Three accounts: one with a hold, one with an amount frozen, one plain."""
    with running_ledger(database_url) as ledger:
        ledger.open(*NUMBERS)
        ledger.post(*(post("recharge", credit(number, 1_000)) for number in NUMBERS))
        ledger.answer(post("hold", hold("A-1", 300)))
        ledger.answer(post("freeze", freeze("A-2", 200)))
        yield ledger


@contextmanager
def booker_on(ledger: Ledger) -> Iterator[Booker]:
    """A booker of another process, that has just started."""
    booker = Booker(
        lambda: psycopg.connect(ledger.database_url, autocommit=True),
        load_business_types(),
        Clocks(),
        2.0,
    )
    booker.warm()
    try:
        yield booker
    finally:
        booker.drop_connection()


def book(booker: Booker, *submissions: Submission) -> list[Answer]:
    """Book submissions as one batch."""
    (results,) = booker.book([Job(book_id=BOOK, submissions=submissions)])
    assert isinstance(results, list)
    assert all(isinstance(result, Answer) for result in results), results
    return results  # type: ignore[return-value]


def note_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the number of each account that is read from the table."""
    read: list[str] = []

    def reading(
        cursor: Cursor[Any], book_id: str, numbers: Iterable[str]
    ) -> dict[str, Account | None]:
        wanted = list(numbers)
        read.extend(wanted)
        return select_accounts_in_tx(cursor, book_id, wanted)

    monkeypatch.setattr("ledger.head_cache.select_accounts_in_tx", reading)
    return read


def test_what_was_in_use_is_in_memory_with_all_its_details(ledger: Ledger) -> None:
    cache = HeadCache()
    with psycopg.connect(ledger.database_url, autocommit=True) as conn:
        warm(conn, Log(), cache)
        with conn.cursor() as cursor:
            stored = select_accounts_in_tx(cursor, BOOK, NUMBERS)
            last_seal = Log().select_end_in_tx(cursor, BOOK).seal
    assert {number: cache.current(BOOK, number) for number in NUMBERS} == stored
    held, frozen = stored["A-1"], stored["A-2"]
    assert isinstance(held, Account)
    assert held.holds
    assert isinstance(frozen, Account)
    assert frozen.freezes
    cache.enter(last_seal)  # as the first batch does: nobody has committed since
    assert cache.current(BOOK, "A-1") == held


def test_a_start_reads_only_as_much_as_the_end_of_the_log_says(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RECENT_EVENTS >= 10_000
    monkeypatch.setattr("ledger.head_cache.RECENT_EVENTS", 2)  # the freeze's record and its event
    cache = HeadCache()
    with psycopg.connect(ledger.database_url, autocommit=True) as conn:
        warm(conn, Log(), cache)
    assert [cache.current(BOOK, number) is not None for number in NUMBERS] == [False, True, False]


def test_the_first_batch_decides_on_the_heads_read_at_the_start(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with booker_on(ledger) as booker:
        read = note_reads(monkeypatch)
        ended, moved = book(
            booker,
            post("release", release("A-1", 300)),
            post("transfer", debit("A-2", 800), credit("A-3", 800)),
        )
    assert (ended.status, moved.status) == ("booked", "booked")
    assert read == []
    with psycopg.connect(ledger.database_url) as conn:
        assert verify(conn).difference is None


def test_what_another_engine_booked_since_the_start_is_not_overlooked(ledger: Ledger) -> None:
    with booker_on(ledger) as booker:
        ledger.answer(post("transfer", debit("A-3", 900), credit("A-2", 900)))
        refused, booked = book(
            booker,
            post("transfer", debit("A-3", 900), credit("A-2", 900)),
            post("transfer", debit("A-2", 1_700), credit("A-3", 1_700)),
        )
    assert (refused.status, refused.code) == ("rejected", "insufficient_funds")
    assert booked.status == "booked"
    with psycopg.connect(ledger.database_url) as conn:
        assert verify(conn).difference is None


def test_a_start_without_a_database_reads_nothing_and_books_later(ledger: Ledger) -> None:
    down = True

    def connect() -> psycopg.Connection[tuple[object, ...]]:
        if down:
            raise psycopg.OperationalError("nobody listens")
        return psycopg.connect(ledger.database_url, autocommit=True)

    booker = Booker(connect, load_business_types(), Clocks(), 2.0)
    booker.warm()
    down = False
    try:
        (answer,) = book(booker, post("transfer", debit("A-3", 1), credit("A-2", 1)))
    finally:
        booker.drop_connection()
    assert answer.status == "booked"


def account_of(book_id: str, number: str) -> Account:
    return account(number, book_id=book_id)


def test_accounts_of_two_books_under_one_number_are_two_heads() -> None:
    ours, theirs = account_of("ours", "A"), account_of("theirs", "A")
    cache = HeadCache()
    cache.put_all([ours, theirs])
    assert cache.current("ours", "A") is ours
    cache.withdraw([ours])
    assert (cache.seen("ours", "A"), cache.seen("theirs", "A")) == (None, theirs)


def test_after_another_seal_no_head_counts_as_current_and_each_is_still_there_to_compare() -> None:
    ours = account_of("ours", "A")
    cache = HeadCache()
    cache.enter(b"first")
    cache.put_all([ours])
    cache.enter(b"first")
    assert cache.current("ours", "A") is ours
    cache.enter(b"of another engine")
    assert (cache.current("ours", "A"), cache.seen("ours", "A")) == (None, ours)
    newer = account("A", book_id="ours", version=2)
    cache.put_all([newer])
    assert (cache.current("ours", "A"), cache.seen("ours", "A")) == (newer, newer)
    cache.withdraw([newer])
    assert (cache.current("ours", "A"), cache.seen("ours", "A")) == (None, None)


def test_a_full_memory_forgets_all_heads_before_it_keeps_more() -> None:
    cache = HeadCache(size_max=1)
    for number in ("A", "B", "C"):
        cache.put_all([account_of("ours", number)])
    assert [cache.seen("ours", number) is not None for number in "ABC"] == [False, False, True]


def test_heads_read_from_rows_share_the_words_that_they_have_alike(ledger: Ledger) -> None:
    with psycopg.connect(ledger.database_url) as conn, conn.cursor() as cursor:
        found = select_accounts_in_tx(cursor, BOOK, NUMBERS)
    one, other = found["A-2"], found["A-3"]
    assert one is not None
    assert other is not None
    shared = ("book_id", "type", "subject", "currency", "normal_side", "status", "business_date")
    assert [name for name in shared if getattr(one, name) is not getattr(other, name)] == []


def test_accounts_that_have_no_holds_freezes_or_limits_share_one_none() -> None:
    one, other = account("A"), account("B")
    assert one.holds is other.holds
    assert one.freezes is other.freezes
    assert one.limits is other.limits


# --- beside another engine ----------------------------------------------------------------


def test_only_what_another_engine_touched_is_read_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = note_reads(monkeypatch)
    with booker_on(ledger) as booker:
        ledger.answer(post("recharge", credit("A-3", 5)))
        ledger.answer(post("recharge", credit("A-3", 5)))
        read.clear()  # the engine's own
        book(booker, post("transfer", debit("A-1", 1), credit("A-2", 1)))
        assert read == []
        (moved,) = book(booker, post("transfer", debit("A-3", 1_010), credit("A-2", 1_010)))
        assert read == ["A-3"]
    assert moved.status == "booked"
    with psycopg.connect(ledger.database_url) as conn:
        assert verify(conn).difference is None


def test_when_too_much_happened_every_head_is_compared(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = note_reads(monkeypatch)
    monkeypatch.setattr("ledger.log.FOREIGN_ROWS_MAX", 1)
    with booker_on(ledger) as booker:
        ledger.answer(post("recharge", credit("A-3", 5)))
        read.clear()
        book(booker, post("transfer", debit("A-3", 1_005), credit("A-2", 1_005)))
    assert read == ["A-3"], "the version of the other one was compared and is the same"
    with psycopg.connect(ledger.database_url) as conn:
        assert verify(conn).difference is None


def test_what_was_touched_is_told_of_a_seal_of_this_log_only(ledger: Ledger) -> None:
    log = Log()
    with psycopg.connect(ledger.database_url, autocommit=True) as conn:
        with log.entered(conn, BOOK, b"") as (_, first):
            assert first.touched is None
        with log.entered(conn, BOOK, first.end.seal) as (_, same):
            assert same.touched is None, "nothing was sealed on it; there is nothing to say"
            assert same.end == first.end
        ledger.answer(post("transfer", debit("A-3", 1), credit("A-2", 1)))
        with log.entered(conn, BOOK, first.end.seal) as (_, later):
            assert sorted(later.touched or []) == [(BOOK, "A-2"), (BOOK, "A-3")]
            assert later.days == ("2026-01-31", None)
        with log.entered(conn, BOOK, bytes(32)) as (_, whole):  # what the first commit stands on
            assert {number for _, number in whole.touched or []} == set(NUMBERS)
        with log.entered(conn, "no-book", b"\x01" * 32) as (_, foreign):
            assert (foreign.touched, foreign.days) == (None, None)


@pytest.mark.parametrize("beside", [1, ROWS_MAX // 2])  # as one statement; by COPY
def test_an_id_that_another_engine_has_booked_gets_the_first_answer(
    ledger: Ledger, beside: int
) -> None:
    paid = post("recharge", credit("A-1", 5), operation_id="paid")
    others = [post("recharge", credit("A-3", 1)) for _ in range(beside)]
    with booker_on(ledger) as booker:
        book(booker, post("recharge", credit("A-2", 1)))  # nothing is repeated, so far
        first = ledger.answer(paid)
        again, *rest = book(booker, paid, *others)
        assert (again.replayed, again.position) == (True, first.position)
        assert {answer.status for answer in rest} == {"booked"}
    with psycopg.connect(ledger.database_url) as conn:
        assert verify(conn).difference is None


def test_who_comes_while_a_batch_waits_for_the_lock_rides_along(ledger: Ledger) -> None:
    early = Job(book_id=BOOK, submissions=(post("recharge", credit("A-1", 1)),))
    late = Job(book_id=BOOK, submissions=(post("recharge", credit("A-2", 1)),))
    seals = "SELECT count(*) FROM ledger.seals"
    with booker_on(ledger) as other_engine:
        book(other_engine, post("recharge", credit("A-3", 1)))
    ledger.answer(post("recharge", credit("A-3", 1)))  # notices that it has company
    with psycopg.connect(ledger.database_url) as other:
        Log().lock_log_in_tx(other.cursor(), BOOK)
        before = ledger.rows(seals)[0][0]
        tickets = [ledger.engine.submit(early)]
        wait_until(lambda: ledger.rows(WAITING_FOR_LOCK)[0][0] == 1, "the engine to wait")
        tickets.append(ledger.engine.submit(late))
        other.rollback()
    assert {str(getattr(ticket.results(60)[0], "status", "")) for ticket in tickets} == {"booked"}
    assert ledger.rows(seals)[0][0] == before + 1
