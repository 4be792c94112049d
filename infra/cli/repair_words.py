"""How parked operations, their vouchers and their age are written in tables.

Invariant: amounts are shown in major units, debits and credits apart.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

from accounting.voucher import Voucher
from infra.cli.console import money
from ledger.events import OperationBooked

RAW_SHOWN = 24
UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def age_words(age_s: float | None) -> str:
    """Say an age in its two greatest units; empty for None."""
    if age_s is None:
        return ""
    left = int(age_s)
    said = []
    for unit, size in UNITS:
        if left >= size:
            said.append(f"{left // size} {unit}")
            left %= size
    return " ".join((said or [f"{left} s"])[:2])


def amounts_words(amounts: Mapping[str, int]) -> str:
    """Say amounts per currency; empty for an operation that moves nothing."""
    return ", ".join(f"{money(minor, code)} {code}" for code, minor in amounts.items() if code)


def reason_words(reason: str | None, detail: str | None) -> str:
    """Say why, as far as it is known."""
    return f"{reason or ''} {detail or ''}".strip()


def base64_of(raw: bytes) -> str:
    """Show the beginning of bytes nobody could read."""
    more = "…" if len(raw) > RAW_SHOWN else ""
    return base64.b64encode(raw[:RAW_SHOWN]).decode() + more


def voucher_rows(voucher: Voucher) -> Iterator[tuple[object, ...]]:
    """Give date, rule, subject, account, debit, credit, currency of each line."""
    head: tuple[object, ...] = (voucher.accounting_date, voucher.rule_id)
    for line in voucher.lines:
        amount = money(line.amount_minor, line.currency)
        columns = (amount, "") if line.side == "debit" else ("", amount)
        yield (*head, line.subject, line.account, *columns, line.currency)
        head = ("", "")


def leg_rows(operation: OperationBooked) -> Iterator[tuple[object, ...]]:
    """Give number, kind, account, subject, amount, currency of each leg."""
    for leg in operation.legs:
        amount = money(leg.amount_minor, leg.currency)
        yield (leg.no, leg.kind, leg.account, leg.subject, amount, leg.currency)
