"""Operations as a person writes them on the command line: `--credit C-1=100.00`.

Amounts are written in major units and become minor units exactly; a figure with more decimals
than its currency has is refused, never rounded.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
import time
import uuid
from collections.abc import Iterable
from typing import cast

import msgspec
import typer

from ledger.errors import InvalidRequest
from ledger.events import OrderNumbers
from ledger.money import AMOUNT_MAX, EXPONENTS, is_currency
from ledger.operation import Leg, LegKind, Operation, RequestedAmount, check_operation

AMOUNT = re.compile(r"(?P<whole>[0-9]{1,19})(?:\.(?P<part>[0-9]+))?")
HOLD_KINDS = ("hold", "release", "capture")


def minor_of(text: str, currency: str) -> int:
    """Return the minor units of `100.00`. Raises `BadParameter`."""
    if not is_currency(currency):
        raise typer.BadParameter(f"{currency!r} is no ISO 4217 currency")
    match = AMOUNT.fullmatch(text)
    exponent = EXPONENTS[currency]
    if match is None or len(match["part"] or "") > exponent:
        raise typer.BadParameter(f"{text!r} is no amount in {currency} ({exponent} decimals)")
    minor: int = int(match["whole"]) * 10**exponent + int(
        (match["part"] or "").ljust(exponent, "0") or 0
    )
    if not 0 <= minor <= AMOUNT_MAX:
        raise typer.BadParameter(f"{text!r} is more than the ledger can count")
    return minor


def leg_of(kind: str, text: str, currency: str) -> Leg:
    """Return the leg of `ACCOUNT=AMOUNT`, for holds `ACCOUNT=AMOUNT@HOLD`."""
    account, equals, amount = text.rpartition("=")
    amount, _, hold_id = amount.partition("@")
    if not equals or not account:
        raise typer.BadParameter(f"--{kind} {text!r}: write ACCOUNT=AMOUNT")
    if (kind in HOLD_KINDS) != bool(hold_id):
        raise typer.BadParameter(f"--{kind} {text!r}: write ACCOUNT=AMOUNT@HOLD for holds only")
    minor = minor_of(amount, currency)
    return Leg(cast("LegKind", kind), account, minor, currency, hold_id=hold_id or None)


def instant_of(text: str) -> dt.datetime:
    """Read an instant with its UTC offset. Raises `BadParameter`."""
    try:
        instant = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no instant") from error
    if instant.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no UTC offset: write 2026-01-31T12:00:00Z")
    return instant


def operation_of(
    business_type: str,
    *,
    legs: Iterable[tuple[str, str]],
    amounts: Iterable[str],
    currency: str,
    orders: Iterable[str] = (),
    operation_id: str | None = None,
    original: str | None = None,
    description: str | None = None,
    expires_at: str | None = None,
) -> Operation:
    """Return the operation of command line options; `legs` are (kind, text) in order.

    `expires_at`, an instant with its UTC offset, is that of every hold it opens.

    Raises `BadParameter` for what cannot be read.
    """
    named: dict[str, int | RequestedAmount] = {}
    for text in amounts:
        name, _, figure = text.partition("=")
        named[name] = RequestedAmount(minor_of(figure, currency), currency)
    instant = None if expires_at is None else instant_of(expires_at)
    said = [leg_of(kind, text, currency) for kind, text in legs]
    if instant is not None and not any(leg.kind == "hold" for leg in said):
        raise typer.BadParameter("--expires-at is for --hold")
    operation = Operation(
        business_type,
        tuple(
            msgspec.structs.replace(leg, expires_at=instant) if leg.kind == "hold" else leg
            for leg in said
        ),
        operation_id or new_operation_id(),
        amounts=named,
        orders=_orders(orders),
        original_operation_id=original,
        description=description,
    )
    try:
        check_operation(operation)
    except InvalidRequest as error:
        raise typer.BadParameter(error.detail) from error
    return operation


def _orders(texts: Iterable[str]) -> OrderNumbers | None:
    found: dict[str, list[str]] = {"trade": [], "payment": [], "channel": []}
    for text in texts:
        kind, _, number = text.partition("=")
        if kind not in found or not number:
            raise typer.BadParameter(f"--order {text!r}: write trade=…, payment=… or channel=…")
        found[kind].append(number)
    if not any(found.values()):
        return None
    if len(found["trade"]) > 1 or len(found["payment"]) > 1:
        raise typer.BadParameter("an operation has one trade and one payment order number")
    return OrderNumbers(
        trade=next(iter(found["trade"]), None),
        payment=next(iter(found["payment"]), None),
        channel=tuple(found["channel"]),
    )


def new_operation_id() -> str:
    """Return a fresh UUIDv7."""
    at_ms = time.time_ns() // 1_000_000
    high = (at_ms << 16) | (7 << 12) | secrets.randbits(12)
    return str(uuid.UUID(int=(high << 64) | (2 << 62) | secrets.randbits(62)))
