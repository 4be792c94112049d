"""The import as a whole: all or nothing, in order, resumable, and honest about differences."""

from __future__ import annotations

import csv
import datetime as dt
import random
from pathlib import Path

import pytest
from msgspec import structs

from infra.csv_import import CsvRefused, import_csv
from infra.csv_import.history import operation_of
from infra.csv_import.report import DIFFERENCE_COLUMNS
from tests.csv_import.builders import MAP, KilledError, LedgerInMemory, a_file, a_map

ROWS = (
    "1;A;2020-01-01;IN;10.00;10.00;",
    "2;B;2020-01-01;IN;5.00;5.00;",
    "4;A;2020-01-02;OUT;3.00;8.00;later",
    "3;A;2020-01-02;IN;1.00;11.00;sooner",
    "5;B;2020-01-03;OUT;9.00;-4.00;",
)


def test_rows_are_booked_by_date_then_account_then_chain(tmp_path: Path) -> None:
    ledger = LedgerInMemory()

    report = import_csv(a_file(tmp_path, *reversed(ROWS)), a_map(tmp_path), ledger)

    assert [operation.operation_id for operation in ledger.booked] == [
        f"import:bank:{reference}" for reference in (1, 2, 3, 4, 5)
    ]
    assert ledger.balances == {"A": 800, "B": -400}
    assert (report.booked, report.replayed, report.accounts_opened) == (5, 0, 2)
    assert report.counts["exact"] == 5
    assert report.complete
    assert report.agrees


def test_an_operation_carries_dates_reference_and_a_deterministic_id(tmp_path: Path) -> None:
    ledger = LedgerInMemory()

    import_csv(a_file(tmp_path, *ROWS), a_map(tmp_path), ledger)

    sooner = ledger.booked[2]
    assert sooner.operation_id == "import:bank:3"
    assert (sooner.business_date, sooner.value_date) == (dt.date(2020, 1, 2),) * 2
    assert (sooner.business_type, sooner.description) == ("history_credit", "sooner")
    assert sooner.orders is not None
    assert sooner.orders.channel == ("3",)
    (leg,) = sooner.legs
    assert (leg.kind, leg.account, leg.amount_minor, leg.currency) == ("credit", "A", 100, "EUR")


def test_accounts_are_opened_at_their_first_date_and_without_a_floor(tmp_path: Path) -> None:
    ledger = LedgerInMemory()

    import_csv(a_file(tmp_path, *ROWS), a_map(tmp_path, MAP + 'prefix = "X-"'), ledger)

    opened = ledger.bodies["import:bank:open:X-A"]
    assert opened.business_date == dt.date(2020, 1, 1)
    assert opened.credit_limit_minor is None  # type: ignore[union-attr]
    assert set(ledger.balances) == {"X-A", "X-B"}


def test_a_broken_row_refuses_the_file_before_anything_is_posted(tmp_path: Path) -> None:
    ledger = LedgerInMemory()
    file = a_file(tmp_path, *ROWS, "6;A;2020-01-04;IN;1.001;9.00;", "7;A;2020-01-04;IN;x;9.00;")

    with pytest.raises(CsvRefused) as refused:
        import_csv(file, a_map(tmp_path), ledger)

    assert [(e.line, e.column, e.code.value) for e in refused.value.errors] == [
        (7, "amount", "amount_decimals"),
        (8, "amount", "amount_malformed"),
    ]
    assert str(refused.value.errors[0]).startswith("bank.csv:7: amount: amount_decimals:")
    assert refused.value.code == "csv_refused"
    assert not ledger.balances


def test_bad_rows_are_skipped_and_listed_only_when_asked(tmp_path: Path) -> None:
    ledger = LedgerInMemory()
    file = a_file(tmp_path, *ROWS, "6;A;2020-01-04;IN;1.001;9.00;", "7;A;2020-01-05;IN;2;11;")

    report = import_csv(file, a_map(tmp_path), ledger, skip_bad=True)

    assert len(ledger.booked) == 6
    assert [(error.line, error.code.value) for error in report.skipped] == [(7, "amount_decimals")]
    assert not report.complete
    assert [c.row.reference for c in report.unexplained] == ["7"]


