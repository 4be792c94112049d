"""`daybook accounts …`: list, show, open; their events and register; changes of their standing.

Invariant: every change carries who, why and which order; it goes through the API under an
operation id, which is shown.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

import typer

from infra.cli.console import Json, money, out, show_json, show_pairs, show_table
from infra.cli.context import api
from infra.cli.exit_codes import ExitCode
from infra.cli.operation_text import minor_of, new_operation_id
from infra.cli.posting import show_answer
from infra.client import ApiRefused
from ledger import operation as op

Number = Annotated[str, typer.Argument(help="Account number.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the register.")]
Authority = Annotated[str, typer.Option(help="Who ordered it.")]
Order = Annotated[str, typer.Option(help="The number of the order.")]
Limit = Annotated[int, typer.Option(help="Rows at most; 0 = all.")]

accounts_app = typer.Typer(
    help="Accounts: list, show, open, and change their standing.", no_args_is_help=True
)


@accounts_app.command("list")
def list_accounts(
    ctx: typer.Context,
    owner: Annotated[str | None, typer.Option(help="Only this owner's.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only this type.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only on this subject.")] = None,
    currency: Annotated[str | None, typer.Option(help="Only in this currency.")] = None,
    parent: Annotated[str | None, typer.Option(help="Only below this account.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List accounts by number, with their balances.

    \b
    Examples:
      daybook accounts list --type merchant
      daybook accounts list --subject 2001.01 --limit 0 --json
    """
    filters = {
        "owner": owner,
        "type": kind,
        "subject": subject,
        "currency": currency,
        "parent": parent,
    }
    page_size = min(limit, 1_000) if limit else 1_000
    with api(ctx) as client:
        found = client.pages("/v1/accounts", limit=page_size, **filters)
        items = list(islice(found, limit or None))
    if as_json:
        show_json(items)
        return
    show_table(
        [
            "account",
            "owner",
            "type",
            "subject",
            "currency",
            "balance",
            "available",
            "held",
            "status",
        ],
        [
            (
                item["account"],
                item["owner"],
                item["type"],
                item["subject"],
                item["currency"],
                money(item["balance"], item["currency"]),
                money(item["available"], item["currency"]) or "no limit",
                money(item["held"], item["currency"]),
                _standing(item),
            )
            for item in items
        ],
        right=("balance", "available", "held"),
        footer=f"the first {limit}; --limit 0 shows all" if limit and len(items) == limit else None,
    )


def _standing(item: dict[str, Any]) -> str:
    words = [item["status"]]
    words += ["frozen"] if item.get("frozen_whole") else []
    words += ["lost"] if item.get("lost") else []
    words += [item["payment_status"]] if item["payment_status"] != "normal" else []
    return ", ".join(words)


@accounts_app.command("show")
def show_account(ctx: typer.Context, number: Number, as_json: Json = False) -> None:
    """Show one account: balances, standing, open holds and freezes.

    \b
    Example:
      daybook accounts show C-00001
    """
    path = _path(number)
    with api(ctx) as client:
        item = client.get(path)
        holds = client.get(f"{path}/holds")["items"]
        freezes = client.get(f"{path}/freezes")["items"]
    if as_json:
        show_json({**item, "holds": holds, "freezes": freezes})
        return
    show_pairs(_account_pairs(item), title=f"Account {number}")
    if holds:
        show_table(
            ["hold", "amount", "operation", "expires"],
            [
                (
                    hold["hold_id"],
                    money(hold["amount"], item["currency"]),
                    hold["operation_id"],
                    hold.get("expires_at") or ("with its payout" if hold["payout"] else "never"),
                )
                for hold in holds
            ],
            right=("amount",),
        )
    if freezes:
        show_table(
            ["freeze", "amount", "authority", "order", "reason"],
            [
                (
                    freeze["freeze_id"],
                    money(freeze["amount"], item["currency"]) or "whole account",
                    freeze["authority"],
                    freeze["order"],
                    freeze["reason"],
                )
                for freeze in freezes
            ],
            right=("amount",),
        )


