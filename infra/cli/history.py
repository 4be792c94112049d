"""`daybook import csv`: history from a bank's file, validated whole before the first posting.

Invariant: exit code 0 means that every row is in the ledger and every difference from the bank's
stated balances is explained.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.console import Bar, Json, out, progress_bar, say, show_json, show_pairs, show_table
from infra.cli.context import key_of, settings_in_use, url_of
from infra.cli.exit_codes import ExitCode
from infra.client import ApiRefused, DaybookClient
from infra.csv_import import ColumnMap, CsvRefused, HttpLedgerClient, ImportReport, import_csv
from infra.csv_import.csv_import import Progress, plan_import
from infra.csv_import.report import DIFFERENCE_COLUMNS
from infra.settings import Settings

DIFFERENCES_SHOWN = 100
ERRORS_SHOWN = 50

import_app = typer.Typer(help="Import history from files.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.add_typer(import_app, name="import")


@import_app.command("csv")
def csv_command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The bank's CSV file.")],
    column_map: Annotated[
        str, typer.Option("--map", help="Column map: a TOML file, or the name of a shipped one.")
    ],
    into: Annotated[str | None, typer.Option(help="Book; default: the map's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate, order and compare; post nothing.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave broken rows out instead of refusing the file.")
    ] = False,
    differences: Annotated[
        Path | None, typer.Option(help="Write every difference to this CSV file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Import a CSV file of movements with their original dates, and compare every balance.

    The book is opened (on the day of the first row) when there is none. A killed import goes on
    where it stopped; a second one books nothing. Maps are explained in infra/csv_import/README.md.

    \b
    Examples:
      daybook import csv trans.asc --map berka
      daybook import csv bank.csv --map my-bank.toml --dry-run
    """
    settings = settings_in_use(ctx)
    chosen = ColumnMap.load(column_map)
    if into is not None:
        chosen = chosen.for_book(into)
    try:
        report = _imported(settings, file, chosen, dry_run=dry_run, skip_bad=skip_bad)
    except CsvRefused as refused:
        _show_refused(refused, as_json=as_json)
        raise typer.Exit(ExitCode.USAGE) from None
    if differences is not None:
        report.write_differences(differences)
    if as_json:
        show_json(report.to_document())
    else:
        _show_report(report)
    if not report.agrees:
        raise typer.Exit(ExitCode.NO)


def _imported(
    settings: Settings, file: Path, chosen: ColumnMap, *, dry_run: bool, skip_bad: bool
) -> ImportReport:
    with progress_bar("reading") as bar:
        progress = _stage_shown_on(bar)
        if dry_run:
            return import_csv(file, chosen, None, progress=progress, skip_bad=skip_bad)
        plan = plan_import(file, chosen, skip_bad=skip_bad)
        url, key = url_of(settings), key_of(settings)
        if plan.history.rows:
            first_date = plan.history.rows[0].business_date
            _ensure_book(url, key, chosen, first_date)
        with HttpLedgerClient(url, key=key, book=chosen.source.book) as client:
            return import_csv(file, chosen, client, progress=progress, skip_bad=skip_bad)


def _ensure_book(url: str, key: str, chosen: ColumnMap, first_date: dt.date) -> None:
    """Open the map's book with the shipped rules when the server has none of that name."""
    book_id = chosen.source.book
    with DaybookClient(url, key=key, book=book_id) as client:
        try:
            client.get(f"/v1/books/{book_id}")
        except ApiRefused as refused:
            if refused.status != 404:
                raise
            body = {
                "book_id": book_id,
                "name": f"Imported from {chosen.source.name}",
                "open_business_date": first_date.isoformat(),
            }
            client.post("/v1/books", body)
            say(f"opened book {book_id} on {first_date}")


def _stage_shown_on(bar: Bar) -> Progress:
    def progress(stage: str, done: int, total: int) -> None:
        bar.rename(stage)
        bar.reach(done, total)

    return progress


def _show_refused(refused: CsvRefused, *, as_json: bool) -> None:
    if as_json:
        show_json({"code": refused.code, "errors": refused.errors})
        return
    show_table(
        ["file", "line", "column", "code", "reason"],
        [(e.file, e.line, e.column, e.code, e.detail) for e in refused.errors[:ERRORS_SHOWN]],
        right=("line",),
    )
    out().print(f"{len(refused.errors):,} errors; nothing was imported", markup=False)


def _show_report(report: ImportReport) -> None:
    what = "would be booked" if report.dry_run else "booked"
    rows = len(report.history.rows)
    now = rows if report.dry_run else report.booked
    show_pairs(
        [
            ("file", f"{report.file} into book {report.book}"),
            ("rows", f"{rows:,} good, {report.rows_skipped:,} skipped"),
            ("accounts", f"{report.accounts:,}, {report.accounts_opened:,} opened now"),
            (what, f"{now:,} now, {report.replayed:,} by an earlier import"),
            (
                "account days",
                f"{report.history.days:,}, {report.history.days_reordered:,} reordered",
            ),
        ]
    )
    show_table(
        ["compared with the stated balance", "rows"],
        [(name, f"{count:,}") for name, count in report.counts.items()],
        right=("rows",),
    )
    unexplained = [row for row in report.difference_rows() if row[0].startswith("unexplained")]
    if unexplained:
        show_table(
            list(DIFFERENCE_COLUMNS),
            unexplained[:DIFFERENCES_SHOWN],
            right=DIFFERENCE_COLUMNS[5:10],
            title="Unexplained, by name",
            footer=_more(len(unexplained)),
        )
    if report.refused:
        show_table(
            ["line", "operation id", "code", "detail"],
            [(r.line, r.operation_id, r.code, r.detail) for r in report.refused[:ERRORS_SHOWN]],
            right=("line",),
            title="Refused by the ledger",
        )
    if report.final_differences:
        show_table(
            ["account", "balance", "imported"],
            [(d.account, d.balance_minor, d.imported_minor) for d in report.final_differences],
            right=("balance", "imported"),
            title="Accounts that moved outside this import (minor units)",
        )
    out().print(_verdict(report, len(unexplained)), markup=False)


def _more(unexplained: int) -> str | None:
    hidden = unexplained - DIFFERENCES_SHOWN
    return f"… and {hidden:,} more: --differences FILE writes all" if hidden > 0 else None


def _verdict(report: ImportReport, unexplained: int) -> str:
    are = "would be" if report.dry_run else "is"
    if report.agrees:
        return f"every row {are} in the ledger, and every difference is explained"
    if report.complete and not report.final_differences:
        return f"every row {are} in the ledger; {unexplained:,} differ without an explanation"
    return f"NOT every row {are} in the ledger as the file has it"
