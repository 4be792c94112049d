"""`daybook trial-balance|vouchers|identity`: what accountants read, with its freshness.

Invariant: every sheet says up to which position of the log it goes; amounts are shown in major
units, debits and credits apart.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from accounting.trial_balance import TrialBalance, TrialBalanceLine, figures
from infra.cli.console import Json, money, out, show_json, show_table
from infra.cli.context import api
from infra.cli.exit_codes import ExitCode

OFF_BALANCE = "off_balance"
HEADINGS = ("opening Dr", "opening Cr", "debit", "credit", "closing Dr", "closing Cr")
STATUSES = ("booked", "vouchered", "parked", "waiting", "non_posting")
MinPosition = Annotated[
    int | None, typer.Option(help="Wait until this position of the log is in the books.")
]
OperationId = Annotated[
    str | None, typer.Option("--operation", help="Wait until this operation is in the books.")
]
Date = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD")]


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.command("trial-balance")(trial_balance_command)
    app.command("vouchers")(vouchers_command)
    app.command("identity")(identity_command)


def trial_balance_command(
    ctx: typer.Context,
    at: Date = None,
    from_date: Annotated[str | None, typer.Option("--from", metavar="YYYY-MM-DD")] = None,
    level: Annotated[int | None, typer.Option(help="Depth of the chart shown.")] = None,
    min_position: MinPosition = None,
    operation_id: OperationId = None,
    as_json: Json = False,
) -> None:
    """Show the trial balance: every subject's debits, credits and balance, with totals that tie.

    Exit code 0 when it ties, 1 when it does not.

    \b
    Examples:
      daybook trial-balance
      daybook trial-balance --level 1 --at 2026-01-30
      daybook trial-balance --from 2026-01-01 --at 2026-01-31 --json
    """
    with api(ctx) as client:
        answer = client.get(
            "/v1/trial-balance",
            at=at,
            level=level,
            min_position=min_position,
            operation_id=operation_id,
            **{"from": from_date},
        )
    if as_json:
        show_json(answer)
    else:
        show_trial_balance(answer["data"], with_opening=from_date is not None)
        show_freshness(answer["freshness"])
    if not all(total["ties"] for total in answer["data"]["totals"]):
        raise typer.Exit(ExitCode.NO)


def show_trial_balance(data: dict[str, Any], *, with_opening: bool = False) -> None:
    """Print a trial balance, one table for each currency."""
    balance = msgspec.convert(data, TrialBalance)
    shown = slice(0 if with_opening else 2, 6)
    for total in balance.totals:
        table = Table(
            box=SIMPLE_HEAD,
            title=f"Trial balance in {total.currency}",
            title_justify="left",
            pad_edge=False,
        )
        table.add_column("subject")
        table.add_column("name", overflow="fold")
        for heading in HEADINGS[shown]:
            table.add_column(heading, justify="right", no_wrap=True)
        lines = [line for line in balance.lines if line.currency == total.currency]
        for line in lines:
            if line.subject_class != OFF_BALANCE:
                _add_line(table, line, shown)
        verdict = "ties" if total.ties else "DOES NOT TIE"
        sums = [money(minor, total.currency) for minor in figures(total.columns)[shown]]
        table.add_section()
        table.add_row("total", verdict, *sums, style="bold")
        off_balance = [line for line in lines if line.subject_class == OFF_BALANCE]
        if off_balance:
            table.add_section()
        for line in off_balance:
            _add_line(table, line, shown)
        out().print(table)


def _add_line(table: Table, line: TrialBalanceLine, shown: slice) -> None:
    amounts = [money(m, line.currency) if m else "" for m in figures(line.columns)[shown]]
    name = Text("  " * (line.level - 1) + line.name)
    table.add_row(line.subject, name, *amounts, style="bold" if line.level == 1 else None)


def show_freshness(freshness: dict[str, Any]) -> None:
    """Print how far the books are behind the log."""
    out().print(freshness_words(freshness), markup=False)


def freshness_words(freshness: dict[str, Any]) -> str:
    """Say how far the books are behind the log."""
    lag = freshness["lag_operations"]
    behind = "up to date" if not lag else f"{lag:,} operations ({freshness['lag_s']:.1f} s) behind"
    return f"to position {freshness['position']:,} of the log, {behind}"


def identity_command(
    ctx: typer.Context,
    min_position: MinPosition = None,
    as_json: Json = False,
) -> None:
    """Show the identity: booked = vouchered + parked + waiting + non-posting, per currency.

    Exit code 0 when it holds, 1 when it does not.

    \b
    Examples:
      daybook identity
      daybook identity --min-position 120 --json
    """
    with api(ctx) as client:
        answer = client.get("/v1/identity", min_position=min_position)
    if as_json:
        show_json(answer)
    else:
        show_identity(answer["data"])
        show_freshness(answer["freshness"])
    if not answer["data"]["holds"]:
        raise typer.Exit(ExitCode.NO)


def show_identity(data: dict[str, Any]) -> None:
    """Print the identity of a book, counts and amounts."""
    rows = []
    for line in data["currencies"]:
        currency = line["currency"]
        counts = [f"{line[status]['count']:,}" for status in STATUSES]
        rows.append((currency or "no money", "operations", *counts, _holds(line)))
        if currency:
            amounts = [money(line[status]["amount"], currency) for status in STATUSES]
            rows.append(("", "gross amount", *amounts, ""))
    show_table(
        ["currency", "", "booked", "= vouchered", "+ parked", "+ waiting", "+ non-posting", ""],
        rows,
        right=("booked", "= vouchered", "+ parked", "+ waiting", "+ non-posting"),
        title="Identity",
    )


def _holds(line: dict[str, Any]) -> str:
    return "holds" if line["holds"] else "DOES NOT HOLD"


def vouchers_command(
    ctx: typer.Context,
    operation: Annotated[str | None, typer.Option(help="Only this operation's.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only this business type.")] = None,
    from_date: Annotated[str | None, typer.Option("--from", metavar="YYYY-MM-DD")] = None,
    to: Date = None,
    limit: Annotated[int, typer.Option(help="Vouchers at most; 0 = all.")] = 10,
    as_json: Json = False,
) -> None:
    """List vouchers with their lines, by accounting date.

    \b
    Examples:
      daybook vouchers --type refund --limit 3
      daybook vouchers --operation OPERATION_ID
    """
    page_size = min(limit, 1_000) if limit else 1_000
    query: dict[str, str | int | None] = {
        "operation": operation,
        "business_type": kind,
        "from": from_date,
        "to": to,
        "limit": page_size,
    }
    with api(ctx) as client:
        items = list(islice(client.pages("/v1/vouchers", **query), limit or None))
    if as_json:
        show_json(items)
        return
    numbered = any(voucher["number"] for voucher in items)  # once its day is cut
    rows = []
    for voucher in items:
        for line in voucher["lines"]:
            first = line["line_no"] == 1
            amount = money(line["amount"], line["currency"])
            debit = line["side"] == "debit"
            rows.append(
                (
                    *((voucher["number"] if first else "",) if numbered else ()),
                    _dates(voucher) if first else "",
                    voucher["voucher_id"] if first else "",
                    voucher["rule_id"] if first else "",
                    line["subject"],
                    line["account"],
                    amount if debit else "",
                    "" if debit else amount,
                    line["currency"],
                )
            )
    show_table(
        [
            *(("no.",) if numbered else ()),
            *("date", "voucher", "rule", "subject", "account", "debit", "credit", "currency"),
        ],
        rows,
        right=("no.", "debit", "credit"),
    )


def _dates(voucher: dict[str, Any]) -> str:
    """Show the accounting date, with the business date where that is another one."""
    date, business_date = voucher["accounting_date"], voucher["business_date"]
    return str(date) if date == business_date else f"{date} (of {business_date})"