def _account_pairs(item: dict[str, Any]) -> list[tuple[str, object]]:
    currency = item["currency"]
    pairs: list[tuple[str, object]] = [
        ("owner", item["owner"]),
        ("type, subject", f"{item['type']}, {item['subject']} ({item['normal_side']} side)"),
        ("standing", _standing(item)),
        ("balance", f"{money(item['balance'], currency)} {currency}"),
        ("held, frozen", f"{money(item['held'], currency)}, {money(item['frozen'], currency)}"),
        ("reserve", money(item["reserve"], currency)),
        ("credit limit", _credit_limit(item)),
        ("available", money(item["available"], currency) or "no limit"),
        ("previous day", money(item["previous_balance"], currency)),
        ("today's debits", money(item["day_debits"], currency)),
        ("today's credits", money(item["day_credits"], currency)),
        ("business date", item["business_date"]),
        ("version", item["version"]),
        ("opened", f"{item['opened_date']} by {item['opened_by']}"),
    ]
    if (buffer := item.get("buffer")) is not None:
        pairs.insert(4, ("accepted", _accepted(buffer, currency)))
    if (striped := item.get("striped")) is not None:
        pairs.insert(4, ("stripes", _striped(striped, currency)))
    rolled = item.get("rolled_up")
    if rolled and rolled["accounts"] > 1:
        figure = money(rolled["balance"], currency)
        pairs.append(("with sub-accounts", f"{figure} {currency} on {rolled['accounts']} accounts"))
    return pairs


def _credit_limit(item: dict[str, Any]) -> str:
    """Say the limit, the agreement behind it and whether that covers the open date."""
    limit = money(item["credit_limit"], item["currency"]) or "no limit"
    if (credit := item.get("credit")) is None:
        return limit
    dates = f"{credit['valid_from'] or ''} to {credit['valid_to'] or ''}".strip()
    named = f"{limit}, agreement {credit['agreement']}"
    named = named if dates == "to" else f"{named} ({dates})"
    return named if credit["in_force"] else f"{named}: not in force"


def _striped(striped: dict[str, Any], currency: str) -> str:
    """Say over how many stripes inflows go, and where the balance lies."""
    lies = [
        f"{money(part['balance'], currency)} on {part['account']}"
        for part in striped["parts"]
        if part["balance"]
    ]
    return "; ".join([f"{striped['stripes']}", *lies])


def _accepted(buffer: dict[str, Any], currency: str) -> str:
    """Say what waits on the account's buffer, and the agreement."""
    amount = f"{money(buffer['accepted'], currency)} {currency} in {buffer['entries']:,} entries"
    if not buffer["buffer_ms"]:
        return f"{amount}; no agreement any more"
    named = f", agreement {buffer['agreement']}" if buffer["agreement"] else ""
    bound = f"applied within {buffer['buffer_ms'] / 1000:g} s"
    return f"{amount}, {bound} ({buffer['directions']}{named})"


@accounts_app.command("open")
def open_account(
    ctx: typer.Context,
    number: Number,
    owner: Annotated[str, typer.Option(help="The party behind it.")],
    kind: Annotated[str, typer.Option("--type", help="customer, merchant, bank, …")],
    subject: Annotated[str, typer.Option(help="A controlled subject of the chart.")],
    currency: Annotated[str, typer.Option(help="ISO 4217 currency.")] = "CNY",
    normal_side: Annotated[
        str, typer.Option(help="credit (customer money) or debit (bank, clearing).")
    ] = "credit",
    parent: Annotated[str | None, typer.Option(help="Account above it in the tree.")] = None,
    credit_limit: Annotated[
        str | None, typer.Option(help="How far below zero, in major units, or `unlimited`.")
    ] = None,
    operation_id: Annotated[str | None, typer.Option("--id", help="Operation id.")] = None,
    as_json: Json = False,
) -> None:
    """Open an account.

    \b
    Examples:
      daybook accounts open C-1 --owner U-1 --type customer --subject 2001.01
      daybook accounts open BANK-1 --owner house --type bank --subject 1002.01.02 \\
          --normal-side debit --credit-limit unlimited
    """
    if normal_side not in ("credit", "debit"):
        raise typer.BadParameter("--normal-side is credit or debit")
    limit_minor: int | None = 0
    if credit_limit is not None:
        limit_minor = None if credit_limit == "unlimited" else minor_of(credit_limit, currency)
    request = op.OpenAccount(
        operation_id=operation_id or new_operation_id(),
        account=number,
        owner=owner,
        type=kind,
        subject=subject,
        currency=currency,
        normal_side="debit" if normal_side == "debit" else "credit",
        parent=parent,
        credit_limit_minor=limit_minor,
    )
    send(ctx, "/v1/accounts", request, as_json=as_json)


