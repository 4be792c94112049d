"""The generated payment day: who opens accounts, and what is posted in which stage. Pure.

Invariant: one seed and size give one day. Stages follow each other; within a stage the order of
arrival does not matter, so single postings and batches may run side by side.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from infra.demo import payments as p
from infra.demo import treasury as t
from infra.demo.cast import accounts_of, changes, make_cast
from infra.demo.maker import Maker, Paid, Step
from ledger.operation import Change, Leg, OpenAccount

BUSINESS_DATE = dt.date(2026, 1, 30)
SEED = 20260130
OPERATIONS = 24_000
OPERATIONS_MIN = 400
PROBES = 30  # posted one by one, each followed into the trial balance
EXPIRY_LATER = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)  # a real instant is set when it is sent

# Shares of the whole, in thousandths; settlements and openings come on top.
SHARES = {
    "payments": 480,
    "transfers": 40,
    "refunds": 70,
    "withdrawals": 40,
    "payouts": 10,  # each of them is about four operations
    "authorisations": 20,  # each of them is two operations
    "expiring": 3,
    "open_holds": 2,
    "voucher_sales": 15,
    "refunds_of_sales": 3,
    "house": 60,
    "rejections": 20,
    "recharges": 190,
}


@dataclass(frozen=True)
class Stage:
    """Operations that may be posted in any order: each alone, or many in a batch."""

    name: str
    single: tuple[Step, ...] = ()
    batch: tuple[Step, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them."""
        return self.single + self.batch


@dataclass(frozen=True)
class PaymentDay:
    """Everything that will be posted, and what must come of it.

    `repeats` are sent a second time; `probes` are followed one by one into the books.
    """

    business_date: dt.date
    accounts: tuple[OpenAccount, ...]
    changes: tuple[tuple[str, Change], ...]
    stages: tuple[Stage, ...]
    repeats: tuple[Step, ...]
    probes: tuple[Step, ...]
    expiring_accounts: tuple[str, ...]

    @property
    def operations(self) -> int:
        """How many operations the day has."""
        return sum(len(stage.steps) for stage in self.stages) + len(self.probes)

    @property
    def expected(self) -> Counter[str]:
        """Operations by the answer they must get."""
        staged = Counter(step.expected for stage in self.stages for step in stage.steps)
        return staged + Counter(step.expected for step in self.probes)


def payment_day(operations: int = OPERATIONS, seed: int = SEED) -> PaymentDay:
    """Make the day of about `operations` operations; never fewer, at least OPERATIONS_MIN."""
    size = max(operations, OPERATIONS_MIN)
    n = {name: -(-size * share // 1000) for name, share in SHARES.items()}
    make = Maker(make_cast(max(20, size // 24)), seed, BUSINESS_DATE)
    probes = tuple(p.transfers(make, PROBES))
    stages = _stages(make, n)
    repeats = next(stage for stage in stages if stage.name == "payments").single[:50]
    return PaymentDay(
        BUSINESS_DATE,
        tuple(accounts_of(make.cast)),
        tuple(changes()),
        stages,
        repeats,
        probes,
        tuple(sorted({leg.account for leg in _expiring_legs(stages)})),
    )


def _stages(make: Maker, n: dict[str, int]) -> tuple[Stage, ...]:
    """Make the flows in the order of the money's demand; recharges are made last, sent first."""
    paid = tuple(p.payments(make, n["payments"]))
    transfers = tuple(p.transfers(make, n["transfers"]))
    sales = tuple(p.voucher_sales(make, n["voucher_sales"]))
    house = tuple(t.house(make, n["house"]))
    withdrawals = tuple(t.withdrawals(make, n["withdrawals"]))
    payouts = t.payouts(make, n["payouts"])
    captured = p.authorisations(make, n["authorisations"])
    expiring = p.authorisations(make, n["expiring"])
    kept = p.authorisations(make, n["open_holds"])
    failing, succeeding = payouts[::10], [x for no, x in enumerate(payouts) if no % 10]
    holds = (
        *(t.payout_held(make, payout) for payout in payouts),
        *(p.authorise(make, hold) for hold in captured + kept),
        *(p.authorise(make, hold, EXPIRY_LATER) for hold in expiring),
    )
    sent = tuple(t.payout_sent(make, payout) for payout in payouts)
    refunds = tuple(p.refunds(make, n["refunds"]))
    taken = tuple(_ended(make, captured))
    outcome = (
        *(t.payout_succeeded(make, payout) for payout in succeeding),
        *(t.payout_failed(make, payout) for payout in failing),
    )
    waiting = tuple(p.refunds_of_sales(make, n["refunds_of_sales"]))
    settled = (
        *(t.payout_settled(make, payout) for payout in succeeding),
        *t.settlements(make),
    )
    refused = tuple(t.rejections(make, n["rejections"], kept))
    difficult = tuple(t.difficult_recharges(make))
    opening = tuple(t.opening(make))
    recharges = tuple(t.recharges(make, n["recharges"]))
    tenth = len(recharges) // 10
    return (
        Stage("opening", batch=opening),
        Stage("recharges", single=recharges[:tenth] + difficult, batch=recharges[tenth:]),
        Stage("holds", single=_expiring_first(holds), batch=()),
        Stage("payments", single=paid + transfers, batch=sales + house + withdrawals),
        Stage("refunds, captures", single=refunds + taken, batch=sent + waiting),
        Stage("payout outcomes", batch=outcome),
        Stage("settlements", single=refused, batch=settled),
    )


def _expiring_first(holds: Iterable[Step]) -> tuple[Step, ...]:
    """Put the holds that expire first, so that they are sent well before their instant."""
    return tuple(sorted(holds, key=lambda step: not _expires(step)))


def _ended(make: Maker, captured: list[Paid]) -> Iterable[Step]:
    """Capture in full, capture in part, release, in turn."""
    for number, hold in enumerate(captured):
        if number % 5 == 4:
            yield p.release(make, hold)
        else:
            yield p.capture(make, hold, part=number % 5 == 3)


def _expires(step: Step) -> bool:
    return any(leg.expires_at is not None for leg in step.operation.legs)


def _expiring_legs(stages: Iterable[Stage]) -> Iterable[Leg]:
    for stage in stages:
        for step in stage.steps:
            yield from (leg for leg in step.operation.legs if leg.expires_at is not None)


def with_expiry(step: Step, expires_at: dt.datetime) -> Step:
    """Set the instant at which a step's hold runs out; other steps stay as they are."""
    if not _expires(step):
        return step
    legs = tuple(
        leg if leg.expires_at is None else msgspec.structs.replace(leg, expires_at=expires_at)
        for leg in step.operation.legs
    )
    return Step(msgspec.structs.replace(step.operation, legs=legs), step.expected)