def test_a_file_without_its_columns_is_refused_even_when_bad_rows_may_be_skipped(
    tmp_path: Path,
) -> None:
    with pytest.raises(CsvRefused, match="column_missing"):
        import_csv(
            a_file(tmp_path, *ROWS, header="a;b;c;d;e;f;g"),
            a_map(tmp_path),
            LedgerInMemory(),
            skip_bad=True,
        )


@pytest.mark.parametrize("kill_after", range(len(ROWS)))
def test_a_killed_import_resumes_and_a_second_one_books_nothing(
    tmp_path: Path, kill_after: int
) -> None:
    file, column_map = a_file(tmp_path, *ROWS), a_map(tmp_path)
    ledger = LedgerInMemory(kill_after=kill_after)
    with pytest.raises(KilledError):
        import_csv(file, column_map, ledger, batch_size=2)
    ledger.kill_after = None

    resumed = import_csv(file, column_map, ledger, batch_size=3)
    again = import_csv(file, column_map, ledger, batch_size=2)

    assert (resumed.booked, resumed.replayed) == (5 - kill_after, kill_after)
    assert (again.booked, again.replayed, again.accounts_opened) == (0, 5, 0)
    assert len(ledger.booked) == 5
    assert again.counts == resumed.counts
    assert again.agrees


def test_a_dry_run_posts_nothing_and_foretells_the_report(tmp_path: Path) -> None:
    file, column_map = a_file(tmp_path, *ROWS), a_map(tmp_path)

    foretold = import_csv(file, column_map, None)
    happened = import_csv(file, column_map, LedgerInMemory())

    assert foretold.dry_run
    assert (foretold.booked, foretold.accounts_opened) == (0, 0)
    assert foretold.counts == happened.counts
    assert foretold.comparisons == happened.comparisons


def test_a_day_that_is_closed_is_found_before_a_single_row_is_refused_for_ever(
    tmp_path: Path,
) -> None:
    ledger = LedgerInMemory(closed_before=dt.date(2020, 1, 2))

    report = import_csv(a_file(tmp_path, *ROWS), a_map(tmp_path), ledger)

    assert ledger.booked == []
    assert not any(result.status == "rejected" for result in ledger.results.values())
    assert [(row.line, row.code) for row in report.refused] == [
        (2, "date_closed"),
        (3, "date_closed"),
    ]
    assert not report.complete


def test_posting_stops_behind_the_first_batch_with_a_refused_row(tmp_path: Path) -> None:
    class ClosesInMidImport(LedgerInMemory):
        """The day moves on after the probe, as another person may do."""

        def _book(self, operation):  # type: ignore[no-untyped-def]
            self.closed_before = dt.date(2020, 1, 3) if len(self.booked) == 2 else dt.date.min
            return super()._book(operation)

    ledger = ClosesInMidImport()

    report = import_csv(a_file(tmp_path, *ROWS), a_map(tmp_path), ledger, batch_size=3)

    assert [(row.line, row.code) for row in report.refused] == [(5, "date_closed")]
    assert (report.booked, len(report.comparisons)) == (2, 2)


def test_a_row_that_was_booked_on_another_account_is_no_success(tmp_path: Path) -> None:
    class SendsToSuspense(LedgerInMemory):
        """Money that could not be placed waits elsewhere, with an issue."""

        def post_operations(self, operations, *, dry_run=False):  # type: ignore[no-untyped-def]
            results = super().post_operations(operations, dry_run=dry_run)
            return results if dry_run else [structs.replace(r, accounts=()) for r in results]

    report = import_csv(a_file(tmp_path, *ROWS), a_map(tmp_path), SendsToSuspense())

    assert report.booked == 0
    assert {row.code for row in report.refused} == {"booked_elsewhere"}
    assert not report.complete


