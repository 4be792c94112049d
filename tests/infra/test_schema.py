"""Migrations: once, in order, each whole or not at all, never over a schema they do not know."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from infra.schema import SchemaRefused, migrate, read_migrations

CREATE_FIRST = "CREATE SCHEMA ledger; CREATE TABLE ledger.first (n integer)"
CREATE_SECOND = "CREATE TABLE ledger.second (n integer)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text(CREATE_FIRST)
    (tmp_path / "0002_second.sql").write_text(CREATE_SECOND)
    return tmp_path


def tables_of(url: str) -> set[str]:
    with psycopg.connect(url) as conn:
        rows = conn.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'ledger'"
        ).fetchall()
    return {str(row[0]) for row in rows}


def test_each_migration_is_applied_once(empty_database_url: str, folder: Path) -> None:
    assert migrate(empty_database_url, folder) == 2
    assert migrate(empty_database_url, folder) == 0
    assert tables_of(empty_database_url) == {"first", "second", "schema_migrations"}


def test_only_the_new_file_is_applied_later(empty_database_url: str, folder: Path) -> None:
    (folder / "0002_second.sql").unlink()
    assert migrate(empty_database_url, folder) == 1
    (folder / "0002_second.sql").write_text(CREATE_SECOND)
    assert migrate(empty_database_url, folder) == 1


def test_failing_migration_leaves_the_one_before_it(empty_database_url: str, folder: Path) -> None:
    (folder / "0002_second.sql").write_text(CREATE_SECOND + "; SELECT 1/0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty_database_url, folder)
    assert tables_of(empty_database_url) == {"first", "schema_migrations"}
    (folder / "0002_second.sql").write_text(CREATE_SECOND)
    assert migrate(empty_database_url, folder) == 1


def test_database_of_a_newer_program_is_refused(empty_database_url: str, folder: Path) -> None:
    migrate(empty_database_url, folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(SchemaRefused, match="is at schema 2, this program knows 1"):
        migrate(empty_database_url, folder)


def test_file_changed_after_it_was_applied_is_refused(
    empty_database_url: str, folder: Path
) -> None:
    migrate(empty_database_url, folder)
    (folder / "0001_first.sql").write_text(CREATE_FIRST + " -- changed")
    with pytest.raises(SchemaRefused, match=r"0001 \(first\) is not the file that was applied"):
        migrate(empty_database_url, folder)


def test_gap_in_the_numbers_is_refused(folder: Path) -> None:
    (folder / "0002_second.sql").rename(folder / "0003_second.sql")
    with pytest.raises(SchemaRefused, match="without gap or double"):
        read_migrations(folder)


def test_name_without_a_number_is_refused(folder: Path) -> None:
    (folder / "second.sql").write_text(CREATE_SECOND)
    with pytest.raises(SchemaRefused, match=r"second\.sql is not named"):
        read_migrations(folder)


def test_programs_starting_side_by_side_apply_each_file_once(
    empty_database_url: str, folder: Path
) -> None:
    applied: list[int] = []
    threads = [
        threading.Thread(target=lambda: applied.append(migrate(empty_database_url, folder)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [0, 0, 0, 2]


def test_shipped_migrations_make_a_database(database_url: str) -> None:
    assert migrate(database_url) == 0
    with psycopg.connect(database_url) as conn:
        row = conn.execute("SELECT count(*) FROM ledger.schema_migrations").fetchone()
    assert row == (len(read_migrations()),)
