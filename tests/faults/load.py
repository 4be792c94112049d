"""Seeded load: what is posted follows from the seed alone, and what was answered is kept.

Recharges, transfers (some of them refused), payments without a rule (they park) and repetitions
of what was answered before. Invariants: an operation id always has the same body; a load moves
money on accounts of its own only.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import msgspec

from infra.http_load import Reply, Request
from tests.e2e.load import Load, open_accounts, recharge
from tests.waiting import wait_until

ACCOUNTS = 8
ANSWERED, BOOKED, REJECTED = 200, 201, 422
Body = dict[str, object]


@dataclass
class SeededLoad(Load):
    """Callers whose operations follow from `seed`; `answers` is the first answer of each.

    `prefix` begins the ids and account numbers: another one for each load of a system. `pause_s`
    between two requests keeps a load small enough to be audited after every fault.
    """

    seed: int = 0
    prefix: str = "load"
    pause_s: float = 0.002
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    asked: dict[str, Body] = field(default_factory=dict)

    def __enter__(self) -> Self:
        open_accounts(self.system, customers=self.accounts, merchants=[self.merchant])
        return super().__enter__()

    @property
    def accounts(self) -> list[str]:
        """The accounts that this load moves money on."""
        return [f"{self.prefix}-C-{number}" for number in range(1, ACCOUNTS + 1)]

    @property
    def merchant(self) -> str:
        """The account that sells what there is no rule for."""
        return f"{self.prefix}-M-1"

    def wait_for_more(self, count: int = 40) -> None:
        """Return when so many more operations were answered."""
        wanted = len(self.answers) + count
        wait_until(lambda: self.error or len(self.answers) >= wanted, "posting goes on")
        assert self.error is None, self.error

    def _requests(self) -> Iterator[Request]:
        rng = random.Random(self.seed)
        for number in itertools.count(1):
            if self.stop.wait(self.pause_s):
                return
            self.asked[self._id(number)] = self._body(number)
            yield self._request(number)
            if number > 20 and rng.random() < 0.1:  # asked again by a caller who forgot
                yield self._request(rng.randrange(1, number - 10))

    def _request(self, number: int) -> Request:
        body = msgspec.json.encode(self.asked[self._id(number)])
        return Request("POST", "/v1/operations", body, key=number)

    def _id(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    def _body(self, number: int) -> Body:
        rng = random.Random(f"{self.seed}:{number}")
        payer, payee = rng.sample(self.accounts, 2)
        amount_minor = rng.randrange(100, 5_000)
        dice = rng.random()
        if number <= ACCOUNTS or dice < 0.4:
            return recharge(self._id(number), payer, amount_minor)
        if dice < 0.5:
            amount_minor *= 1_000  # more than anybody has: refused, for ever
        if dice < 0.95:
            legs = [_leg("debit", payer, amount_minor), _leg("credit", payee, amount_minor)]
            return self._operation(number, "transfer", legs)
        return self._sale(number, payer, amount_minor)

    def _sale(self, number: int, payer: str, amount_minor: int) -> Body:
        """A sale of gift vouchers, half of it for the merchant: there is no rule for it."""
        half = _leg("credit", self.merchant, amount_minor // 2)
        return self._operation(
            number, "voucher_sale", [_leg("debit", payer, amount_minor), half], fee=10
        )

    def _operation(self, number: int, kind: str, legs: list[Body], **amounts: int) -> Body:
        name = {"operation_id": self._id(number), "business_type": kind, "legs": legs}
        return {**name, "amounts": amounts} if amounts else {**name}

    def _note(self, request: Request, reply: Reply) -> None:
        name = self._id(request.key)
        if reply.status not in (BOOKED, REJECTED):
            self.other.append((reply.status, reply.body))
            return
        first = self.answers.setdefault(name, (reply.status, reply.body))
        if first != (reply.status, reply.body):
            self.changed.append(name)
        elif reply.status == BOOKED and name not in self.acknowledged:
            self.acknowledged.append(name)


def _leg(kind: str, account: str, amount_minor: int) -> Body:
    return {"kind": kind, "account": account, "amount": amount_minor, "currency": "CNY"}


@dataclass
class BatchLoad(SeededLoad):
    """The same operations in requests of `size`: batches that the engine decides ahead."""

    size: int = 300
    pause_s: float = 0.1

    def _requests(self) -> Iterator[Request]:
        for first in itertools.count(1, self.size):
            if self.stop.wait(self.pause_s):
                return
            bodies = {self._id(number): self._body(number) for number in self._numbers(first)}
            self.asked.update(bodies)
            lines = b"\n".join(map(msgspec.json.encode, bodies.values()))
            yield Request("POST", "/v1/operations:batch", lines, "application/x-ndjson", first)

    def _numbers(self, first: int) -> range:
        return range(first, first + self.size)

    def _note(self, request: Request, reply: Reply) -> None:
        if reply.status != ANSWERED:
            self.other.append((reply.status, reply.body))
            return
        for number, line in zip(self._numbers(request.key), reply.body.splitlines(), strict=True):
            status = msgspec.json.decode(line)["status"]
            one = request._replace(key=number)
            code = {"booked": BOOKED, "rejected": REJECTED}.get(status, 0)
            super()._note(one, reply._replace(status=code, body=line))


@dataclass
class ParkingLoad(BatchLoad):
    """Sales of gift vouchers by customers who can pay: all of them park."""

    callers: int = 1

    def _body(self, number: int) -> Body:
        if number <= ACCOUNTS:
            return recharge(self._id(number), self.accounts[number - 1], 1_000_000_00)
        rng = random.Random(f"{self.seed}:{number}")
        return self._sale(number, rng.choice(self.accounts), rng.randrange(100, 5_000))
