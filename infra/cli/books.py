"""`daybook books|day|status`: the books of this database, their open day, where everything stands.

Invariant: the open business date moves by command, a person's or the schedule's.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import typer

from consumers.set_aside import place_of
from infra.cli.console import Json, out, say, show_json, show_pairs, show_table
from infra.cli.context import api, database, settings_in_use
from infra.cli.sheets import freshness_words
from infra.first_start import open_book_with_rules

books_app = typer.Typer(help="Books: one legal entity's accounts each.", no_args_is_help=True)
day_app = typer.Typer(help="The open business date.", no_args_is_help=True)
DAY = typer.Argument(formats=["%Y-%m-%d"], help="YYYY-MM-DD.")


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.add_typer(books_app, name="books")
    app.add_typer(day_app, name="day")
    app.command("status")(status_command)


@books_app.command("list")
def list_books(ctx: typer.Context, as_json: Json = False) -> None:
    """List the books and their open days.

    \b
    Example:
      daybook books list
    """
    with api(ctx) as client:
        items = client.get("/v1/books")["items"]
    if as_json:
        show_json(items)
        return
    show_table(
        ["book", "name", "open day", "closed through"],
        [
            (item["book_id"], item["name"], item["open_business_date"], item["closed_through"])
            for item in items
        ],
    )


@books_app.command("open")
def open_book(
    ctx: typer.Context,
    book_id: Annotated[str, typer.Argument(help="A short name, e.g. main.")],
    open_date: Annotated[dt.datetime, typer.Option("--date", formats=["%Y-%m-%d"])],
    name: Annotated[str, typer.Option(help="Its full name.")] = "",
    as_json: Json = False,
) -> None:
    """Open a book with its first business date and the shipped rules; safe to repeat.

    Goes to the database itself, so that it works before any key exists.

    \b
    Example:
      daybook books open main --name "Main book" --date 2026-01-30
    """
    with database(settings_in_use(ctx)) as url:
        book = open_book_with_rules(url, book_id, name or book_id, open_date.date())
    if as_json:
        show_json(book)
    else:
        say(f"book {book.book_id} ({book.name}), open day {book.open_business_date}")


@day_app.command("open")
def open_day(ctx: typer.Context, date: Annotated[dt.datetime, DAY], as_json: Json = False) -> None:
    """Move the book's open business date forward; what is booked from now on belongs to it.

    \b
    Example:
      daybook day open 2026-01-31
    """
    settings = settings_in_use(ctx)
    with api(ctx) as client:
        body = {"business_date": date.date().isoformat()}
        book = client.post(f"/v1/books/{settings.book}/day", body).value
    if as_json:
        show_json(book)
    else:
        say(f"book {book['book_id']}: the open day is {book['open_business_date']}")


@day_app.command("show")
def show_day(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the book's open business date.

    \b
    Examples:
      daybook day show
      daybook --book main day show --json
    """
    settings = settings_in_use(ctx)
    with api(ctx) as client:
        book = client.get(f"/v1/books/{settings.book}")
    if as_json:
        show_json(book)
    else:
        out().print(book["open_business_date"], markup=False)


def status_command(ctx: typer.Context, as_json: Json = False) -> None:
    """Show where everything stands: engine, log, how far the books are.

    \b
    Example:
      daybook status --json
    """
    with api(ctx) as client:
        status = client.get("/v1/status")
        identity = client.get("/v1/identity")
        sweeps = client.get("/v1/sweeps", limit=1)["data"]["items"]
    if as_json:
        show_json({**status, "books": identity, "last_sweep": sweeps[0] if sweeps else None})
        return
    pairs = [*_status_pairs(status), *_books_pairs(identity), *sweep_pairs(sweeps)]
    show_pairs([*pairs, *backlog_pairs(status["backlog"])])


def sweep_pairs(sweeps: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """Say what the last sweep compared and found; nothing before the first one."""
    if not sweeps:
        return []
    last = sweeps[0]
    verdict = "complete"
    if last["found"]:
        verdict = f"{last['found']:,} found, {last['healed']:,} healed"
    if last["finished_at"] is None:
        verdict += f", reached position {last['reached']:,}"
    span = positions_words(last["after"], last["through"])
    return [("last sweep", f"{span}, {last['operations']:,} operations: {verdict}")]


def positions_words(after: int, through: int) -> str:
    """Say a stretch of the log."""
    if after >= through:
        return f"nothing new after position {through:,}"
    return f"positions {after + 1:,} to {through:,}"


def backlog_pairs(backlog: dict[str, Any]) -> list[tuple[str, object]]:
    """Say what is late or stuck, and what is held back for it; nothing when nothing is."""
    facts = backlog["facts"]
    pairs: list[tuple[str, object]] = []
    if backlog["level"] != "ok":
        held_back = ", ".join(backlog["held_back"])
        pairs.append(("backlog", f"over the {backlog['level']} limit"))
        pairs += [("held back", held_back)] if held_back else []
    oldest = facts["oldest"]
    if oldest is not None:
        what = f"{oldest['operation_id']} ({oldest['status']}), booked {_age_words(oldest)} ago"
        pairs.append(("oldest open", what))
    for each in facts["open"]:
        pairs.append((each["status"], f"{each['count']:,} {each['reason']}".rstrip()))
    for lane in facts["lanes"]:
        if lane["stopped"] is not None:
            pairs.append((f"lane {lane['lane']}", f"stopped: {lane['stopped']}"))
            if place_of(lane["stopped"]) is not None:
                pairs.append(("to pass over it", f"daybook set-aside {lane['lane']} --reason …"))
    buffers = facts["buffers"]
    if buffers["entries"]:
        waits = f"{buffers['entries']:,} entries for {buffers['accounts']:,} hot accounts"
        late = f", {buffers['late']:,} accounts past their bound" if buffers["late"] else ""
        pairs.append(("accepted", f"{waits}, the oldest {buffers['oldest_s']:.1f} s old{late}"))
    relay = facts["relay"]
    if relay is not None:
        lag = f"{relay['lag_positions']:,} positions, {relay['lag_s']:.1f} s behind"
        pairs.append(("relay", f"{relay['topic']} to position {relay['position']:,}, {lag}"))
    return pairs


def _age_words(oldest: dict[str, Any]) -> str:
    return str(dt.timedelta(seconds=int(oldest["age_s"])))


def _books_pairs(identity: dict[str, Any]) -> list[tuple[str, object]]:
    lines = identity["data"]["currencies"]
    counts = [
        f"{sum(line[status]['count'] for line in lines):,} {status}"
        for status in ("vouchered", "parked", "waiting", "non_posting")
    ]
    return [
        ("books", freshness_words(identity["freshness"])),
        ("operations", ", ".join(counts).replace("non_posting", "non-posting")),
    ]


def _status_pairs(status: dict[str, Any]) -> list[tuple[str, object]]:
    engine, log, book = status["engine"], status["log"], status["book"]
    running = "running" if engine["running"] else f"stopped: {engine['stopped_by']}"
    return [
        ("version", status["version"]),
        ("book", f"{book['book_id']} ({book['name']}), open day {book['open_business_date']}"),
        ("engine", f"{running}, {engine['queued']:,} queued"),
        (
            "log",
            f"{log['log_id']} (incarnation {log['incarnation']}), position {log['position']:,}",
        ),
    ]
