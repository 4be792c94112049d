"""`daybook day cut|cuts` and `daybook period …`: days cut, periods closed and reopened.

These go through the API, so that who decides is the principal of a key. Invariant: a close or
a reopening is in force only when somebody else than its maker has approved.
"""

from __future__ import annotations

import datetime as dt
from itertools import islice
from typing import Annotated, Any

import typer

from infra.cli.books import DAY, day_app
from infra.cli.console import Json, money, out, say, show_json, show_pairs, show_table
from infra.cli.context import key_of as key_to_send
from infra.cli.context import settings_in_use, url_of
from infra.cli.exit_codes import ExitCode
from infra.cli.repair_principal import Key, settings_with_key
from infra.client import DaybookClient

WAIT_S = 30
period_app = typer.Typer(
    help="Periods: closed and reopened by two principals.", no_args_is_help=True
)
ChangeId = Annotated[str, typer.Argument(help="The proposal's id (`period list`).")]
Note = Annotated[str, typer.Option(help="Why; kept in the log.")]
Limit = Annotated[int, typer.Option(help="Rows at most; 0 = all.", min=0)]


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    day_app.command("cut")(cut)
    day_app.command("cuts")(list_cuts)
    app.add_typer(period_app, name="period")


def cut(
    ctx: typer.Context,
    date: Annotated[dt.datetime, DAY],
    note: Note = "",
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Cut a day that is over: its vouchers get their numbers, nothing more is dated into it.

    What is parked or waiting is listed; repaired later it is dated into the open day. Safe to
    repeat. Needs scope `day`. Exit code 3 when no consumer has numbered the vouchers in time.

    \b
    Example:
      daybook day cut 2026-01-31
    """
    body = {"cut_date": date.date().isoformat(), "note": note}
    with _client(ctx, key) as client:
        given = client.post("/v1/day-cuts", body, wait_s=WAIT_S)
    made = given.value
    if as_json:
        show_json(made)
    else:
        _show_cut(made, is_new=given.status == 201)
    if not made["performed"]:
        say("no consumer performed it in time; it stays in the log and will be performed")
        raise typer.Exit(ExitCode.UNAVAILABLE)


def list_cuts(
    ctx: typer.Context, limit: Limit = 50, key: Key = None, as_json: Json = False
) -> None:
    """List the days that were cut, newest first, and how many operations were open then.

    \b
    Example:
      daybook day cuts
    """
    with _client(ctx, key) as client:
        items = list(islice(client.pages("/v1/day-cuts"), limit or None))
    if as_json:
        show_json(items)
        return
    show_table(
        ["through", "position", "open day", "not vouchered", "by", "note"],
        [
            (
                item["cut_date"],
                f"{item['position']:,}",
                item["open_date"],
                f"{item['operations']:,}",
                item["maker"],
                item["note"],
            )
            for item in items
        ],
        right=("position", "not vouchered"),
    )


@period_app.command("close")
def close(
    ctx: typer.Context,
    date: Annotated[dt.datetime, DAY],
    note: Note = "",
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Propose to close the book through a date; another principal must approve.

    What would be dated into a closed period parks as `closed_period`. Needs scope `day`.

    \b
    Example:
      daybook period close 2026-01-31 --note "January"
    """
    _propose(ctx, "close", date, note, key, as_json=as_json)


@period_app.command("reopen")
def reopen(
    ctx: typer.Context,
    date: Annotated[dt.datetime, DAY],
    note: Note = "",
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Propose to reopen the book from a date on; another principal must approve.

    Days that are cut stay cut. Needs scope `day`.

    \b
    Example:
      daybook period reopen 2026-01-01
    """
    _propose(ctx, "reopen", date, note, key, as_json=as_json)


@period_app.command("approve")
def approve(
    ctx: typer.Context, change_id: ChangeId, key: Key = None, as_json: Json = False
) -> None:
    """Approve as another principal than the maker. Needs scope `approve`.

    \b
    Example:
      DAYBOOK_KEY=dbk_… daybook period approve 9b2f3c1e-…
    """
    _decide(ctx, f"{change_id}:approve", {}, key, as_json=as_json)


@period_app.command("reject")
def reject(
    ctx: typer.Context,
    change_id: ChangeId,
    note: Note = "",
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Reject a proposal (scope `approve`); the maker may take the own one back (scope `day`).

    \b
    Example:
      daybook period reject PROPOSAL_ID --key …
    """
    _decide(ctx, f"{change_id}:reject", {"note": note}, key, as_json=as_json)


@period_app.command("list")
def list_changes(
    ctx: typer.Context, limit: Limit = 50, key: Key = None, as_json: Json = False
) -> None:
    """Show how far the book is closed and cut, and the proposals, newest first.

    \b
    Example:
      daybook period list
    """
    with _client(ctx, key) as client:
        standing = client.get("/v1/period-changes", limit=1)["data"]
        items = list(islice(_changes(client), limit or None))
    if as_json:
        show_json({**standing, "changes": items, "next_cursor": None})
        return
    show_pairs(
        [
            ("closed through", standing["closed_through"] or "–"),
            ("cut through", standing["cut_through"] or "–"),
        ]
    )
    show_table(
        ["position", "step", "date", "maker", "checker", "proposal", "note"],
        [
            (
                f"{item['position']:,}",
                f"{item['step']} (open)" if item["is_open"] else item["step"],
                item["period_date"],
                item["maker"],
                item["checker"],
                item["change_id"],
                item["note"],
            )
            for item in items
        ],
        right=("position",),
    )


def _changes(client: DaybookClient) -> Any:
    cursor: str | None = None
    while True:
        page = client.get("/v1/period-changes", cursor=cursor)["data"]
        yield from page["changes"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _propose(
    ctx: typer.Context, kind: str, date: dt.datetime, note: str, key: str | None, *, as_json: bool
) -> None:
    body = {"kind": kind, "period_date": date.date().isoformat(), "note": note}
    with _client(ctx, key) as client:
        made = client.post("/v1/period-changes", body, wait_s=WAIT_S).value
    _show_change(made, as_json=as_json)
    if not as_json:
        say(f"another principal: daybook period approve {made['change_id']} --key …")


def _decide(
    ctx: typer.Context, verb: str, body: dict[str, str], key: str | None, *, as_json: bool
) -> None:
    with _client(ctx, key) as client:
        found = client.post(f"/v1/period-changes/{verb}", body, wait_s=WAIT_S).value
    _show_change(found, as_json=as_json)


def _client(ctx: typer.Context, key: str | None) -> DaybookClient:
    settings = settings_with_key(settings_in_use(ctx), key)
    return DaybookClient(url_of(settings), key=key_to_send(settings), book=settings.book)


def _show_cut(item: dict[str, Any], *, is_new: bool) -> None:
    said = "is cut" if is_new else "was cut already"
    out().print(
        f"through {item['cut_date']} the book {said} (position {item['position']:,}); "
        f"the open day is {item['open_date']}",
        markup=False,
    )
    if not item["operations"]:
        return
    listed = len(item["operation_ids"])
    show_table(
        ["status", "reason", "operations", "amount", ""],
        [
            (
                each["status"],
                each["reason"],
                f"{each['count']:,}",
                money(each["amount"], each["currency"]) if each["currency"] else "",
                each["currency"],
            )
            for each in item["parked"]
        ],
        right=("operations", "amount"),
        title="Not vouchered at the cut; later it is dated into the open day",
        footer=f"{item['operations']:,} operations, {listed:,} of them named in the decision",
    )


def _show_change(item: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(item)
        return
    show_pairs(
        [
            ("proposal", item["change_id"]),
            ("step", item["step"]),
            ("date", item["period_date"] or "–"),
            ("maker", item["maker"] or "–"),
            ("checker", item["checker"] or "–"),
            ("note", item["note"] or "–"),
        ]
    )