def test_an_account_that_somebody_else_opened_is_used(tmp_path: Path) -> None:
    ledger = LedgerInMemory(balances={"A": 0})

    report = import_csv(a_file(tmp_path, *ROWS), a_map(tmp_path), ledger)

    assert (report.accounts, report.accounts_opened, report.booked) == (2, 1, 5)


def test_a_balance_that_moved_since_the_import_is_named(tmp_path: Path) -> None:
    file, column_map, ledger = a_file(tmp_path, *ROWS), a_map(tmp_path), LedgerInMemory()
    import_csv(file, column_map, ledger)
    ledger.balances["B"] += 1

    report = import_csv(file, column_map, ledger)

    (difference,) = report.final_differences
    assert (difference.account, difference.balance_minor) == ("B", -399)
    assert not report.agrees


def test_progress_is_told_stage_by_stage_and_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    import_csv(
        a_file(tmp_path, *ROWS),
        a_map(tmp_path),
        LedgerInMemory(),
        progress=lambda *step: seen.append(step),
        batch_size=2,
    )

    assert seen == [
        ("accounts", 2, 2),
        ("rows", 2, 5),
        ("rows", 4, 5),
        ("rows", 5, 5),
        ("balances", 1, 2),
        ("balances", 2, 2),
    ]


def test_the_differences_are_written_as_csv_and_as_a_document(tmp_path: Path) -> None:
    file = a_file(tmp_path, *ROWS, "6;A;2020-01-04;IN;1.00;9.10;", "7;B;2020-01-05;IN;2;11;")
    report = import_csv(file, a_map(tmp_path), LedgerInMemory())

    report.write_differences(tmp_path / "differences.csv")

    with (tmp_path / "differences.csv").open(newline="") as written:
        header, rounding, other = csv.reader(written)
    assert tuple(header) == DIFFERENCE_COLUMNS
    assert rounding[:3] == ["rounding_step", "7", "A"]
    assert rounding[5:10] == ["1.00", "9.00", "9.10", "-0.10", "0.10"]
    assert other[0] == "unexplained"
    document = report.to_document()
    assert document["counts"]["unexplained"] == 1
    assert [difference["line"] for difference in document["differences"]] == [7, 8]
    assert document["differences"][0]["running_difference"] == -10
    assert not document["agrees"]


def test_owners_come_from_the_look_up_file_when_the_map_names_one(tmp_path: Path) -> None:
    text = MAP + (
        '[owner]\nfile = "owners.csv"\naccount = "acc"\nowner = "client"\n'
        'where = { role = "OWNER" }\n'
    )
    owners = tmp_path / "owners.csv"
    owners.write_text("acc;client;role\nA;C-1;OWNER\nA;C-9;USER\nB;C-2;OWNER\n")
    file, column_map, ledger = a_file(tmp_path, *ROWS), a_map(tmp_path, text), LedgerInMemory()

    import_csv(file, column_map, ledger)

    assert ledger.bodies["import:bank:open:A"].owner == "C-1"  # type: ignore[union-attr]

    owners.write_text("acc;client;role\nA;C-1;OWNER\n")
    with pytest.raises(CsvRefused, match="owner_unknown") as refused:
        import_csv(file, column_map, ledger)
    assert [error.line for error in refused.value.errors] == [3, 6]

    owners.unlink()
    with pytest.raises(CsvRefused, match="owner_file_unreadable"):
        import_csv(file, column_map, ledger, skip_bad=True)


def test_the_same_rows_in_any_file_order_are_the_same_operations(tmp_path: Path) -> None:
    column_map = a_map(tmp_path)
    straight = import_csv(a_file(tmp_path, *ROWS), column_map, None).history.rows
    rows = list(ROWS)
    random.Random(7).shuffle(rows)

    mixed = import_csv(a_file(tmp_path, *rows), column_map, None).history.rows

    assert [operation_of(row, column_map) for row in mixed] == [
        operation_of(row, column_map) for row in straight
    ]
