"""The import over the real API, PostgreSQL and audit: killed, resumed, and done twice.

Goal: whatever was posted before a kill stays booked once; a resumed import books only the
rest, a second one nothing; the ledger's running balances are the file's. The real bank data
goes the same way where the shared data folder is there.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import psycopg
import pytest

from infra.csv_import import ColumnMap, HttpLedgerClient, ImportReport, import_csv
from ledger.audit import verify
from ledger.books import open_book
from tests.csv_import.builders import SHARED_DATA, KilledError, a_file, a_map
from tests.fix_api import ApiCaller

TRANSACTIONS = SHARED_DATA / "berka" / "trans.asc"


def _open(api: ApiCaller, book_id: str, first_date: str) -> None:
    with psycopg.connect(api.database_url, autocommit=True) as conn:
        open_book(conn, book_id, book_id, dt.date.fromisoformat(first_date), principal="local")


def _import(api: ApiCaller, file: Path, column_map: ColumnMap, **more: object) -> ImportReport:
    book = column_map.source.book
    with HttpLedgerClient(str(api.http.base_url), key=api.key, book=book) as client:
        return import_csv(file, column_map, client, **more)  # type: ignore[arg-type]


def _audit_passes(api: ApiCaller) -> bool:
    with psycopg.connect(api.database_url) as conn:
        return verify(conn).passed


def test_a_killed_import_goes_on_and_a_second_one_books_nothing(
    api: ApiCaller, tmp_path: Path
) -> None:
    _open(api, "history", "2024-01-01")
    column_map = a_map(tmp_path)
    first = dt.date(2024, 1, 1)
    rows = [
        f"{number};A;{first + dt.timedelta(days=number)};IN;10.00;{number * 10}.00;"
        for number in range(1, 121)
    ]
    file = a_file(tmp_path, *rows)

    def killed_half_way(stage: str, done: int, _total: int) -> None:
        if stage == "rows" and done >= 60:
            raise KilledError

    with pytest.raises(KilledError):
        _import(api, file, column_map, batch_size=20, progress=killed_half_way)
    resumed = _import(api, file, column_map, batch_size=20)
    position = api.position()
    second = _import(api, file, column_map, batch_size=20)

    assert (resumed.replayed, resumed.booked) == (60, 60)
    assert resumed.agrees
    assert (second.replayed, second.booked) == (120, 0)
    assert api.position() == position
    assert _audit_passes(api)


@pytest.mark.skipif(not TRANSACTIONS.exists(), reason="the shared data is not here")
def test_the_whole_bank_file_is_booked_with_its_dates_and_balances(api: ApiCaller) -> None:
    column_map = ColumnMap.load("berka")
    _open(api, column_map.source.book, "1993-01-01")

    report = _import(api, TRANSACTIONS, column_map)

    assert report.complete
    assert report.booked == 49_102
    assert not report.final_differences
    assert report.counts["unexplained"] == 28
    assert report.counts["ledger_differs"] == 0
    assert _audit_passes(api)
