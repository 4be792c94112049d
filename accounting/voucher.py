"""The voucher: the balanced document and its lines, as frozen facts.

Invariant: per currency, debit lines = credit lines over everything that is not off the
balance sheet; amounts are positive, red vouchers being the one place with negative ones.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import field

OPPOSITE_SIDE = {"debit": "credit", "credit": "debit"}


class VoucherLine(msgspec.Struct, frozen=True, gc=False):
    """One side of a voucher. `account` is the ledger account of a leg line, else None.

    `off_balance` lines are single entry (receipt debit, issue credit): outside the balancing.
    """

    line_no: int
    side: str
    subject: str
    currency: str
    amount_minor: int = field(name="amount")
    account: str | None = None
    off_balance: bool = False


class Voucher(msgspec.Struct, frozen=True, gc=False):
    """A voucher with all its lines.

    `source_id` is the operation or the decision that made it; `corrects` names the voucher
    that a correction takes back; `business_date` is the operation's where the voucher is dated
    into another day.
    """

    book_id: str
    source_id: str
    ordinal: int
    accounting_date: str
    business_type: str
    rule_id: str
    ruleset_hash: str
    lines: tuple[VoucherLine, ...]
    corrects: str | None = None
    business_date: str | None = None

    @property
    def voucher_id(self) -> str:
        """Give `<book>/<source>/<ordinal>`."""
        return voucher_id_of(self.book_id, self.source_id, self.ordinal)


def voucher_id_of(book_id: str, source_id: str, ordinal: int) -> str:
    """Name a voucher: book, operation or decision, ordinal from 1."""
    return f"{book_id}/{source_id}/{ordinal}"


def currency_differences(lines: Iterable[VoucherLine]) -> dict[str, int]:
    """Give debits - credits of each currency that does not balance; empty = balanced."""
    differences: dict[str, int] = {}
    for line in lines:
        if not line.off_balance:
            signed_minor = line.amount_minor if line.side == "debit" else -line.amount_minor
            differences[line.currency] = differences.get(line.currency, 0) + signed_minor
    return {currency: minor for currency, minor in differences.items() if minor}
