"""Business dates opened by schedule: which date is due, forward only, safe beside others."""

from __future__ import annotations

import datetime as dt
import threading

import psycopg
import pytest

from infra.day_schedule import (
    DaySchedule,
    ScheduleRefused,
    day_schedule,
    keep_days,
    open_due_days,
)
from infra.settings import load_settings, with_overrides
from ledger.audit import verify
from ledger.books import open_book, select_book, select_books
from tests.waiting import wait_until


def schedule(at: str = "00:00", zone: str = "UTC", books: str = "main") -> DaySchedule:
    """Read a schedule as the settings give it."""
    given = {"day_opens_at": at, "day_timezone": zone, "day_books": books}
    found = day_schedule(with_overrides(load_settings(), **given))
    assert found is not None
    return found


def instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("at", "zone", "now", "due"),
    [
        ("00:00", "UTC", "2026-01-31T00:00:00Z", "2026-01-31"),
        ("00:00", "UTC", "2026-01-30T23:59:59Z", "2026-01-30"),
        ("23:30", "UTC", "2026-01-31T23:29:59Z", "2026-01-30"),
        ("23:30", "UTC", "2026-01-31T23:30:00Z", "2026-01-31"),
        ("00:00", "Asia/Shanghai", "2026-01-30T15:59:59Z", "2026-01-30"),
        ("00:00", "Asia/Shanghai", "2026-01-30T16:00:00Z", "2026-01-31"),
    ],
)
def test_the_date_that_is_due_is_the_zones(at: str, zone: str, now: str, due: str) -> None:
    assert schedule(at, zone).due_date(instant(now)) == dt.date.fromisoformat(due)


def test_there_is_no_schedule_unless_it_is_set_and_a_wrong_one_is_refused() -> None:
    assert day_schedule(load_settings()) is None
    with pytest.raises(ScheduleRefused, match="no zone 'Mars/Base'"):
        schedule(zone="Mars/Base")


@pytest.fixture
def two_books(database_url: str) -> str:
    """The books `main` and `past`, both with 2026-01-30 open."""
    with psycopg.connect(database_url) as conn:
        for book_id in ("main", "past"):
            open_book(conn, book_id, book_id, dt.date(2026, 1, 30), principal="test")
    return database_url


def open_dates(database_url: str) -> dict[str, str]:
    with psycopg.connect(database_url) as conn:
        return {book.book_id: str(book.open_business_date) for book in select_books(conn)}


def test_a_due_day_is_opened_once_and_only_in_the_books_it_names(two_books: str) -> None:
    now = instant("2026-02-02T08:00:00Z")
    assert [book.book_id for book in open_due_days(two_books, schedule(), now)] == ["main"]
    assert open_due_days(two_books, schedule(), now) == []
    assert open_due_days(two_books, schedule(), now - dt.timedelta(days=1)) == []
    assert open_dates(two_books) == {"main": "2026-02-02", "past": "2026-01-30"}
    with psycopg.connect(two_books, autocommit=True) as conn:
        assert str(select_book(conn, "main").closed_through) == "2026-02-01"
        assert verify(conn).difference is None


def test_a_book_that_is_not_there_does_not_keep_the_others(two_books: str) -> None:
    moved = open_due_days(two_books, schedule(books="gone, past"), instant("2026-01-31T00:00:00Z"))
    assert [book.book_id for book in moved] == ["past"]


def test_two_keepers_follow_the_clock_and_a_lost_database(two_books: str) -> None:
    # given two processes' loops, the first connections of one of them refused
    now = [instant("2026-01-31T00:00:00Z")]
    stop = threading.Event()
    keepers = [
        threading.Thread(
            target=keep_days,
            args=(two_books, schedule(), stop),
            kwargs={"pause_s": 0.02, "clock": lambda: now[0]},
        )
        for _ in range(2)
    ]
    for keeper in keepers:
        keeper.start()
    try:
        # when the clock passes midnights, and connections are killed meanwhile
        for day in ("2026-01-31", "2026-02-01", "2026-02-02"):
            now[0] = instant(f"{day}T00:00:00Z")
            with psycopg.connect(two_books, autocommit=True) as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            wait_until(lambda day=day: open_dates(two_books)["main"] == day, f"{day} is open")
    finally:
        stop.set()
        for keeper in keepers:
            keeper.join(10)
    # then each day was opened by one event
    with psycopg.connect(two_books, autocommit=True) as conn:
        found = conn.execute(
            "SELECT count(*) FROM ledger.stored_events WHERE topic LIKE '%:DayOpened'"
        ).fetchone()
        assert found == (3,)
        assert verify(conn).difference is None
