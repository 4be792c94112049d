"""`daybook repair override propose|list|show|approve|reject`: voucher lines given by a person.

These go through the API, so that maker and checker are the principals of two keys. Invariant:
nothing is in the books before somebody else than the maker has approved.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import typer

from infra.cli.console import Json, money, say, show_json, show_pairs, show_table
from infra.cli.context import key_of as key_to_send
from infra.cli.context import read_input, settings_in_use, url_of
from infra.cli.exit_codes import ExitCode
from infra.cli.override_file import override_of
from infra.cli.repair import repair_app
from infra.cli.repair_principal import Key, settings_with_key
from infra.client import DaybookClient

WAIT_S = 30
OPEN = ("parked", "waiting")
override_app = typer.Typer(
    help="Voucher lines given by a person and approved by another.", no_args_is_help=True
)
OverrideId = Annotated[str, typer.Argument(help="The proposal's id (`override list`).")]
Note = Annotated[str | None, typer.Option(help="Why; kept in the log.")]


def add_to(_app: typer.Typer) -> None:
    """Add this page's commands to `repair`."""
    repair_app.add_typer(override_app, name="override")


@override_app.command("propose")
def propose(
    ctx: typer.Context,
    operation_id: Annotated[str, typer.Argument(help="A parked or waiting operation.")],
    lines: Annotated[str, typer.Option(help="File of lines, TOML or JSON; - = JSON from stdin.")],
    note: Note = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Propose the voucher lines of a parked operation; another principal must approve.

    Needs scope `repair`. The lines on accounts are exactly the operation's legs (`repair explain`
    shows them); amounts are text in major units. The date is the operation's business date
    unless the file has an `accounting_date`.

    \b
    Example:
      daybook repair override propose payment-17 --lines payment-17.toml
    \b
    payment-17.toml:
      note = "agreed by telephone"
      [[lines]]
      side = "debit"
      subject = "2001.01"
      account = "C-1"
      currency = "CNY"
      amount = "5.00"
      [[lines]]
      side = "credit"
      subject = "5001.01"
      currency = "CNY"
      amount = "5.00"
    """
    body = override_of(read_input(lines), lines)
    body["operation_id"] = operation_id
    if note is not None:
        body["note"] = note
    with _client(ctx, key) as client:
        made = client.post("/v1/overrides", body).value
    if as_json:
        show_json(made)
        return
    _show_override(made)
    say(f"another principal: daybook repair override approve {made['override_id']} --key …")


@override_app.command("list")
def list_overrides(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also approved and rejected.")] = False,
    limit: Annotated[int, typer.Option(help="Proposals at most; 0 = all.", min=0)] = 50,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List proposals that wait for a checker, oldest first; with `--all` also decided ones.

    \b
    Examples:
      daybook repair override list
      daybook repair override list --all --json
    """
    status = None if everything else "proposed"
    with _client(ctx, key) as client:
        items = list(islice(client.pages("/v1/overrides", status=status), limit or None))
    if as_json:
        show_json(items)
        return
    show_table(
        ["override", "operation", "date", "debits", "maker", "status", "checker", "note"],
        [
            (
                item["override_id"],
                item["operation_id"],
                item["accounting_date"],
                _debits(item),
                item["maker"],
                item["status"],
                item["checker"],
                _settled(item) or item["decision_note"] or item["note"],
            )
            for item in items
        ],
    )


def _settled(item: dict[str, Any]) -> str:
    """Say that a proposal which waits has nothing to do any more; nobody can approve it then."""
    status = item["operation_status"]
    if item["status"] != "proposed" or status in (None, "parked", "waiting"):
        return ""
    return f"the operation is {status}: reject this"


@override_app.command("show")
def show(
    ctx: typer.Context, override_id: OverrideId, key: Key = None, as_json: Json = False
) -> None:
    """Show a proposal with its lines, its maker, and who approved or rejected it.

    \b
    Example:
      daybook repair override show PROPOSAL_ID
    """
    with _client(ctx, key) as client:
        found = client.get(f"/v1/overrides/{override_id}")["data"]
    if as_json:
        show_json(found)
    else:
        _show_override(found)


@override_app.command("approve")
def approve(
    ctx: typer.Context, override_id: OverrideId, key: Key = None, as_json: Json = False
) -> None:
    """Approve as another principal than the maker: the lines become the operation's voucher.

    Needs scope `approve`. Exit code 1 when the lines could no longer stand (a day was cut
    meanwhile): the operation stays parked and says so; 3 when no consumer came in time.

    \b
    Example:
      DAYBOOK_KEY=dbk_… daybook repair override approve 9b2f3c1e-…
    """
    path = f"/v1/overrides/{override_id}:approve"
    with _client(ctx, key) as client:
        found = client.post(path, {}, wait_s=WAIT_S).value
    if as_json:
        show_json(found)
    else:
        _show_override(found)
    if not found["performed"]:
        say("no consumer performed it in time; it stays in the log and will be performed")
        raise typer.Exit(ExitCode.UNAVAILABLE)
    if found["operation_status"] in OPEN:
        raise typer.Exit(ExitCode.NO)


@override_app.command("reject")
def reject(
    ctx: typer.Context,
    override_id: OverrideId,
    note: Note = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Reject a proposal; the maker may take the own one back.

    Needs scope `approve`, for one's own `repair`.

    \b
    Example:
      daybook repair override reject PROPOSAL_ID --note "wrong subject"
    """
    path = f"/v1/overrides/{override_id}:reject"
    with _client(ctx, key) as client:
        found = client.post(path, {"note": note or ""}).value
    if as_json:
        show_json(found)
    else:
        _show_override(found)


def _client(ctx: typer.Context, key: str | None) -> DaybookClient:
    settings = settings_with_key(settings_in_use(ctx), key)
    return DaybookClient(url_of(settings), key=key_to_send(settings), book=settings.book)


def _debits(item: dict[str, Any]) -> str:
    sums: dict[str, int] = {}
    for line in item["lines"]:
        if line["side"] == "debit":
            sums[line["currency"]] = sums.get(line["currency"], 0) + line["amount"]
    return ", ".join(f"{money(minor, currency)} {currency}" for currency, minor in sums.items())


def _show_override(item: dict[str, Any]) -> None:
    decided = f" by {item['checker']}" if item["checker"] else ""
    performed = ", performed" if item["performed"] else ""
    standing = f"{item['operation_status']} {item['operation_detail'] or ''}".strip()
    show_pairs(
        [
            ("override", item["override_id"]),
            ("operation", f"{item['operation_id']}: {standing}"),
            ("date", item["accounting_date"]),
            ("maker", item["maker"]),
            ("status", f"{item['status']}{decided}{performed}"),
            ("note", item["decision_note"] or item["note"] or "–"),
        ]
    )
    rows = []
    for line in item["lines"]:
        amount = money(line["amount"], line["currency"])
        columns = (amount, "") if line["side"] == "debit" else ("", amount)
        rows.append((line["subject"], line.get("account"), *columns, line["currency"]))
    show_table(["subject", "account", "debit", "credit", ""], rows, right=("debit", "credit"))
