"""The day's money in and out, the house's own bookings, and what must be refused. Pure.

Invariant: `recharges` comes last of all flows, because it covers what the others have asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from infra.demo import cast as c
from infra.demo.maker import Maker, Paid, Step, hold_leg, movement
from infra.demo.payments import refund
from ledger.errors import RejectionReason as R
from ledger.operation import Leg

BANK_OPENING_MINOR = 80_000_000_00
CHANNEL_FEE_MINOR = 50

# payer, amount, reason: each pays the flash sale and must be refused
REFUSED = (
    (c.POOR, c.POOR_BALANCE_MINOR + 1, R.INSUFFICIENT_FUNDS),
    (c.FROZEN, 1_00, R.ACCOUNT_FROZEN),
    (c.LOST, 1_00, R.ACCOUNT_LOST),
    (c.BLOCKED, 1_00, R.ACCOUNT_BLOCKED),
    (c.LIMITED, c.LIMIT_PER_OPERATION_MINOR + 1, R.LIMIT_PER_OPERATION),
    ("C-NOBODY", 1_00, R.UNKNOWN_ACCOUNT),
)


# --- money in -------------------------------------------------------------------------------


def opening(make: Maker) -> Iterator[Step]:
    """Take over the bank balance and the promotion fund; note a guarantee off the balance."""
    legs = (
        movement("debit", c.BANK, BANK_OPENING_MINOR),
        movement("credit", c.COUPONS, 500_000_00),
    )
    yield Step(make.operation("opening_balance", *legs))
    yield Step(make.operation("guarantee", amounts={"guarantee": 2_000_000_00}))


def recharges(make: Maker, count: int) -> Iterator[Step]:
    """Fund every customer for its day, then some more; the channel's fee is ours to pay."""
    funded = sorted(make.cast.demand)
    for number in range(max(count, len(funded))):
        account = funded[number] if number < len(funded) else make.customer()
        amount_minor = make.cast.demand.pop(account, 0) + make.amount(1_00, 400_00)
        currency = c.FOREIGN if account in make.cast.foreign_customers else c.CURRENCY
        yield _recharge(make, account, amount_minor, currency)


def difficult_recharges(make: Maker) -> Iterator[Step]:
    """Fund the difficult accounts; the frozen one's money goes to suspense, with an issue."""
    for account in (c.LOST, c.LIMITED):
        yield _recharge(make, account, 10_000_00, c.CURRENCY)
    yield _recharge(make, c.POOR, c.POOR_BALANCE_MINOR, c.CURRENCY)
    yield _recharge(make, c.FROZEN, 888_00, c.CURRENCY)


