"""`daybook rebuild` and `daybook republish`: the books, or the topic, made again from the log.

Invariant: what is live is replaced in one transaction or not at all; every command is safe to
repeat, and posting goes on meanwhile.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from consumers.comparison import RowDifference
from consumers.consumer import DeliverInTx
from consumers.rebuild import (
    RebuildReport,
    compare_with_kept,
    drop_old_schemas,
    rebuild,
    select_kept_books,
)
from consumers.rebuild_rows import Topic
from consumers.results import insert_outbox_in_tx
from infra.cli.console import Json, out, progress_bar, say, show_json, show_pairs, show_table
from infra.cli.context import database, settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.relay import republish, select_relay
from infra.settings import Settings
from ledger.statuses import apply_results_in_tx
from projections.positions import select_head
from projections.tables import connect_to

LOOK_S = 0.2
MIB = 1024 * 1024
HELP = """Make the books again from the log, beside the live ones; compare row for row; swap.

    Posting goes on meanwhile. The old books are kept until `daybook rebuild drop`. A rebuild that
    is killed leaves the live books as they are; start it again. Exit code 1 when the rebuilt books
    differ (nothing is swapped).

    \b
    Examples:
      daybook rebuild --check
      daybook rebuild --only gl_balances,outcome_totals --no-compare
      daybook rebuild --from-kafka
    """

Processes = Annotated[
    int | None,
    typer.Option(min=0, max=64, help="Processes that fill; default: by the processors; 0: none."),
]
FromKafka = Annotated[
    bool, typer.Option("--from-kafka", help="From the operations topic alone, not the log.")
]
Only = Annotated[
    str | None, typer.Option(metavar="TABLE[,TABLE…]", help="Compare and swap these tables only.")
]

rebuild_app = typer.Typer(invoke_without_command=True, help=HELP)


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.add_typer(rebuild_app, name="rebuild")
    app.command("republish")(republish_command)


@rebuild_app.callback(help=HELP)
def rebuild_command(
    ctx: typer.Context,
    only: Only = None,
    check: Annotated[
        bool, typer.Option("--check", help="Rebuild and compare, but keep the live books.")
    ] = False,
    without_compare: Annotated[
        bool, typer.Option("--no-compare", help="Swap although the books differ (after a fix).")
    ] = False,
    from_kafka: FromKafka = False,
    processes: Processes = None,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Afterwards drop what swaps have kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Rebuild, compare, swap."""
    if ctx.invoked_subcommand is not None:
        return
    settings = settings_in_use(ctx)
    with database(settings) as url:
        report = _rebuilt(
            url,
            settings,
            only=only,
            compare=not without_compare,
            swap=not check,
            from_kafka=from_kafka,
            processes=processes,
        )
        if drop_old and report.difference is None:
            with connect_to(url) as conn:
                drop_old_schemas(conn)
    _show_report(report, as_json=as_json)


