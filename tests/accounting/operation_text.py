"""The voices of this folder: operations and vouchers as text an accountant can read.

An operation is written as its legs and named amounts, one a line:

    credit C-1 2001.01  100.00 CNY        kind, account, subject, amount
    credit S-1 2241.01  100.00 CNY for C-1    (redirected to suspense)
    fee                   0.60 CNY        named amount

A day is written as business types, each with its operation indented below it.
A voucher is written as its lines: `Dr 1131.01 100.00 CNY`, `Cr 2001.01 C-1 100.00 CNY`.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

from accounting.rules import NonPosting, Parked, RuleError, Ruleset, load_ruleset, voucher_for
from accounting.trial_balance import BalanceRow
from accounting.voucher import Voucher, VoucherLine
from ledger.events import BookedLeg, NamedAmount, OperationBooked
from ledger.money import EXPONENTS, format_minor

LEG_KINDS = ("credit", "debit", "capture", "hold", "release", "freeze", "unfreeze")


def operation(
    business_type: str,
    text: str = "",
    *,
    operation_id: str = "O-1",
    business_date: str = "2026-01-31",
) -> OperationBooked:
    """Build a booked operation from its text."""
    legs: list[BookedLeg] = []
    amounts: dict[str, NamedAmount] = {}
    for line in dedent(text).strip().splitlines():
        words = line.split()
        if words[0] in LEG_KINDS:
            legs.append(_leg(words, len(legs) + 1))
        else:
            amounts[words[0]] = NamedAmount(_minor(words[1], words[2]), words[2])
    return OperationBooked(
        book_id="B",
        operation_id=operation_id,
        business_type=business_type,
        business_date=business_date,
        value_date=business_date,
        booked_at=f"{business_date}T08:00:00.000000Z",
        principal="gateway",
        fingerprint="00",
        legs=tuple(legs),
        accounts=(),
        amounts=amounts,
    )


def operations(text: str) -> list[OperationBooked]:
    """Build a day's operations: a business type, then its legs and amounts indented."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            found.append((line.strip(), []))
        elif line.strip() and not line.startswith("#"):
            found[-1][1].append(line)
    return [
        operation(business_type, "\n".join(lines), operation_id=f"O-{no}")
        for no, (business_type, lines) in enumerate(found, 1)
    ]


def _leg(words: list[str], no: int) -> BookedLeg:
    kind, account, subject, amount, currency = words[:5]
    return BookedLeg(
        no=no,
        kind=kind,
        account=account,
        account_type="any",
        subject=subject,
        currency=currency,
        amount_minor=_minor(amount, currency),
        version=1,
        balance_minor=0,
        held_minor=0,
        normal_side="credit",
        intended_account=words[6] if len(words) > 6 else None,
    )


def _minor(amount: str, currency: str) -> int:
    return int(Decimal(amount).scaleb(EXPONENTS.get(currency, 2)))


def lines_text(lines: Iterable[VoucherLine]) -> list[str]:
    """Write lines as `Dr subject [account] amount currency`."""
    return [
        " ".join(
            word
            for word in (
                "Dr" if line.side == "debit" else "Cr",
                line.subject,
                line.account or "",
                format_minor(line.amount_minor, line.currency),
                line.currency,
            )
            if word
        )
        for line in lines
    ]


def outcome_text(outcome: tuple[Voucher, ...] | NonPosting | Parked) -> list[str]:
    """Write what became of an operation; several vouchers are separated by `--`."""
    if isinstance(outcome, Parked):
        return [f"parked {outcome.reason}"]
    if isinstance(outcome, NonPosting):
        return ["non-posting"]
    written: list[str] = []
    for voucher in outcome:
        written += (["--"] if written else []) + lines_text(voucher.lines)
    return written


def words(text: str) -> list[str]:
    """Give a text's lines with single spaces, so that tables may be aligned."""
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def posted(booked: OperationBooked, ruleset: Ruleset) -> tuple[Voucher, ...]:
    """Make the vouchers of an operation that has some."""
    outcome = voucher_for(booked, ruleset)
    assert isinstance(outcome, tuple), outcome
    return outcome


def balance_rows(vouchers: Iterable[Voucher]) -> list[BalanceRow]:
    """Turn voucher lines into rows of the general ledger, one each."""
    return [
        BalanceRow(
            line.subject,
            line.currency,
            line.amount_minor if line.side == "debit" else 0,
            line.amount_minor if line.side == "credit" else 0,
        )
        for voucher in vouchers
        for line in voucher.lines
    ]


def loaded(tmp_path: Path, text: str) -> Ruleset | list[RuleError]:
    """Load a ruleset that is one file, `books.toml`."""
    (tmp_path / "books.toml").write_text(dedent(text), encoding="utf-8")
    return load_ruleset(tmp_path)


def valid(tmp_path: Path, text: str) -> Ruleset:
    """Load a ruleset that must be valid."""
    found = loaded(tmp_path, text)
    assert isinstance(found, Ruleset), found
    return found
