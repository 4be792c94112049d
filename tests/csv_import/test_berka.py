"""The real Czech bank data: every row read, ordered and compared; nothing is posted here."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from infra.csv_import import ColumnMap, ImportReport, import_csv
from tests.csv_import.builders import SHARED_DATA, LedgerInMemory

TRANSACTIONS = SHARED_DATA / "berka" / "trans.asc"
pytestmark = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data is not here")


@pytest.fixture(scope="module")
def report() -> ImportReport:
    return import_csv(TRANSACTIONS, ColumnMap.load("berka"), None)


def test_all_rows_are_good_and_none_is_lost(report: ImportReport) -> None:
    rows = report.history.rows

    assert len(rows) == len({row.reference for row in rows}) == 49_102
    assert len({row.account for row in rows}) == report.accounts == 1_229
    assert (str(rows[0].business_date), str(rows[-1].business_date)) == (
        "1993-01-01",
        "1994-03-31",
    )
    assert Counter(row.side for row in rows) == {"credit": 22_994, "debit": 26_108}


def test_dates_never_go_back_in_posting_order(report: ImportReport) -> None:
    keys = [(row.business_date, row.account) for row in report.history.rows]

    assert keys == sorted(keys)


def test_every_account_day_chains_but_the_ones_cut_off_on_the_last_date(
    report: ImportReport,
) -> None:
    history = report.history

    assert history.days == 39_960
    assert history.days_reordered == 4_244
    assert history.days_off_by_rounding == 2_273
    assert history.days_broken == 28


def test_every_difference_is_classified_and_each_unexplained_one_is_named(
    report: ImportReport,
) -> None:
    assert report.counts == {
        "exact": 27_365,
        "rounding_step": 2_325,
        "rounding_carried": 19_380,
        "unexplained": 28,
        "unexplained_carried": 4,
        "ledger_differs": 0,
        "not_stated": 0,
    }
    assert report.largest_rounding_minor == 80
    named = [c for c in report.unexplained if c.balance_class == "unexplained"]
    assert len({c.row.account for c in named}) == 28
    assert {str(c.row.business_date) for c in named} == {"1994-03-31"}
    assert {c.note for c in named} == {"on the file's last date: a row may be cut off"}


def test_a_rounding_difference_is_nothing_but_its_rounding_steps(report: ImportReport) -> None:
    steps: dict[str, int] = defaultdict(int)

    for compared in report.comparisons:
        assert abs(compared.step_minor) in (0, 10) or compared.balance_class == "unexplained"
        steps[compared.row.account] += compared.step_minor
        assert compared.running_difference_minor == -steps[compared.row.account]


def test_posted_to_a_ledger_the_file_books_once_and_never_goes_back(
    report: ImportReport, tmp_path: Path
) -> None:
    ledger = LedgerInMemory()
    column_map = ColumnMap.load("berka")

    first = import_csv(TRANSACTIONS, column_map, ledger)
    second = import_csv(TRANSACTIONS, column_map, ledger)

    assert (first.booked, first.accounts_opened, first.refused) == (49_102, 1_229, ())
    assert (second.booked, second.replayed, second.accounts_opened) == (0, 49_102, 0)
    assert first.comparisons == second.comparisons == report.comparisons
    assert min(ledger.balances.values()) < 0  # the bank let accounts go below zero