@rebuild_app.command("compare")
def compare_command(
    ctx: typer.Context,
    kept: Annotated[
        str | None, typer.Argument(help="Kept books, as `daybook rebuild list` names them.")
    ] = None,
    only: Only = None,
    from_kafka: FromKafka = False,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Compare the live books row for row with rebuilt ones, or with kept ones.

    Without a name the books are rebuilt for it and dropped again. Kept books are compared as far
    as they had come: what was decided later, and sums, are left out. Exit code 1 when they differ.

    \b
    Examples:
      daybook rebuild compare
      daybook rebuild compare projections_old_1
    """
    settings = settings_in_use(ctx)
    with database(settings) as url:
        if kept is None:
            report = _rebuilt(
                url,
                settings,
                only=only,
                compare=True,
                swap=False,
                from_kafka=from_kafka,
                processes=processes,
            )
            _show_report(report, as_json=as_json)
            return
        with connect_to(url) as conn:
            difference = compare_with_kept(conn, kept)
    if as_json:
        show_json({"kept": kept, "difference": difference})
    else:
        _show_difference(difference, ("live", "kept"))
    if difference is not None:
        raise typer.Exit(ExitCode.NO)


@rebuild_app.command("list")
def list_command(ctx: typer.Context, as_json: Json = False) -> None:
    """List the old books that swaps have kept.

    \b
    Example:
      daybook rebuild list
    """
    with database(settings_in_use(ctx)) as url, connect_to(url) as conn:
        kept = select_kept_books(conn)
    if as_json:
        show_json(kept)
        return
    show_table(
        ["kept books", "tables", "MiB"],
        [(each.schema, ", ".join(each.tables), f"{each.size_bytes / MIB:,.1f}") for each in kept],
        right=["MiB"],
    )


@rebuild_app.command("drop")
def drop_command(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Kept books to drop; default: all of them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Drop old books that swaps have kept, and what a killed rebuild has left.

    \b
    Example:
      daybook rebuild drop
    """
    with database(settings_in_use(ctx)) as url, connect_to(url) as conn:
        dropped = drop_old_schemas(conn, names or ())
    if as_json:
        show_json({"dropped": dropped})
    else:
        out().print(f"dropped {', '.join(dropped) or 'nothing'}", markup=False)


def republish_command(
    ctx: typer.Context,
    from_position: Annotated[
        int, typer.Option(min=0, help="Send again what lies after this position.")
    ] = 0,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait until the relay is through.")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Send the log to Kafka again from the store: the broker, or its topic, was lost.

    The active relay is fenced, makes the topic if it is not there, and begins again; what
    consumers have handled already is recognised and changes nothing. Exit code 3 when the relay
    was not through in time.

    \b
    Example:
      daybook republish --wait 600
    """
    settings = settings_in_use(ctx)
    topic = settings.operations_topic
    with database(settings) as url, connect_to(url) as conn:
        begun = republish(conn, topic, from_position=from_position)
        head = select_head(conn)
        reached = from_position
        with progress_bar("republishing", head) as bar:
            deadline = time.monotonic() + wait_s
            while reached < head and time.monotonic() < deadline:
                time.sleep(LOOK_S)
                state = select_relay(conn, topic)
                reached = state.position if state is not None else reached
                bar.reach(reached, head)
    if as_json:
        show_json({"topic": topic, "begun": begun, "position": reached, "log_position": head})
    elif not begun:
        say(f"no relay has published {topic} yet: the first one begins at the beginning")
    else:
        out().print(
            f"{topic}: sent again from position {from_position:,}; "
            f"the relay is at {reached:,} of {head:,}",
            markup=False,
        )
    if begun and wait_s and reached < head:
        raise typer.Exit(ExitCode.UNAVAILABLE)


def _rebuilt(
    url: str,
    settings: Settings,
    *,
    only: str | None,
    compare: bool,
    swap: bool,
    from_kafka: bool,
    processes: int | None,
) -> RebuildReport:
    on_kafka = settings.bus == "kafka"
    deliver: DeliverInTx = insert_outbox_in_tx if on_kafka else apply_results_in_tx
    topic = Topic(settings.kafka_bootstrap, settings.operations_topic) if from_kafka else None
    with progress_bar("rebuilding") as bar:

        def progress(step: str, done: int, total: int) -> None:
            bar.rename(step)
            bar.reach(done, total)

        return rebuild(
            url,
            compare=compare,
            swap=swap,
            only=[table for table in (only or "").split(",") if table],
            processes=processes,
            topic=topic,
            deliver_in_tx=deliver,
            progress=progress,
        )


def _show_report(report: RebuildReport, *, as_json: bool) -> None:
    if as_json:
        show_json(report)
    else:
        out().print(
            f"{report.operations:,} operations in {report.seconds:.1f} s "
            f"({report.operations_per_s:,.0f}/s), to position {report.position:,}",
            markup=False,
        )
        verdict = "the same books" if report.compared else "not compared"
        kept = f"swapped (the old ones are kept as {report.kept_schema})"
        if report.difference is None:
            said = kept if report.swapped else "not swapped"
            out().print(f"{verdict}; {said}", markup=False)
        else:
            _show_difference(report.difference, ("live", "rebuilt"))
            out().print("not swapped", markup=False)
    if report.difference is not None:
        raise typer.Exit(ExitCode.NO)


def _show_difference(difference: RowDifference | None, sides: tuple[str, str]) -> None:
    if difference is None:
        out().print("the same books", markup=False)
        return
    key = ", ".join(f"{name} {value}" for name, value in difference.key.items())
    out().print(f"DIFFERS: {difference.table}, {key}", markup=False)
    for side, row in zip(sides, (difference.live, difference.rebuilt), strict=True):
        show_pairs(sorted(row.items()) if row else [("", "no such row")], title=side)
