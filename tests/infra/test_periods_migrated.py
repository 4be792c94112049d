"""Books that were made before days could be cut: the migration reads their days from the log."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import psycopg

from infra.schema import MIGRATIONS, migrate, read_migrations
from ledger.books import open_book
from ledger.clock import booked_at_in_tx, utc_now
from ledger.codec import book_stream, row_of
from ledger.events import DayOpened
from ledger.log import Log
from projections.tables import connect_to

BEFORE = 4  # the migration that brings days, cuts and periods


def write_opened_day(conn: psycopg.Connection) -> None:
    """Open a day as the program of then did, which knew no tables of later migrations."""
    with conn.transaction(), conn.cursor() as cursor:
        end = Log().lock_log_in_tx(cursor, "main")
        at = booked_at_in_tx(cursor, end, utc_now())
        opened = DayOpened("main", "2026-01-31", "2026-01-30", at, "alice")
        row = row_of(book_stream("main"), 2, opened)
        Log().append_in_tx(cursor, [row], end=end, book_id="main", booked_at=at, totals={})


def test_days_opened_before_the_migration_are_known_after_it(
    empty_database_url: str, tmp_path: Path
) -> None:
    earlier = tmp_path / "migrations"
    earlier.mkdir()
    for each in read_migrations()[: BEFORE - 1]:
        name = f"{each.version:04}_{each.name}.sql"
        shutil.copy(MIGRATIONS / name, earlier / name)
    migrate(empty_database_url, earlier)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        open_book(conn, "main", "Main", dt.date(2026, 1, 30), principal="alice")
        write_opened_day(conn)
        open_book(conn, "second", "Second", dt.date(2026, 2, 1), principal="alice")

    migrate(empty_database_url)

    with connect_to(empty_database_url) as conn:
        found = conn.execute(
            "SELECT position, book_id, open_date::text FROM business_days ORDER BY position"
        ).fetchall()
        conn.execute("SELECT ledger.create_projection_tables('projections_shadow')")
        columns = conn.execute(
            "SELECT table_schema, count(*) FROM information_schema.columns "
            "WHERE table_schema LIKE 'projections%' GROUP BY table_schema"
        ).fetchall()
    assert found == [
        (1, "main", "2026-01-30"),
        (2, "main", "2026-01-31"),
        (3, "second", "2026-02-01"),
    ]
    assert len({count for _, count in columns}) == 1  # a rebuild makes the same tables
