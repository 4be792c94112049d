"""What the flows of the demo are made with: steps, ids from a seed, legs, order numbers. Pure.

Invariant: everything a `Maker` returns is a function of its seed and the order of the calls.
"""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Mapping
from typing import Literal, NamedTuple

from infra.demo.cast import CURRENCY, Cast
from ledger.events import OrderNumbers
from ledger.operation import Leg, Operation, RequestedAmount

BOOKED = "booked"


class Step(NamedTuple):
    """One operation, and what the ledger must answer: `booked` or the reason against it."""

    operation: Operation
    expected: str = BOOKED


class Paid(NamedTuple):
    """A payment, sale, hold or payout that later operations refer to by its operation id."""

    operation_id: str
    customer: str
    merchant: str
    amount_minor: int
    fee_minor: int

    @property
    def hold_id(self) -> str:
        """Return the hold's id, when it is a hold."""
        return f"H-{self.operation_id[-12:]}"


class Maker:
    """Makes operations from one stream of random numbers and ids."""

    def __init__(self, cast: Cast, seed: int, date: dt.date) -> None:
        self.cast = cast
        self.rng = random.Random(seed)  # noqa: S311 - a repeatable day, not a secret
        self.paid: list[Paid] = []
        self.sold: list[Paid] = []
        midnight = dt.datetime.combine(date, dt.time(), tzinfo=dt.UTC)
        self._at_ms = int(midnight.timestamp() * 1000)
        self._order = 0

    def new_id(self) -> str:
        """Return the next operation id: a UUIDv7 whose time is the seed's, not a clock's."""
        self._at_ms += 1 + self.rng.randrange(3)
        high = (self._at_ms << 16) | (7 << 12) | self.rng.getrandbits(12)
        low = (2 << 62) | self.rng.getrandbits(62)
        return str(uuid.UUID(int=(high << 64) | low))

    def customer(self) -> str:
        """Choose a customer."""
        return self.rng.choice(self.cast.customers)

    def merchant(self) -> str:
        """Choose an ordinary merchant."""
        return self.rng.choice(self.cast.merchants)

    def amount(self, least_minor: int, most_minor: int) -> int:
        """Choose an amount in minor units."""
        return self.rng.randrange(least_minor, most_minor)

    def operation(
        self,
        business_type: str,
        *legs: Leg,
        amounts: Mapping[str, int] | None = None,
        original: str | None = None,
        operation_id: str | None = None,
    ) -> Operation:
        """Make an operation with the next id; named amounts are in the house's currency.

        Zero amounts are left out, as a client would.
        """
        currency = legs[0].currency if legs else CURRENCY
        return Operation(
            business_type,
            legs,
            operation_id or self.new_id(),
            amounts={
                name: RequestedAmount(minor, currency)
                for name, minor in (amounts or {}).items()
                if minor
            },
            original_operation_id=original,
        )

    def orders(self, *, trade: bool = False, channel: bool = False) -> OrderNumbers:
        """Make the next order numbers."""
        self._order += 1
        number = f"{self._order:07}"
        return OrderNumbers(
            trade=f"T{number}" if trade else None,
            payment=f"P{number}",
            channel=(f"X{number}",) if channel else (),
        )


def movement(
    kind: Literal["credit", "debit"],
    account: str,
    amount_minor: int,
    currency: str = CURRENCY,
    part: str | None = None,
) -> Leg:
    """Make a credit or debit leg."""
    return Leg(kind, account, amount_minor, currency, part=part)


def hold_leg(
    kind: Literal["hold", "release", "capture"],
    held: Paid,
    amount_minor: int,
    expires_at: dt.datetime | None = None,
) -> Leg:
    """Make a leg about a hold on the customer's account."""
    return Leg(
        kind,
        held.customer,
        amount_minor,
        CURRENCY,
        hold_id=held.hold_id,
        expires_at=expires_at,
    )