def _recharge(make: Maker, account: str, amount_minor: int, currency: str) -> Step:
    """The channel has taken the money: single-sided, or with the channel's ledger account."""
    legs = [movement("credit", account, amount_minor, currency)]
    if currency == c.CURRENCY and make.rng.random() < 0.4:
        legs.insert(0, movement("debit", make.rng.choice(c.CHANNELS), amount_minor))
    fee = max(1, amount_minor * 6 // 1000)
    return Step(make.operation("recharge", *legs, amounts={"fee": fee}))


# --- money out ------------------------------------------------------------------------------


def withdrawals(make: Maker, count: int) -> Iterator[Step]:
    """Pay out at once from the bank account; a fee is withheld, the channel charges us."""
    for _ in range(count):
        customer = make.customer()
        amount_minor = make.amount(50_00, 900_00)
        fee = max(10, amount_minor // 1000)
        make.cast.demand[customer] += amount_minor
        legs = (
            movement("debit", customer, amount_minor),
            movement("credit", c.BANK, amount_minor - fee),
        )
        amounts = {"fee": fee, "channel_fee": CHANNEL_FEE_MINOR}
        yield Step(make.operation("withdrawal", *legs, amounts=amounts))


def payouts(make: Maker, count: int) -> list[Paid]:
    """Choose payouts whose outcome comes later: hold → sent → succeeded → settled, or failed."""
    found = []
    for _ in range(count):
        amount_minor = make.amount(100_00, 2_000_00)
        payout = Paid(
            make.new_id(), make.customer(), "", amount_minor, max(10, amount_minor // 1000)
        )
        make.cast.demand[payout.customer] += amount_minor
        found.append(payout)
    return found


def payout_held(make: Maker, payout: Paid) -> Step:
    """Stage 1: the hold stays until the outcome is known."""
    leg = hold_leg("hold", payout, payout.amount_minor)
    return Step(make.operation("withdrawal_hold", leg, operation_id=payout.operation_id))


def payout_sent(make: Maker, payout: Paid) -> Step:
    """Stage 2: given to the bank."""
    return Step(make.operation("withdrawal_sent", original=payout.operation_id))


def payout_succeeded(make: Maker, payout: Paid) -> Step:
    """Stage 3: captured to pending clearing, the fee withheld."""
    legs = (
        hold_leg("capture", payout, payout.amount_minor),
        movement("credit", c.PENDING, payout.amount_minor - payout.fee_minor),
    )
    amounts = {"fee": payout.fee_minor}
    return Step(
        make.operation("withdrawal_succeeded", *legs, amounts=amounts, original=payout.operation_id)
    )


def payout_failed(make: Maker, payout: Paid) -> Step:
    """Stage 3 the other way: the hold is released."""
    leg = hold_leg("release", payout, payout.amount_minor)
    return Step(make.operation("withdrawal_failed", leg, original=payout.operation_id))


def payout_settled(make: Maker, payout: Paid) -> Step:
    """Stage 4: the money has left the bank."""
    net = payout.amount_minor - payout.fee_minor
    legs = (movement("debit", c.PENDING, net), movement("credit", c.BANK, net))
    amounts = {"channel_fee": CHANNEL_FEE_MINOR}
    return Step(
        make.operation("withdrawal_settled", *legs, amounts=amounts, original=payout.operation_id)
    )


def settlements(make: Maker) -> Iterator[Step]:
    """Pay every merchant four fifths of what it has earned."""
    for merchant in (*make.cast.merchants, c.HOT_MERCHANT):
        amount_minor = make.cast.earned[merchant] * 4 // 5
        if amount_minor > 1_00:
            legs = (
                movement("debit", merchant, amount_minor),
                movement("credit", c.BANK, amount_minor - 1_00),
            )
            yield Step(make.operation("settlement", *legs, amounts={"fee": 1_00}))


# --- the house's own, and what must be refused ------------------------------------------------


def house(make: Maker, count: int) -> Iterator[Step]:
    """Book interest, account fees, remarks and a few adjustments, in turn."""
    for number in range(count):
        kind = ("interest", "interest", "fee", "account_note")[number % 4]
        if kind == "account_note":
            yield Step(make.operation(kind))
            continue
        if number % 200 == 0:
            kind = "adjustment"
        customer = make.customer()
        amount_minor = make.amount(1, 20_00)
        if kind == "fee":
            make.cast.demand[customer] += amount_minor
        leg = movement("debit" if kind == "fee" else "credit", customer, amount_minor)
        yield Step(make.operation(kind, leg))


def rejections(make: Maker, count: int, holds: list[Paid]) -> Iterator[Step]:
    """Ask for what must be refused, one reason after the other."""
    for number in range(count):
        which = number % (len(REFUSED) + 4)
        if which < len(REFUSED):
            payer, amount_minor, reason = REFUSED[which]
            yield _refused(make, payer, amount_minor, reason)
        elif which == len(REFUSED):
            paid = make.paid[number % len(make.paid)]
            yield refund(make, paid, paid.amount_minor + 1, R.REFUND_EXCEEDS_PART.value)
        elif which == len(REFUSED) + 1:
            yield _capture_above(make, holds[number % len(holds)])
        elif which == len(REFUSED) + 2:
            leg = Leg("debit", c.POOR, 1_00, c.FOREIGN)
            yield Step(make.operation("fee", leg), R.CURRENCY_MISMATCH.value)
        else:
            nothing = make.paid[0]._replace(operation_id=make.new_id())
            yield refund(make, nothing, 1_00, R.UNKNOWN_ORIGINAL.value)


def _refused(make: Maker, payer: str, amount_minor: int, reason: R) -> Step:
    legs = (
        movement("debit", payer, amount_minor),
        movement("credit", c.HOT_MERCHANT, amount_minor),
    )
    return Step(make.operation("payment", *legs), reason.value)


def _capture_above(make: Maker, hold: Paid) -> Step:
    """Capture more than is held. These holds stay open; nothing else touches them."""
    legs = (
        hold_leg("capture", hold, hold.amount_minor + 1),
        movement("credit", hold.merchant, hold.amount_minor + 1),
    )
    return Step(make.operation("payment_capture", *legs), R.HOLD_EXCEEDED.value)
