"""The operations that are posted: JSON documents as a gateway would send them, from a seed.

Invariant: ids are UUIDv7, as clients are told to send; no document is sent twice unless the
benchmark says so.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence

from bench.scale import ACCOUNTS

CURRENCY = "CNY"
FUNDING_MINOR = 10**12
PRICE_MINOR, FEE_MINOR = 10_000, 60
RECHARGE_MINOR = 10_000
REFUND_OF = "original_operation_id"


def account_number(index: int) -> str:
    """Return the number of one of the benchmark's accounts."""
    return f"C-{index:06}"


class Documents:
    """A seeded source of operations over the benchmark's accounts."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def recharges(self, count: int) -> list[bytes]:
        """Single-leg operations: one credit each, spread over all accounts."""
        return [self._recharge(self._account()) for _ in range(count)]

    def recharges_with_fee(self, count: int) -> list[bytes]:
        """Single-leg operations with a named amount, whose vouchers have four lines."""
        return [self._recharge(self._account(), {"fee": 60}) for _ in range(count)]

    def recharges_of(self, number: str, count: int) -> list[bytes]:
        """Single-leg operations that all credit one account."""
        return [self._recharge(number) for _ in range(count)]

    def recharges_of_some(self, numbers: Sequence[str], count: int) -> list[bytes]:
        """Single-leg operations that credit few accounts in turns."""
        return [self._recharge(numbers[index % len(numbers)]) for index in range(count)]

    def fees_of(self, number: str, count: int, amount_minor: int) -> list[bytes]:
        """Single-leg operations that all debit one account."""
        return [
            _encoded(
                {
                    "operation_id": self._operation_id(),
                    "business_type": "fee",
                    "legs": [_leg("debit", number, amount_minor)],
                }
            )
            for _ in range(count)
        ]

    def transfers(self, count: int) -> list[bytes]:
        """Two-leg operations: from one account to another, spread over all accounts."""
        return [self._transfer(100) for _ in range(count)]

    def refused_transfers(self, count: int) -> list[bytes]:
        """Two-leg operations that no account here has the funds for."""
        return [self._transfer(FUNDING_MINOR * 1_000) for _ in range(count)]

    def half_refused(self, count: int) -> list[bytes]:
        """Transfers of which every second one is rejected."""
        booked = self.transfers(count // 2)
        refused = self.refused_transfers(count // 2)
        return [doc for pair in zip(booked, refused, strict=True) for doc in pair]

    def holds_and_releases(self, count: int) -> tuple[list[bytes], list[bytes]]:
        """Holds of one unit each, and for each the release that gives it back."""
        pairs = [self._hold_and_release(self._account()) for _ in range(count)]
        return [hold for hold, _ in pairs], [release for _, release in pairs]

    def _hold_and_release(self, number: str) -> tuple[bytes, bytes]:
        hold_id = self._operation_id()
        hold, release = (
            _encoded(
                {
                    "operation_id": self._operation_id(),
                    "business_type": kind,
                    "legs": [_leg(kind, number, 1) | {"hold_id": hold_id}],
                }
            )
            for kind in ("hold", "release")
        )
        return hold, release

    def sales(self, count: int, merchants: Sequence[str], fee_account: str) -> list[bytes]:
        """Payments of a customer to a merchant with a fee split; every hundredth is refunded,
        a thousand requests later, when it is booked for certain.
        """
        found: list[bytes] = []
        due: deque[tuple[int, bytes]] = deque()
        for no in range(count):
            sale = self._operation_id()
            customer = account_number(self._random.randrange(ACCOUNTS // 2, ACCOUNTS))
            merchant = self._random.choice(merchants)
            legs = (customer, "debit", "credit", merchant, fee_account)
            found.append(self._sale(sale, *legs))
            if no % 100 == 0:
                back = (customer, "credit", "debit", merchant, fee_account)
                due.append((no + 1_000, self._sale(self._operation_id(), *back, original=sale)))
            if due and due[0][0] <= no:
                found.append(due.popleft()[1])
        return found + [refund for _, refund in due]

    def _sale(
        self,
        operation_id: str,
        customer: str,
        customers: str,
        others: str,
        merchant: str,
        fee_account: str,
        *,
        original: str | None = None,
    ) -> bytes:
        document: dict[str, object] = {
            "operation_id": operation_id,
            "business_type": "payment" if original is None else "refund",
            "legs": [
                _leg(customers, customer, PRICE_MINOR),
                _leg(others, merchant, PRICE_MINOR - FEE_MINOR),
                _leg(others, fee_account, FEE_MINOR),
            ],
        }
        return _encoded(document if original is None else document | {REFUND_OF: original})

    def _recharge(self, number: str, amounts: dict[str, int] | None = None) -> bytes:
        document: dict[str, object] = {
            "operation_id": self._operation_id(),
            "business_type": "recharge",
            "legs": [_leg("credit", number, RECHARGE_MINOR)],
            "orders": {"payment": f"P-{self._random.randrange(10**9)}"},
        }
        if amounts:
            document["amounts"] = amounts
        return _encoded(document)

    def _transfer(self, amount_minor: int) -> bytes:
        source = self._random.randrange(ACCOUNTS)
        target = (source + self._random.randrange(1, ACCOUNTS)) % ACCOUNTS
        return _encoded(
            {
                "operation_id": self._operation_id(),
                "business_type": "transfer",
                "legs": [
                    _leg("debit", account_number(source), amount_minor),
                    _leg("credit", account_number(target), amount_minor),
                ],
            }
        )

    def _account(self) -> str:
        return account_number(self._random.randrange(ACCOUNTS))

    def _operation_id(self) -> str:
        value = time.time_ns() // 1_000_000 << 80 | self._random.getrandbits(76)
        return str(uuid.UUID(int=value & ~(0xF000 << 64) & ~(3 << 62) | 7 << 76 | 2 << 62))


def batches(documents: list[bytes], size: int) -> Iterator[list[bytes]]:
    """Cut documents into batches of a size."""
    for first in range(0, len(documents), size):
        yield documents[first : first + size]


def _leg(kind: str, number: str, amount_minor: int) -> dict[str, object]:
    return {"kind": kind, "account": number, "amount": amount_minor, "currency": CURRENCY}


def _encoded(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
