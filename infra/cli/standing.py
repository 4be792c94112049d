"""`daybook accounts freeze|unfreeze|close|…`: one command for each change of an account's standing.

Invariant: each is one request of `ledger/operation.py`; what a register needs is asked for.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal, cast

import msgspec
import typer

from infra.cli.accounts import (
    Authority,
    Number,
    Order,
    Reason,
    accounts_app,
    change_account,
    send,
)
from infra.cli.console import Json
from infra.cli.context import api
from infra.cli.operation_text import minor_of, new_operation_id
from ledger import operation as op


def add_to(app: typer.Typer) -> None:
    """Add `accounts` with all of its commands: those of `accounts.py` and these."""
    app.add_typer(accounts_app, name="accounts")


FIRST_DAY = typer.Option(formats=["%Y-%m-%d"], help="First day of the agreement.")
LAST_DAY = typer.Option(formats=["%Y-%m-%d"], help="Last day of the agreement.")
FROZEN_AMOUNT = typer.Option(help="This amount only, in major units (needs scope `post`).")
STATUSES = ("normal", "receive_only", "blocked", "partial_stop")


@accounts_app.command("close")
def close(ctx: typer.Context, number: Number, reason: Reason = "", as_json: Json = False) -> None:
    """Close an account; refused while anything of it remains.

    That is: a balance, a hold, a freeze, an open account below it, an operation that accounting
    has not ended.

    \b
    Example:
      daybook accounts close C-1 --reason "moved to another bank"
    """
    change_account(
        ctx,
        number,
        op.CloseAccount(operation_id=new_operation_id(), reason=reason),
        as_json=as_json,
    )


@accounts_app.command("freeze")
def freeze(
    ctx: typer.Context,
    number: Number,
    authority: Authority,
    order: Order,
    reason: Reason,
    freeze_id: Annotated[str | None, typer.Option(help="Default: the order's number.")] = None,
    amount: Annotated[str | None, FROZEN_AMOUNT] = None,
    as_json: Json = False,
) -> None:
    """Freeze a whole account, or an amount on it, by an authority's order.

    \b
    Examples:
      daybook accounts freeze C-1 --authority Court --order 2026-17 --reason Preservation
      daybook accounts freeze C-1 --amount 500.00 --authority Court --order 2026-18 --reason Debt
    """
    if amount is not None:
        leg = _frozen_leg(ctx, "freeze", number, amount, (freeze_id or order, authority, order))
        _post_leg(ctx, msgspec.structs.replace(leg, reason=reason), as_json=as_json)
        return
    change = op.FreezeAccount(
        operation_id=new_operation_id(),
        freeze_id=freeze_id or order,
        authority=authority,
        order_number=order,
        reason=reason,
    )
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("unfreeze")
def unfreeze(
    ctx: typer.Context,
    number: Number,
    authority: Authority,
    order: Order,
    reason: Reason,
    freeze_id: Annotated[str, typer.Option(help="The freeze to lift.")],
    amount: Annotated[str | None, FROZEN_AMOUNT] = None,
    as_json: Json = False,
) -> None:
    """Lift a freeze of the account, or of an amount (all or part); only the same authority may.

    \b
    Examples:
      daybook accounts unfreeze C-1 --freeze-id 2026-17 --authority Court --order 31 --reason Paid
      daybook accounts unfreeze C-1 --amount 500 --freeze-id 2026-18 \\
        --authority Court --order 32 --reason "half of the debt is paid"
    """
    if amount is not None:
        leg = _frozen_leg(ctx, "unfreeze", number, amount, (freeze_id, authority, order))
        _post_leg(ctx, msgspec.structs.replace(leg, reason=reason), as_json=as_json)
        return
    change = op.UnfreezeAccount(
        operation_id=new_operation_id(),
        freeze_id=freeze_id,
        authority=authority,
        order_number=order,
        reason=reason,
    )
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("report-loss")
def report_loss(
    ctx: typer.Context, number: Number, reason: Reason = "", as_json: Json = False
) -> None:
    """Report the owner's instrument lost: money out stops.

    \b
    Example:
      daybook accounts report-loss C-1 --reason "card stolen"
    """
    change = op.ReportLoss(operation_id=new_operation_id(), reason=reason)
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("report-found")
def report_found(
    ctx: typer.Context, number: Number, reason: Reason = "", as_json: Json = False
) -> None:
    """Lift a report of loss.

    \b
    Example:
      daybook accounts report-found C-1 --reason "card found"
    """
    change = op.ReportFound(operation_id=new_operation_id(), reason=reason)
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("payment-status")
def payment_status(
    ctx: typer.Context,
    number: Number,
    status: Annotated[str, typer.Argument(help=", ".join(STATUSES))],
    allow: Annotated[
        list[str] | None, typer.Option(help="With partial_stop: a business type that passes.")
    ] = None,
    stopped: Annotated[
        str | None, typer.Option(help="With partial_stop: the amount that must stay.")
    ] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Set the payment status: who may pay in and out.

    \b
    Examples:
      daybook accounts payment-status C-1 receive_only
      daybook accounts payment-status C-1 partial_stop --stopped 100.00 --allow fee
      daybook accounts payment-status C-1 normal
    """
    if status not in STATUSES:
        raise typer.BadParameter(f"a payment status is {', '.join(STATUSES)}")
    change = op.SetPaymentStatus(
        operation_id=new_operation_id(),
        payment_status=cast("op.PaymentStatus", status),
        partial_types=tuple(allow or ()),
        partial_amount_minor=_minor(ctx, number, stopped),
        reason=reason,
    )
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("reserve")
def reserve(
    ctx: typer.Context,
    number: Number,
    amount: Annotated[str, typer.Argument(help="What must stay, in major units.")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Set the amount that must stay for agreed direct debits.

    \b
    Example:
      daybook accounts reserve C-1 30.00 --reason "telephone, monthly"
    """
    change = op.SetReserve(
        operation_id=new_operation_id(),
        reserve_minor=_minor(ctx, number, amount) or 0,
        reason=reason,
    )
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("credit-limit")
def credit_limit(
    ctx: typer.Context,
    number: Number,
    amount: Annotated[str, typer.Argument(help="In major units, or `unlimited`.")],
    agreement: Annotated[str, typer.Option(help="The signed credit agreement.")] = "",
    valid_from: Annotated[dt.datetime | None, FIRST_DAY] = None,
    valid_to: Annotated[dt.datetime | None, LAST_DAY] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Set how far below zero the balance may go; with dates, on those days only.

    \b
    Example:
      daybook accounts credit-limit M-1 5000 --agreement L-2026-3 --valid-to 2026-12-31
    """
    change = op.SetCreditLimit(
        operation_id=new_operation_id(),
        credit_limit_minor=None if amount == "unlimited" else _minor(ctx, number, amount),
        agreement=agreement,
        valid_from=None if valid_from is None else valid_from.date(),
        valid_to=None if valid_to is None else valid_to.date(),
        reason=reason,
    )
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("buffer")
def buffer(
    ctx: typer.Context,
    number: Number,
    buffer_ms: Annotated[
        int, typer.Argument(help="The bound in milliseconds, 100 to 60,000; 0 ends it.")
    ],
    agreement: Annotated[str, typer.Option(help="The signed agreement; inflows need one.")] = "",
    valid_from: Annotated[dt.datetime | None, FIRST_DAY] = None,
    valid_to: Annotated[dt.datetime | None, LAST_DAY] = None,
    both: Annotated[
        bool, typer.Option("--both", help="Money out too: accounts without a floor only.")
    ] = False,
    entries_max: Annotated[
        int, typer.Option(help="So many may wait before the API pushes back.")
    ] = 1_000_000,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Accept inflows of a hot account at once and apply them within a bound.

    \b
    Examples:
      daybook accounts buffer M-1 500 --agreement A-2026-7 --valid-to 2026-12-31
      daybook accounts buffer CHANNEL-1 1000 --both
    """
    change = op.SetBuffering(
        operation_id=new_operation_id(),
        buffer_ms=buffer_ms,
        directions="both" if both else "in",
        agreement=agreement,
        valid_from=None if valid_from is None else valid_from.date(),
        valid_to=None if valid_to is None else valid_to.date(),
        entries_max=entries_max,
        reason=reason,
    )
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("stripes")
def stripes(
    ctx: typer.Context,
    number: Number,
    stripes: Annotated[int, typer.Argument(help="Over so many, 1 to 64; 0 ends it.")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Spread the inflows of a hot account over stripe accounts; it stays one account.

    Its balance, what is available and what is refused are as without stripes. With fewer than
    before, what lies on the others is gathered to the account at once. It keeps each stream
    short; it makes no posting faster, but slower.

    \b
    Examples:
      daybook accounts stripes M-1 8
      daybook accounts stripes M-1 0 --reason "the sale is over"
    """
    change = op.SetStripes(operation_id=new_operation_id(), stripes=stripes, reason=reason)
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("limit")
def limit(
    ctx: typer.Context,
    number: Number,
    business_type: Annotated[str, typer.Argument(help="The business type that is limited.")],
    per_operation: Annotated[str | None, typer.Option(help="Amount of one operation.")] = None,
    per_day: Annotated[str | None, typer.Option(help="Amount of one business day.")] = None,
    per_day_count: Annotated[int | None, typer.Option(help="Operations of one day.")] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Limit a business type on an account; without amounts the limit is lifted.

    \b
    Examples:
      daybook accounts limit C-1 withdrawal --per-operation 500.00 --per-day 2000.00
      daybook accounts limit C-1 withdrawal --per-day-count 3
    """
    change = op.SetLimit(
        operation_id=new_operation_id(),
        business_type=business_type,
        per_operation_minor=_minor(ctx, number, per_operation),
        per_day_amount_minor=_minor(ctx, number, per_day),
        per_day_count=per_day_count,
        reason=reason,
    )
    change_account(ctx, number, change, as_json=as_json)


@accounts_app.command("inquiry")
def inquiry(
    ctx: typer.Context,
    number: Number,
    authority: Authority,
    order: Order,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Write a court's or authority's inquiry into the register; it changes nothing else.

    \b
    Example:
      daybook accounts inquiry C-1 --authority Court --order 2026-17 --reason "balance asked"
    """
    change = op.RegisterInquiry(
        operation_id=new_operation_id(),
        authority=authority,
        order_number=order,
        reason=reason,
    )
    change_account(ctx, number, change, as_json=as_json)


def _frozen_leg(
    ctx: typer.Context,
    kind: Literal["freeze", "unfreeze"],
    number: str,
    amount: str,
    who: tuple[str, str, str],
) -> op.Leg:
    """Say a leg that freezes or lifts an amount; `who`: freeze id, authority, order."""
    with api(ctx) as client:
        currency = client.get(f"/v1/accounts/{number}")["currency"]
    freeze_id, authority, order = who
    return op.Leg(
        kind,
        number,
        minor_of(amount, currency),
        currency,
        freeze_id=freeze_id,
        authority=authority,
        order_number=order,
    )


def _post_leg(ctx: typer.Context, leg: op.Leg, *, as_json: bool) -> None:
    """Book a leg as an operation of its own, whose business type has the leg's name."""
    operation = op.Operation(leg.kind, (leg,), new_operation_id())
    send(ctx, "/v1/operations", operation, as_json=as_json)


def _minor(ctx: typer.Context, number: str, text: str | None) -> int | None:
    """Read an amount in the account's own currency."""
    if text is None:
        return None
    with api(ctx) as client:
        return minor_of(text, client.get(f"/v1/accounts/{number}")["currency"])