@accounts_app.command("events")
def list_events(
    ctx: typer.Context, number: Number, limit: Limit = 50, as_json: Json = False
) -> None:
    """List what happened on an account, by version: each event with the balance after it.

    An account with stripes is one: the events of all parts by their place in the log, each with
    the part that it lies on and the balance of all.

    \b
    Examples:
      daybook accounts events C-1
      daybook accounts events C-1 --limit 0 --json
    """
    _list_stream(ctx, number, "events", limit, as_json=as_json)


@accounts_app.command("register")
def list_register(
    ctx: typer.Context, number: Number, limit: Limit = 50, as_json: Json = False
) -> None:
    """List who changed an account's standing, when, why and by which order.

    \b
    Example:
      daybook accounts register C-1
    """
    _list_stream(ctx, number, "register", limit, as_json=as_json)


def _list_stream(ctx: typer.Context, number: str, name: str, limit: int, *, as_json: bool) -> None:
    page_size = min(limit, 1_000) if limit else 1_000
    with api(ctx) as client:
        currency = client.get(_path(number))["currency"]
        found = client.pages(f"{_path(number)}/{name}", limit=page_size)
        items = list(islice(found, limit or None))
    if as_json:
        show_json(items)
        return
    facts = [(item, item["fact"]) for item in items]
    if name == "register":
        show_table(
            ["version", "event", "what", "booked at", "who", "authority", "order", "reason"],
            [
                (
                    item["version"],
                    item["event"],
                    _what(fact, currency),
                    fact["booked_at"],
                    item.get("principal") or fact.get("principal"),
                    fact.get("authority"),
                    fact.get("order"),
                    fact.get("reason"),
                )
                for item, fact in facts
            ],
            right=("version",),
        )
        return
    _show_events(facts, currency)


def _show_events(facts: list[tuple[dict[str, Any], dict[str, Any]]], currency: str) -> None:
    """Show events with the balance after each; with stripes, all parts' and where each lies."""
    striped = any("account" in item for item, _ in facts)
    show_table(
        [
            *(("position", "on") if striped else ()),
            *("version", "event", "amount", "balance", "held", "date", "type", "operation"),
        ],
        [
            (
                *((item["position"], item["account"]) if striped else ()),
                item["version"],
                item["event"],
                money(fact.get("amount"), currency),
                money((item if striped else fact).get("balance"), currency),
                money(fact.get("held"), currency),
                fact["business_date"],
                fact.get("business_type"),
                fact.get("operation_id") or fact.get("command_id"),
            )
            for item, fact in facts
        ],
        right=("position", "version", "amount", "balance", "held"),
    )


# What a fact of the register says, in words; amounts are money in the account's currency.
SAID = {
    "amount": "",
    "freeze_id": "freeze ",
    "payment_status": "",
    "partial_types": "but for ",
    "partial_amount": "or above ",
    "reserve": "",
    "credit_limit": "",
    "business_type": "",
    "per_operation": "each ",
    "per_day_amount": "a day ",
    "per_day_count": "times a day ",
    "buffer_ms": "within ms ",
    "directions": "",
    "stripes": "stripes ",
    "agreement": "agreement ",
    "valid_from": "from ",
    "valid_to": "to ",
}
AMOUNTS = {"amount", "partial_amount", "reserve", "credit_limit", "per_operation", "per_day_amount"}


def _what(fact: dict[str, Any], currency: str) -> str:
    """Say what an entry of the register has set."""
    said = []
    for name, words in SAID.items():
        value = fact.get(name)
        of_leg = name == "business_type" and "leg_no" in fact  # the leg's own, nothing was set
        if value is None or value in ("", []) or of_leg:
            continue
        text = ", ".join(value) if isinstance(value, list) else str(value)
        said.append(words + (money(value, currency) if name in AMOUNTS else text))
    return "; ".join(said)


def change_account(
    ctx: typer.Context, number: str, change: op.Change, *, as_json: bool = False
) -> None:
    """Send one change of an account's standing."""
    send(ctx, f"{_path(number)}/commands", change, as_json=as_json)


def send(ctx: typer.Context, path: str, body: object, *, as_json: bool) -> None:
    """Send what is booked or rejected, and show which."""
    with api(ctx) as client:
        try:
            given = client.post(path, body)
        except ApiRefused as refused:
            if refused.status != 422:
                raise
            if as_json:
                show_json(refused.problem)
            else:
                out().print(f"rejected: {refused}", markup=False)
            raise typer.Exit(ExitCode.NO) from None
    if as_json:
        show_json(given.value)
    else:
        show_answer(given.value, replayed=given.replayed)


def _path(number: str) -> str:
    return f"/v1/accounts/{quote(number, safe='')}"
