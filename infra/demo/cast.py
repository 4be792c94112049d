"""Who takes part in the generated day: customers, merchants, banks, channels, difficult accounts.

Invariant: accounts that a flow draws on are funded for it (`Cast.demand`), so that no answer
depends on the order in which callers arrive; the difficult accounts are in no other flow.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ledger.operation import (
    Change,
    FreezeAccount,
    OpenAccount,
    ReportLoss,
    SetLimit,
    SetPaymentStatus,
)

CURRENCY = "CNY"
FOREIGN = "USD"
BANK = "BANK-ICBC"
CHANNELS = ("CH-CARD-UNIONPAY", "CH-CARD-VISA", "CH-WALLET-ALIPAY")
PENDING = "PENDING-PAYOUT"
COUPONS = "PROMO-SPRING"
HOT_MERCHANT = "M-FLASH-SALE"
AGENT = "AGENT-EAST"
POOR, FROZEN, LOST, BLOCKED, LIMITED = "C-POOR", "C-FROZEN", "C-LOST", "C-BLOCKED", "C-LIMITED"
LIMIT_PER_OPERATION_MINOR = 5_000_00
POOR_BALANCE_MINOR = 10_00


@dataclass
class Cast:
    """The accounts of the day, and what each customer will have to pay."""

    customers: list[str]
    merchants: list[str]
    foreign_customers: list[str]
    foreign_merchant: str
    demand: Counter[str] = field(default_factory=Counter)
    earned: Counter[str] = field(default_factory=Counter)


def make_cast(customers: int) -> Cast:
    """Name the accounts; one merchant for every 25 customers."""
    return Cast(
        customers=[f"C-{number:05}" for number in range(1, customers + 1)],
        merchants=[f"M-{number:03}" for number in range(1, max(4, customers // 25) + 1)],
        foreign_customers=[f"C-US-{number:03}" for number in range(1, max(3, customers // 40) + 1)],
        foreign_merchant="M-US-001",
    )


def accounts_of(cast: Cast) -> list[OpenAccount]:
    """Return the requests that open every account, in order."""
    return [
        _internal(BANK, "bank", "1002.01.02", "debit"),
        *(
            _internal(name, "channel", "1131.02.02" if "WALLET" in name else "1131.02.01", "debit")
            for name in CHANNELS
        ),
        _internal(PENDING, "transit", "2242.02", "credit"),
        _internal(COUPONS, "promotion", "2003.01", "credit"),
        _opened(AGENT, "agent", "2002.02"),
        _opened(HOT_MERCHANT, "merchant", "2002.01"),
        *(_opened(number, "merchant", "2002.01") for number in cast.merchants),
        _opened(cast.foreign_merchant, "merchant", "2002.01", FOREIGN),
        *(_opened(number, "customer", "2001.01") for number in cast.customers),
        *(_opened(number, "customer", "2001.01", FOREIGN) for number in cast.foreign_customers),
        *(
            _opened(number, "customer", "2001.01")
            for number in (POOR, FROZEN, LOST, BLOCKED, LIMITED)
        ),
    ]


def changes() -> list[tuple[str, Change]]:
    """Return the account commands that make the difficult accounts difficult."""
    return [
        (
            FROZEN,
            FreezeAccount(
                operation_id="demo:freeze",
                freeze_id="F-2026-017",
                authority="District court",
                order_number="2026-017",
                reason="Preservation of property",
            ),
        ),
        (LOST, ReportLoss(operation_id="demo:loss", reason="Telephone stolen")),
        (
            BLOCKED,
            SetPaymentStatus(
                operation_id="demo:block", payment_status="blocked", reason="Risk control"
            ),
        ),
        (
            LIMITED,
            SetLimit(
                operation_id="demo:limit",
                business_type="payment",
                per_operation_minor=LIMIT_PER_OPERATION_MINOR,
                reason="Not yet identified in person",
            ),
        ),
    ]


def _opened(number: str, kind: str, subject: str, currency: str = CURRENCY) -> OpenAccount:
    return OpenAccount(
        operation_id=f"demo:open:{number}",
        account=number,
        owner=f"U-{number}",
        type=kind,
        subject=subject,
        currency=currency,
    )


def _internal(number: str, kind: str, subject: str, side: str) -> OpenAccount:
    return OpenAccount(
        operation_id=f"demo:open:{number}",
        account=number,
        owner="house",
        type=kind,
        subject=subject,
        currency=CURRENCY,
        normal_side="debit" if side == "debit" else "credit",
        credit_limit_minor=None,
    )
