"""The file of an override: voucher lines as an accountant writes them, TOML or JSON.

Invariant: amounts are text in major units, so that nobody's 500 can be taken for 5.00; what is
not exactly this shape is refused with the place of the mistake.
"""

from __future__ import annotations

import datetime as dt
import json
import tomllib
from typing import Any, Literal

import msgspec
import typer

from infra.cli.operation_text import minor_of

AS_TEXT = 'an amount is text in major units, e.g. "5.00"'


class WrittenLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file."""

    side: Literal["debit", "credit"]
    subject: str
    currency: str
    amount: str
    account: str | None = None
    off_balance: bool = False


class WrittenOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    lines: list[WrittenLine]
    accounting_date: dt.date | None = None
    note: str = ""


def override_of(raw: bytes, name: str) -> dict[str, Any]:
    """Return the API's body, amounts in minor units. Raises `BadParameter`."""
    try:
        text = raw.decode()
        plain = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
        written = msgspec.convert(plain, WrittenOverride)
    except (ValueError, msgspec.ValidationError) as error:
        more = f" ({AS_TEXT})" if ".amount`" in str(error) else ""
        raise typer.BadParameter(f"{name}: {error}{more}") from error
    lines = [
        {
            "side": line.side,
            "subject": line.subject,
            "currency": line.currency,
            "amount": minor_of(line.amount, line.currency),
            "account": line.account,
            "off_balance": line.off_balance,
        }
        for line in written.lines
    ]
    body: dict[str, Any] = {"lines": lines, "note": written.note}
    if written.accounting_date is not None:
        body["accounting_date"] = written.accounting_date.isoformat()
    return body
