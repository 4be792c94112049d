"""`daybook post`: one operation from options, or many from a JSON or NDJSON file.

Invariant: every operation has an id before it is sent and the id is shown, so that a lost answer
can be asked for again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import typer

from infra.cli.console import Json, money, out, progress_bar, show_json, show_lines, show_table
from infra.cli.context import api, read_input
from infra.cli.exit_codes import ExitCode
from infra.cli.operation_text import operation_of
from infra.client import ApiRefused, DaybookClient
from ledger.operation import LegKind

BATCH_SIZE = 1_000
Legs = Annotated[list[str] | None, typer.Option(metavar="ACCOUNT=AMOUNT", show_default=False)]
HoldLegs = Annotated[
    list[str] | None, typer.Option(metavar="ACCOUNT=AMOUNT@HOLD", show_default=False)
]
ORDER_OF_KINDS: tuple[LegKind, ...] = ("release", "capture", "debit", "credit", "hold")


def add_to(app: typer.Typer) -> None:
    """Add this page's command."""
    app.command("post")(post_command)


def post_command(
    ctx: typer.Context,
    business_type: Annotated[
        str | None, typer.Argument(help="Business type; left out with --file.")
    ] = None,
    credit: Legs = None,
    debit: Legs = None,
    hold: HoldLegs = None,
    expires_at: Annotated[
        str | None, typer.Option(help="When the holds expire: 2026-01-31T12:00:00Z.")
    ] = None,
    release: HoldLegs = None,
    capture: HoldLegs = None,
    amount: Annotated[
        list[str] | None, typer.Option(metavar="NAME=AMOUNT", help="Named amount, e.g. fee=0.60.")
    ] = None,
    order: Annotated[
        list[str] | None, typer.Option(metavar="KIND=NUMBER", help="trade=, payment=, channel=.")
    ] = None,
    currency: Annotated[str, typer.Option(help="ISO 4217 currency of all amounts.")] = "CNY",
    operation_id: Annotated[
        str | None, typer.Option("--id", help="Operation id; default: a new UUIDv7.")
    ] = None,
    original: Annotated[
        str | None, typer.Option(help="Operation id of what is refunded, captured, …")
    ] = None,
    description: Annotated[str | None, typer.Option(help="Free text.")] = None,
    file: Annotated[
        str | None, typer.Option(help="JSON (one or an array) or NDJSON; - is standard input.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide, but book nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Post operations: all legs of one are booked, or none. Amounts are in major units.

    Exit code 0 when everything was booked, 1 when something was rejected.

    \b
    Examples:
      daybook post recharge --credit C-1=100.00 --amount fee=0.60
      daybook post payment --debit C-1=100.00 --credit M-1=99.40 --amount fee=0.60
      daybook post hold --hold C-1=50.00@H-1
      daybook post payment_capture --capture C-1=50.00@H-1 --credit M-1=50.00
      daybook post refund --debit M-1=10.00 --credit C-1=10.00 --original OPERATION_ID
      daybook post --file operations.ndjson        (amounts in minor units, as in the API)
    """
    if (file is None) == (business_type is None):
        raise typer.BadParameter("name a business type, or a --file")
    if file is not None:
        _post_file(ctx, read_input(file), dry_run=dry_run, as_json=as_json)
        return
    given = {"credit": credit, "debit": debit, "hold": hold, "release": release, "capture": capture}
    operation = operation_of(
        business_type or "",
        legs=[(kind, text) for kind in ORDER_OF_KINDS for text in given[kind] or []],
        amounts=amount or [],
        currency=currency,
        orders=order or [],
        operation_id=operation_id,
        original=original,
        description=description,
        expires_at=expires_at,
    )
    with api(ctx) as client:
        _post_one(client, operation, dry_run=dry_run, as_json=as_json)


def _post_one(client: DaybookClient, operation: object, *, dry_run: bool, as_json: bool) -> None:
    try:
        given = client.post("/v1/operations", operation, dry_run=dry_run or None)
    except ApiRefused as refused:
        if refused.status != 422:
            raise
        if as_json:
            show_json(refused.problem)
        else:
            problem = refused.problem
            out().print(
                f"rejected: {refused.code} {problem.get('account') or ''} "
                f"{problem.get('detail', '')} (operation {problem.get('operation_id')})",
                markup=False,
            )
        raise typer.Exit(ExitCode.NO) from None
    if as_json:
        show_json(given.value)
        return
    show_answer(given.value, replayed=given.replayed)


def show_answer(answer: dict[str, Any], *, replayed: bool = False) -> None:
    """Print what a booked operation left behind."""
    status = answer["status"]
    how = f"would be {status}" if answer.get("dry_run") else status
    again = " (answered before)" if replayed else ""
    facts = [f"operation {answer['operation_id']}", f"day {answer['business_date']}"]
    if not answer.get("dry_run"):
        facts[0] += f" at position {answer['position']}"
        facts.append(f"accounting {answer.get('accounting_status') or '–'}")
    out().print(f"{how}{again}: {', '.join(facts)}", markup=False)
    show_table(
        ["account", "currency", "balance", "available", "held", "version"],
        [
            (
                account["account"],
                account["currency"],
                money(account["balance"], account["currency"]),
                money(account.get("available"), account["currency"]) or "no limit",
                money(account["held"], account["currency"]),
                account["version"],
            )
            for account in answer.get("accounts", [])
        ],
        right=("balance", "available", "held", "version"),
    )
    for issue in answer.get("issues", []):
        figure = money(issue["amount"], issue["currency"])
        out().print(
            f"issue: {issue['code']}: {figure} {issue['currency']} for "
            f"{issue['intended_account']} lies on {issue['account']} ({issue['reason']})",
            markup=False,
        )


def _post_file(ctx: typer.Context, raw: bytes, *, dry_run: bool, as_json: bool) -> None:
    operations = read_operations(raw)
    ended: Counter[str] = Counter()
    bad: list[tuple[int, dict[str, Any]]] = []
    with api(ctx) as client, progress_bar("posting", len(operations)) as bar:
        for first, batch in _batches(operations):
            results = client.post_lines("/v1/operations:batch", batch, dry_run=dry_run or None)
            for number, result in enumerate(results, start=first + 1):
                ended[_ending(result)] += 1
                if result["status"] not in ("booked", "accepted"):
                    bad.append((number, result))
            if as_json:
                show_lines(results)
            bar.advance(len(batch))
    if not as_json:
        out().print(", ".join(f"{count:,} {name}" for name, count in sorted(ended.items())))
        if bad:
            show_table(
                ["line", "operation id", "code", "account", "detail"],
                [
                    (no, r.get("operation_id"), r.get("code"), r.get("account"), r.get("detail"))
                    for no, r in bad[:50]
                ],
                right=("line",),
                footer=f"… and {len(bad) - 50:,} more" if len(bad) > 50 else None,
            )
    if bad:
        raise typer.Exit(ExitCode.NO)


def _ending(result: dict[str, Any]) -> str:
    return "answered before" if result.get("replayed") else str(result["status"])


def read_operations(raw: bytes) -> list[bytes]:
    """Return the operations of a file as NDJSON lines; each has its id. Raises `BadParameter`."""
    try:
        whole = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return [_checked(line, number) for number, line in _lines(raw)]
    items = whole if isinstance(whole, list) else [whole]
    return [_checked(msgspec.json.encode(item), number) for number, item in enumerate(items, 1)]


def _lines(raw: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(raw.splitlines(), start=1):
        if line.strip():
            yield number, line


def _checked(line: bytes, number: int) -> bytes:
    try:
        item = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"line {number} is not JSON: {error}") from error
    if not isinstance(item, dict):
        raise typer.BadParameter(f"line {number} is not an operation")
    if "operation_id" not in item:
        # An id made here would be another one in the next run, which would book it twice.
        raise typer.BadParameter(f"line {number} has no operation_id")
    return line


def _batches(items: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    for first in range(0, len(items), BATCH_SIZE):
        yield first, items[first : first + BATCH_SIZE]
