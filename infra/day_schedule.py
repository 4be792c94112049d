"""The schedule that opens business days: at a time of day, in a zone, for named books.

It gives the same command that a person gives (`daybook day open`), under the same lock; a batch
never looks at a clock for its date. Invariant: days only move forward, and repeating the command,
from here or from several processes, changes nothing.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
import structlog

from infra.settings import Settings
from ledger.books import Book, open_day, select_book
from ledger.clock import utc_now
from ledger.deadlines import DEADLINES
from ledger.errors import LedgerError
from ledger.failover import CommittingConnection

SCHEDULE_PRINCIPAL = "schedule"

log = structlog.get_logger("infra.day_schedule")


class ScheduleRefused(Exception):
    """The schedule cannot be read: no time of day, or a zone that this machine does not know."""


@dataclass(frozen=True)
class DaySchedule:
    """When a new business date begins, and for which books."""

    opens_at: dt.time
    zone: ZoneInfo
    books: tuple[str, ...]

    def due_date(self, now: dt.datetime) -> dt.date:
        """Return the business date that should be open at an instant."""
        local = now.astimezone(self.zone)
        begun = local.time() >= self.opens_at
        return local.date() if begun else local.date() - dt.timedelta(days=1)


def day_schedule(settings: Settings) -> DaySchedule | None:
    """Read the schedule of the settings, None when there is none. Raises `ScheduleRefused`."""
    if settings.day_opens_at is None:
        return None
    opens_at = dt.time.fromisoformat(settings.day_opens_at)
    try:
        zone = ZoneInfo(settings.day_timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ScheduleRefused(f"this machine knows no zone {settings.day_timezone!r}") from error
    named = tuple(name.strip() for name in settings.day_books.split(",") if name.strip())
    return DaySchedule(opens_at, zone, named or (settings.book,))


def open_due_days(database_url: str, schedule: DaySchedule, now: dt.datetime) -> list[Book]:
    """Open the day that is due in every book of the schedule; return those that moved.

    Raises `psycopg.Error`; a book that is not there, or not to be moved, does not keep the others.
    """
    date = schedule.due_date(now)
    moved = []
    with CommittingConnection.connect(database_url, autocommit=True, **DEADLINES) as conn:
        for book_id in schedule.books:
            try:
                before = select_book(conn, book_id)
                if before.open_business_date >= date:
                    continue
                book = open_day(conn, book_id, date, principal=SCHEDULE_PRINCIPAL)
            except LedgerError as error:
                log.error("day_not_opened", book=book_id, date=str(date), error=str(error))
                continue
            log.info(
                "day_opened", book=book_id, date=str(date), before=str(before.open_business_date)
            )
            moved.append(book)
    return moved


def keep_days(
    database_url: str,
    schedule: DaySchedule,
    stop: threading.Event,
    *,
    pause_s: float,
    clock: Callable[[], dt.datetime] = utc_now,
) -> Sequence[Book]:
    """Open days as they become due until stopped; a database that is away is asked again."""
    opened: list[Book] = []
    while not stop.is_set():
        try:
            opened += open_due_days(database_url, schedule, clock())
        except psycopg.Error as error:
            log.error("days_not_opened", error=str(error).strip(), retry_s=pause_s)
        stop.wait(pause_s)
    return opened
