"""`daybook sweep`: every operation of the log against the books, once or by schedule.

Invariant: without `--heal` (and without `--every`) nothing is written but the sweep's record.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
import typer

from consumers.completeness import Selection
from consumers.sweeps import SweepCounts, Sweeper, SweeperSettings, deliver_on, run_sweeper
from infra.cli.books import positions_words
from infra.cli.console import Json, out, progress_bar, say, show_json, show_table
from infra.cli.context import database, settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.cli.serving import MetricsPort, ParentPid, begin, working
from infra.logs import set_up_logs
from infra.schema_check import refuse_schema
from infra.settings import Settings
from ledger.books import select_book
from ledger.priority import after_postings
from projections.sweeps import Sweep
from projections.tables import connect_to

DIFFERENCES_SHOWN = 50


def add_to(app: typer.Typer) -> None:
    """Add this page's command."""
    app.command("sweep")(sweep_command)


def sweep_command(
    ctx: typer.Context,
    first: Annotated[
        int | None, typer.Option("--from", min=1, help="First position of the log.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=0, help="Last position. Default: the log's end.")
    ] = None,
    date: Annotated[
        dt.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Only this business day, as the log dates it."),
    ] = None,
    book: Annotated[str | None, typer.Option(help="Only this book. Default: all.")] = None,
    heal: Annotated[
        bool, typer.Option("--heal", help="Post what is missing; send lost results again.")
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(
            min=1, help="Run until stopped: sweep and heal every so many seconds, what is new."
        ),
    ] = None,
    as_json: Json = False,
    metrics_port: MetricsPort = None,
    parent_pid: ParentPid = None,
) -> None:
    """Compare every operation of the log with the books; name what is missing or differs.

    By id, amount and currency, whatever the consumers' positions say. Missing: no trace of it,
    though its lane has passed it; only such an operation is healed, by the handler that the
    consumers use. Everything else that differs is for `daybook audit verify` and `daybook
    rebuild`. Each sweep is recorded (GET /v1/sweeps, `daybook status`). Exit code 0 when the
    books are complete or everything found was healed, else 1.

    \b
    Examples:
      daybook sweep
      daybook sweep --date 2026-01-31 --heal
      daybook sweep --from 1 --to 500000 --json
      DAYBOOK_DATABASE_URL=postgresql://… daybook sweep --every 300
    """
    if every is not None:
        if any(given is not None for given in (first, last, date, book)):
            raise typer.BadParameter("--every sweeps everything: no range, day or book with it")
        _keep_sweeping(begin(ctx, parent_pid, metrics_port=metrics_port), every)
        return
    selection = Selection(None if date is None else date.date().isoformat(), book)
    after = 0 if first is None else first - 1
    if last is not None and last < after:
        raise typer.BadParameter("--to comes before --from")
    settings = settings_in_use(ctx)
    set_up_logs(settings)
    swept = _sweep_once(settings, (after, last), selection, heal=heal)
    if as_json:
        plain: dict[str, Any] = msgspec.to_builtins(swept)
        show_json({"complete": swept.is_complete, **plain})
    else:
        _show(swept, heal=heal)
    if not swept.is_complete:
        raise typer.Exit(ExitCode.NO)


def _keep_sweeping(settings: Settings, interval_s: float) -> None:
    counts = SweepCounts()
    with after_postings(), working(settings, "sweep", counts) as (url, stop):
        run_sweeper(
            SweeperSettings(
                database_url=url,
                bus=settings.bus,
                interval_s=interval_s,
                full_every_s=settings.sweep_full_every_s,
                retry_pause_s_max=settings.retry_pause_s_max,
            ),
            stop,
            counts=counts,
        )


def _sweep_once(
    settings: Settings, span: tuple[int, int | None], selection: Selection, *, heal: bool
) -> Sweep:
    after, through = span
    with database(settings) as url:
        refuse_schema(url)
        with (
            after_postings(),
            connect_to(url) as conn,
            connect_to(url) as beside,
            progress_bar("sweeping") as bar,
        ):
            if selection.book_id is not None:
                select_book(conn, selection.book_id)
            sweeper = Sweeper(
                conn,
                deliver_in_tx=deliver_on(settings.bus) if heal else None,
                beside=beside,
                progress=bar.reach,
            )
            return sweeper.by_command(after=after, through=through, selection=selection)


def _show(swept: Sweep, *, heal: bool) -> None:
    if swept.differences:
        shown = swept.differences[:DIFFERENCES_SHOWN]
        show_table(
            ["", "position", "book", "operation", "detail"],
            [
                (
                    "healed" if each.healed else each.kind,
                    each.position,
                    each.book_id,
                    each.operation_id,
                    each.detail,
                )
                for each in shown
            ],
            right=("position",),
            footer=f"{swept.found:,} found, {len(shown):,} shown",
        )
    day = "" if swept.business_date is None else f" of {swept.business_date}"
    span = positions_words(swept.after, swept.through)
    out().print(f"{swept.operations:,} operations{day}, {span}", markup=False)
    if swept.waiting:
        out().print(f"{swept.waiting:,} are not due: the consumers come to them", markup=False)
    if swept.results_lost:
        done = "sent again" if heal else "not known to the ledger (--heal sends them again)"
        out().print(f"{swept.results_lost:,} results {done}", markup=False)
    if swept.found and not swept.is_complete:
        more = "; --heal posts what is missing" if not heal else "; see daybook audit verify"
        say(f"INCOMPLETE: {swept.found - swept.healed:,} differ{more}")
    elif swept.healed:
        say(f"complete: {swept.healed:,} were missing and are healed")
    else:
        say("complete")
