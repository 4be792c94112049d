"""The day's payments: to merchants, gift vouchers, refunds, transfers, pre-authorised ones. Pure.

Invariant: an operation needs only what earlier stages have booked; what a customer will pay is
noted in `Cast.demand` before any recharge is made.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from infra.demo import cast as c
from infra.demo.maker import BOOKED, Maker, Paid, Step, hold_leg, movement
from ledger.events import OrderNumbers
from ledger.operation import Leg, Operation


def payments(make: Maker, count: int) -> Iterator[Step]:
    """Pay merchants; half of it goes to the flash sale, some of it is in another currency."""
    for number in range(count):
        if number % 40 == 39:
            yield _foreign_payment(make)
            continue
        merchant = c.HOT_MERCHANT if make.rng.random() < 0.5 else make.merchant()
        yield _payment(make, merchant, make.amount(5_00, 800_00), coupon=number % 25 == 0)


def _payment(make: Maker, merchant: str, amount_minor: int, *, coupon: bool) -> Step:
    """Split fee, agent's commission and coupon: 100 paid may be 97 + 3 coupon."""
    customer = make.customer()
    fee = max(1, amount_minor * 6 // 1000)
    commission = amount_minor * 2 // 1000 if merchant != c.HOT_MERCHANT else 0
    coupon_minor = amount_minor * 3 // 100 if coupon else 0
    net = amount_minor - fee - commission
    legs = [movement("debit", customer, amount_minor - coupon_minor)]
    if coupon_minor:
        legs.append(movement("debit", c.COUPONS, coupon_minor, part="coupon"))
    legs.append(movement("credit", merchant, net))
    if commission:
        legs.append(movement("credit", c.AGENT, commission))
    paid = Paid(make.new_id(), customer, merchant, amount_minor, fee)
    make.cast.demand[customer] += amount_minor - coupon_minor
    make.cast.earned[merchant] += net
    if not commission and not coupon_minor:
        make.paid.append(paid)
    return Step(_ordered(make, "payment", legs, paid, {"fee": fee}))


def _ordered(
    make: Maker, business_type: str, legs: list[Leg], paid: Paid, amounts: dict[str, int]
) -> Operation:
    made = make.operation(business_type, *legs, amounts=amounts, operation_id=paid.operation_id)
    return _with_orders(made, make.orders(trade=True))


def _with_orders(operation: Operation, orders: OrderNumbers) -> Operation:
    return Operation(
        operation.business_type,
        operation.legs,
        operation.operation_id,
        operation.amounts,
        orders,
        operation.original_operation_id,
    )


def _foreign_payment(make: Maker) -> Step:
    customer = make.rng.choice(make.cast.foreign_customers)
    amount_minor = make.amount(3_00, 90_00)
    fee = max(1, amount_minor * 9 // 1000)
    make.cast.demand[customer] += amount_minor
    return Step(
        make.operation(
            "payment",
            movement("debit", customer, amount_minor, c.FOREIGN),
            movement("credit", make.cast.foreign_merchant, amount_minor - fee, c.FOREIGN),
            amounts={"fee": fee},
        )
    )


def voucher_sales(make: Maker, count: int) -> Iterator[Step]:
    """Sell gift vouchers: a business type for which the shipped rules have no rule."""
    for _ in range(count):
        amount_minor = 100_00 * make.rng.randrange(1, 4)
        sale = Paid(make.new_id(), make.customer(), make.merchant(), amount_minor // 2, 1_00)
        make.cast.demand[sale.customer] += amount_minor
        make.sold.append(sale)
        yield Step(
            make.operation(
                "voucher_sale",
                movement("debit", sale.customer, amount_minor),
                movement("credit", sale.merchant, sale.amount_minor),
                amounts={"fee": sale.fee_minor},
                operation_id=sale.operation_id,
            )
        )


def refunds(make: Maker, count: int) -> Iterator[Step]:
    """Refund a part or the whole of payments; each refund names its original."""
    for paid in make.rng.sample(make.paid, min(count, len(make.paid))):
        whole = make.rng.random() < 0.2
        tenths = 10 if whole else make.rng.randrange(1, 6)
        yield refund(make, paid, paid.amount_minor * tenths // 10)


def refunds_of_sales(make: Maker, count: int) -> Iterator[Step]:
    """Refund parts of voucher sales: they wait behind the parked sale they name."""
    for sale in make.sold[:count]:
        yield refund(make, sale._replace(fee_minor=0), sale.amount_minor // 4)


def refund(make: Maker, paid: Paid, amount_minor: int, expected: str = BOOKED) -> Step:
    """Give back a part; the merchant gets its share of the fee back."""
    fee = paid.fee_minor * amount_minor // paid.amount_minor
    if expected == BOOKED:
        make.cast.earned[paid.merchant] -= amount_minor - fee
    operation = make.operation(
        "refund",
        movement("debit", paid.merchant, amount_minor - fee),
        movement("credit", paid.customer, amount_minor),
        amounts={"fee": fee},
        original=paid.operation_id,
    )
    return Step(operation, expected)


def transfers(make: Maker, count: int) -> Iterator[Step]:
    """Move money from one customer to another."""
    for _ in range(count):
        payer, payee = make.rng.sample(make.cast.customers, 2)
        amount_minor = make.amount(1_00, 300_00)
        make.cast.demand[payer] += amount_minor
        legs = (movement("debit", payer, amount_minor), movement("credit", payee, amount_minor))
        yield Step(make.operation("transfer", *legs))


def authorisations(make: Maker, count: int) -> list[Paid]:
    """Choose who pre-authorises how much for whom."""
    held = []
    for _ in range(count):
        amount_minor = make.amount(50_00, 500_00)
        fee = max(1, amount_minor * 6 // 1000)
        hold = Paid(make.new_id(), make.customer(), make.merchant(), amount_minor, fee)
        make.cast.demand[hold.customer] += amount_minor
        held.append(hold)
    return held


def authorise(make: Maker, hold: Paid, expires_at: dt.datetime | None = None) -> Step:
    """Set the money aside; it comes back by itself only when an expiry is asked for."""
    leg = hold_leg("hold", hold, hold.amount_minor, expires_at)
    return Step(make.operation("hold", leg, operation_id=hold.operation_id))


def capture(make: Maker, hold: Paid, *, part: bool) -> Step:
    """Take all of a hold, or two thirds and release the rest in the same operation."""
    amount_minor = hold.amount_minor * 2 // 3 if part else hold.amount_minor
    net = amount_minor - hold.fee_minor
    legs = [hold_leg("capture", hold, amount_minor), movement("credit", hold.merchant, net)]
    if part:
        legs.append(hold_leg("release", hold, hold.amount_minor - amount_minor))
    make.cast.earned[hold.merchant] += net
    return Step(
        make.operation(
            "payment_capture",
            *legs,
            amounts={"fee": hold.fee_minor},
            original=hold.operation_id,
        )
    )


def release(make: Maker, hold: Paid) -> Step:
    """Give a hold back."""
    leg = hold_leg("release", hold, hold.amount_minor)
    return Step(make.operation("release", leg, original=hold.operation_id))
