"""`daybook day keep`: business dates opened by schedule.

Invariant: it gives the command that a person gives; several of it at once are safe.
"""

from __future__ import annotations

from typing import Annotated

import typer

from infra.cli.books import day_app
from infra.cli.console import say
from infra.cli.context import database
from infra.cli.serving import ParentPid, begin, stop_on_signals
from infra.day_schedule import ScheduleRefused, day_schedule, keep_days, open_due_days
from infra.schema_check import refuse_schema
from ledger.clock import utc_now


def add_to(_app: typer.Typer) -> None:
    """Add this page's command to `daybook day`."""
    day_app.command("keep")(keep)


def keep(
    ctx: typer.Context,
    at: Annotated[str | None, typer.Option(help="Time of day, HH:MM.")] = None,
    zone: Annotated[str | None, typer.Option(help="Its zone, e.g. Asia/Shanghai.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once: for a timer of yours.")] = False,
    parent_pid: ParentPid = None,
) -> None:
    """Open business dates as they become due, until stopped.

    `daybook serve` runs this when DAYBOOK_DAY_OPENS_AT is set. Days that were missed are closed
    in one step. Any number of these processes may run.

    \b
    Examples:
      daybook day keep --at 00:00 --zone Asia/Shanghai
      daybook day keep --at 23:30 --once
    """
    settings = begin(ctx, parent_pid, day_opens_at=at, day_timezone=zone)
    schedule = day_schedule(settings)
    if schedule is None:
        raise ScheduleRefused("say when a day opens: --at HH:MM, or DAYBOOK_DAY_OPENS_AT")
    with database(settings) as url:
        refuse_schema(url)
        if once:
            for book in open_due_days(url, schedule, utc_now()):
                say(f"book {book.book_id}: the open day is {book.open_business_date}")
        else:
            keep_days(url, schedule, stop_on_signals(), pause_s=settings.day_look_s)
