"""What commands print: tables for people, JSON for programs, progress on standard error.

Invariant: standard output carries the answer only; messages and progress go to standard error, so
that `--json` output can always be piped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ledger.money import format_minor

PIPED_WIDTH = 240
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def out() -> Console:
    """Return the console of the answer; wide when it is piped, so that nothing is cut."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


def err() -> Console:
    """Return the console of messages."""
    return Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Tell the person something that is not the answer."""
    err().print(message, markup=False, soft_wrap=True)


def show_json(value: Any) -> None:
    """Print one JSON value, indented."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    sys.stdout.write(text + "\n")


def show_lines(values: Iterable[Any]) -> None:
    """Print values as NDJSON, one a line, as they come."""
    for value in values:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    title: str | None = None,
    footer: str | None = None,
) -> None:
    """Print a table; columns named in `right` are aligned to the right."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    on_the_right = set(right)
    for column in columns:
        figures = column in on_the_right
        table.add_column(
            column, justify="right" if figures else "left", no_wrap=figures, overflow="fold"
        )
    count = 0
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
        count += 1
    out().print(table)
    if not count:
        out().print("(none)")
    if footer:
        out().print(footer, markup=False)


def show_pairs(pairs: Iterable[tuple[str, object]], *, title: str | None = None) -> None:
    """Print names and values below each other."""
    if title:
        out().print(title, style="italic")
    items = [(name, "" if value is None else str(value)) for name, value in pairs]
    width = max((len(name) for name, _ in items), default=0)
    for name, value in items:
        out().print(Text(name.ljust(width), style="bold").append(f"  {value}", style="not bold"))


def money(amount_minor: int | None, currency: str) -> str:
    """Show minor units in major units with thousands apart; empty for None."""
    if amount_minor is None:
        return ""
    whole, point, part = format_minor(amount_minor, currency).partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}{point}{part}"


class RateColumn(ProgressColumn):
    """Shows how many a second."""

    def render(self, task: Task) -> Text:
        """Return the present rate."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="cyan")


class Bar:
    """A progress bar of one piece of work: total known or not."""

    def __init__(self, progress: Progress, name: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total)

    def advance(self, count: int = 1) -> None:
        """Say that some more is done."""
        self._progress.advance(self._task, count)

    def reach(self, done: int, total: int | None = None) -> None:
        """Say how much is done."""
        self._progress.update(self._task, completed=done, total=total)

    def rename(self, name: str) -> None:
        """Say what is being done."""
        self._progress.update(self._task, description=name)


@contextmanager
def progress_bar(name: str, total: int | None = None) -> Iterator[Bar]:
    """Show a bar with rate and time left while the block runs; on a terminal only."""
    with Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=err(),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        yield Bar(progress, name, total)
