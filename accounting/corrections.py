"""Red and blue corrections: nothing is edited, a second voucher takes the first one back.

Invariant: a voucher and its correction sum to zero per subject, currency and account; the
correction names what it corrects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from accounting.chart import Chart
from accounting.voucher import OPPOSITE_SIDE, Voucher, VoucherLine

MovementKey = tuple[str, str]


class CorrectionKind(StrEnum):
    """How a voucher is taken back; the dates decide."""

    VOID = "void"
    RED = "red"
    OPPOSITE = "opposite"


def correction_kind(voucher_date: str, open_date: str) -> CorrectionKind:
    """Choose: same business day → void; same year → red entry; earlier year → opposite side.

    Void and red are the same lines (same side, negative amounts): a voided voucher leaves
    its day's totals as if it had not been. After a year's close the totals of that year are
    published, so the entry is positive on the other side.
    """
    if voucher_date == open_date:
        return CorrectionKind.VOID
    if voucher_date[:4] == open_date[:4]:
        return CorrectionKind.RED
    return CorrectionKind.OPPOSITE


def correcting_vouchers(
    voucher: Voucher,
    *,
    decision_id: str,
    open_date: str,
    correct_lines: Sequence[VoucherLine] = (),
) -> tuple[Voucher, ...]:
    """Take a voucher back and, if `correct_lines` are given, book the correct one (blue)."""
    kind = correction_kind(voucher.accounting_date, open_date)
    bodies = [(kind.value, taken_back(voucher.lines, kind))]
    if correct_lines:
        bodies.append(("blue", tuple(correct_lines)))
    return tuple(
        Voucher(
            book_id=voucher.book_id,
            source_id=decision_id,
            ordinal=ordinal,
            accounting_date=open_date,
            business_type=voucher.business_type,
            rule_id=f"correction.{name}",
            ruleset_hash=voucher.ruleset_hash,
            lines=lines,
            corrects=voucher.voucher_id,
        )
        for ordinal, (name, lines) in enumerate(bodies, 1)
    )


def taken_back(lines: Iterable[VoucherLine], kind: CorrectionKind) -> tuple[VoucherLine, ...]:
    """Reverse lines: negative on the same side, or positive on the opposite side."""
    opposite = kind is CorrectionKind.OPPOSITE
    return tuple(
        VoucherLine(
            line.line_no,
            OPPOSITE_SIDE[line.side] if opposite else line.side,
            line.subject,
            line.currency,
            line.amount_minor if opposite else -line.amount_minor,
            line.account,
            line.off_balance,
        )
        for line in lines
    )


def controlled_movement(vouchers: Iterable[Voucher], chart: Chart) -> dict[MovementKey, int]:
    """Give debits - credits per controlled subject and currency, zeros left out.

    A decision's vouchers must have none: only a ledger operation moves a controlled
    subject, else it would no longer equal the sum of its accounts.
    """
    moved: dict[MovementKey, int] = {}
    for voucher in vouchers:
        for line in voucher.lines:
            if line.subject in chart.controlled:
                signed_minor = line.amount_minor if line.side == "debit" else -line.amount_minor
                key = line.subject, line.currency
                moved[key] = moved.get(key, 0) + signed_minor
    return {key: minor for key, minor in moved.items() if minor}
