"""The command line `daybook`: every command in one table of contents, and what errors exit as.

Invariant: a command prints its answer on standard output and ends with a documented exit code;
no error a user can cause shows a traceback.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from eventsourcing import persistence
from kafka.errors import KafkaError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from accounting.decisions import DecisionRefused
from infra.backup import BackupRefused
from infra.cli import (
    accounting,
    auditing,
    backups,
    books,
    day_keeping,
    demo,
    history,
    keys,
    periods,
    posting,
    rebuilding,
    repair,
    repair_overrides,
    repair_set_aside,
    schema,
    serving,
    settings_page,
    sheets,
    standing,
    sweeping,
)
from infra.cli.console import say
from infra.cli.context import NoKey
from infra.cli.exit_codes import EXIT_CODES_HELP, ExitCode
from infra.client import ApiRefused, ApiUnavailable
from infra.csv_import import ColumnMapRefused
from infra.day_schedule import ScheduleRefused
from infra.postgres import PostgresUnavailable, SchemaRefused
from infra.process_metrics import MetricsPortTaken
from infra.relay import RelayRefused
from infra.serve import ServeRefused
from infra.settings import load_settings, with_overrides
from infra.traces import TracingRefused
from ledger.errors import LedgerError

HELP = f"""Daybook: an event-sourced payment ledger whose books follow it.

\b
Try:
  daybook demo                      a generated payment day, end to end
  daybook serve                     API, consumers and an embedded PostgreSQL
  daybook post recharge --credit C-1=100.00 --amount fee=0.60
  daybook trial-balance             what the accountant sees
  daybook audit verify              one verdict over everything

{EXIT_CODES_HELP}
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for register in (
    serving.add_to,
    schema.add_to,
    demo.add_to,
    posting.add_to,
    standing.add_to,
    sheets.add_to,
    books.add_to,
    day_keeping.add_to,
    periods.add_to,
    accounting.add_to,
    repair.add_to,
    repair_overrides.add_to,
    repair_set_aside.add_to,
    rebuilding.add_to,
    auditing.add_to,
    sweeping.add_to,
    backups.add_to,
    history.add_to,
    keys.add_to,
    settings_page.add_to,
):
    register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"daybook {version('daybook')}")
        raise typer.Exit


@app.callback()
def use_settings(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="Folder of database, key and state (DAYBOOK_HOME).")
    ] = None,
    book: Annotated[str | None, typer.Option(help="The book that is meant (DAYBOOK_BOOK).")] = None,
    url: Annotated[str | None, typer.Option(help="API to talk to (DAYBOOK_URL).")] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Read the environment's settings and put the global options on top."""
    ctx.obj = with_overrides(load_settings(), home=home, book=book, url=url)


# What an error exits as: the first that fits.
EXITS: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (ApiUnavailable, ExitCode.UNAVAILABLE),
    (ApiRefused, ExitCode.REFUSED),
    (NoKey, ExitCode.UNAVAILABLE),
    (ServeRefused, ExitCode.UNAVAILABLE),
    (ScheduleRefused, ExitCode.USAGE),
    (MetricsPortTaken, ExitCode.UNAVAILABLE),
    (BackupRefused, ExitCode.REFUSED),
    (TracingRefused, ExitCode.USAGE),
    (PostgresUnavailable, ExitCode.UNAVAILABLE),
    (SchemaRefused, ExitCode.REFUSED),
    (DecisionRefused, ExitCode.REFUSED),
    (RelayRefused, ExitCode.REFUSED),
    (psycopg.OperationalError, ExitCode.UNAVAILABLE),
    (persistence.OperationalError, ExitCode.UNAVAILABLE),  # the library's, of decisions
    (KafkaError, ExitCode.UNAVAILABLE),
    (ValidationError, ExitCode.USAGE),
    (ColumnMapRefused, ExitCode.USAGE),
    (FileNotFoundError, ExitCode.USAGE),
    (IsADirectoryError, ExitCode.USAGE),
)


def exit_code_of(error: BaseException) -> ExitCode | None:
    """Return what an error exits as; None for a defect, which keeps its traceback."""
    named = next((code for kind, code in EXITS if isinstance(error, kind)), None)
    if named is None and isinstance(error, LedgerError):
        return ExitCode.UNAVAILABLE if error.retriable else ExitCode.REFUSED
    return named


def words_of(error: BaseException) -> str:
    """Say a foreseen error in a line."""
    if isinstance(error, ValidationError):  # of the settings: people set variables
        return f"settings: {'; '.join(map(_wrong_setting, error.errors()))}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    code = getattr(error, "code", "") or _code_of(type(error).__name__)
    return f"{code}: {getattr(error, 'detail', '') or error}"


def _code_of(class_name: str) -> str:
    """Say a class that has no code of its own in the words of those that have: relay_refused."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower()


def _wrong_setting(wrong: ErrorDetails) -> str:
    name = "_".join(("DAYBOOK", *map(str, wrong["loc"]))).upper()
    return f"{name}: {wrong['msg']}" if wrong["loc"] else wrong["msg"]


def main(run: Callable[[], object] = app) -> None:
    """Run the command line; turn foreseen errors into one line and their exit code.

    A defect keeps its traceback and exits 70.
    """
    try:
        run()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(ExitCode.OK)
    except Exception as error:  # noqa: BLE001 - a defect, too, ends with a code of its own
        code = exit_code_of(error)
        if code is None:  # Python's own 1 would be read as a negative verdict
            traceback.print_exc()
            sys.exit(ExitCode.DEFECT)
        say(f"daybook: {words_of(error)}")
        sys.exit(code)
