"""Seeded histories: what each caller posts, step by step, chosen by what the model knows so far.

Invariant: a caller's operations follow from seed, round and caller alone: it debits and holds only
on accounts of its own, and what it shares with others it only credits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.soak.model import BOOKED, SUSPENSE, Account, Body, Model

SHARED_MERCHANT = "M-HOT"
CALLERS = 6
RECENT = 40


def accounts_of(caller: int) -> dict[str, Account]:
    """A caller's own accounts: two customers (one with credit), one to be frozen, a merchant."""
    return {
        f"C-{caller}": Account("2001.01"),
        f"D-{caller}": Account("2001.01", credit_limit=5_000),
        f"F-{caller}": Account("2001.01"),
        f"M-{caller}": Account("2002.01"),
    }


def first_accounts() -> dict[str, Account]:
    """Every account that the histories open; the suspense account is the engine's."""
    opened = {SHARED_MERCHANT: Account("2002.01")}
    for caller in range(CALLERS):
        opened |= accounts_of(caller)
    return opened


def with_suspense(accounts: dict[str, Account]) -> dict[str, Account]:
    """The model's accounts: those opened by callers and the engine's own."""
    return {**accounts, SUSPENSE: Account("2241.01")}


@dataclass
class Step:
    """One request and what it must be answered; `account` is whose standing a command changes."""

    body: Body
    expected: str
    account: str | None = None


@dataclass
class Caller:
    """Makes one caller's steps of a round; `model` is told each one as it is made."""

    model: Model
    seed: int
    round_no: int
    number: int
    earlier: list[Body] = field(default_factory=list)  # this caller's, of all rounds
    made: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}/{self.round_no}/{self.number}")
        self.own = {name[0]: name for name in accounts_of(self.number)}

    def steps(self, count: int) -> Iterator[Step]:
        """Make steps: mostly new operations, now and then one that was asked before."""
        for _ in range(count):
            with self.model.lock:
                step = self._step()
            yield step

    def _step(self) -> Step:
        dice = self.rng.random()
        if self.earlier and dice < 0.06:
            body = self.rng.choice(self.earlier if dice < 0.03 else self._last)
            if dice < 0.01:
                body = {**body, "description": "another body"}
            return Step(body, self.model.post(body))
        if dice < 0.08:
            return self._freeze()
        if dice < 0.1:
            return self._stripes()
        makers: list[tuple[int, Callable[[], Body | None]]] = [
            (24, self._recharge),
            (16, self._payment),
            (10, self._transfer),
            (8, self._hold),
            (8, self._use_hold),
            (8, self._payout),
            (8, self._next_stage),
            (8, self._refund),
            (5, self._voucher_sale),
            (2, self._charge),
            (2, self._correction),
            (1, self._unbalanced),
        ]
        made: Body | None = None
        while made is None:
            made = self.rng.choices([m for _, m in makers], [w for w, _ in makers])[0]()
        self.earlier.append(made)
        return Step(made, self.model.post(made))

    # --- operations -------------------------------------------------------------------------

    def _body(self, business_type: str, *legs: Body, kind: str = "op", **more: object) -> Body:
        self.made += 1
        name = f"{kind}-{self.round_no}-{self.number}-{self.made}"
        return {"operation_id": name, "business_type": business_type, "legs": list(legs), **more}

    def _recharge(self) -> Body:
        to = self.own[self.rng.choice("CCCDDFM")]
        amount = self.rng.randrange(1_000, 20_000)
        return self._body("recharge", leg("credit", to, amount), amounts={"fee": amount // 100})

    def _payment(self) -> Body:
        amount = self._amount()
        fee = amount // 50
        to = self.rng.choice((SHARED_MERCHANT, SHARED_MERCHANT, self.own["M"], "M-NOBODY"))
        legs = (leg("debit", self._payer(), amount), leg("credit", to, amount - fee))
        return self._body("payment", *legs, **({"amounts": {"fee": fee}} if fee else {}))

    def _transfer(self) -> Body:
        amount = self._amount()
        payer, payee = self.rng.sample((self.own["C"], self.own["D"], self.own["F"]), 2)
        legs = (leg("debit", payer, amount), leg("credit", payee, amount - 1))
        return self._body("transfer", *legs, amounts={"fee": 1})

    def _hold(self) -> Body:
        amount, number = self._amount(), self._payer()
        return self._body(
            "hold", leg("hold", number, amount, hold_id=f"H-{self.round_no}-{self.made}")
        )

    def _use_hold(self) -> Body | None:
        found = self._a_hold("op")
        if found is None:
            return None
        number, hold_id, held, _ = found
        part = self.rng.choice((held, max(1, held // 2), held + 1))
        if self.rng.random() < 0.5:
            return self._body("release", leg("release", number, part, hold_id=hold_id))
        legs = (leg("capture", number, part, hold_id=hold_id), leg("credit", SHARED_MERCHANT, part))
        return self._body("payment_capture", *legs)

    def _payout(self) -> Body:
        hold = leg("hold", self._payer(), self._amount(), hold_id=f"P-{self.round_no}-{self.made}")
        return self._body("withdrawal_hold", hold, kind="payout")

    def _next_stage(self) -> Body | None:
        """Any stage of a payout of ours: the next one, or one that may not follow."""
        known = [
            body["operation_id"]
            for body in self.earlier
            if body["business_type"] == "withdrawal_hold"
            and body["operation_id"] in self.model.stages
        ]
        if not known:
            return None
        payout = self.rng.choice(known[-6:])
        stage = self.rng.choice(("sent", "succeeded", "succeeded", "settled", "failed"))
        hold = self.model.bodies[payout]["legs"][0]
        follow = {"original_operation_id": payout}
        if stage == "succeeded":
            capture = leg("capture", hold["account"], hold["amount"], hold_id=hold["hold_id"])
            return self._body("withdrawal_succeeded", capture, amounts={"fee": 1}, **follow)
        if stage == "failed":
            release = leg("release", hold["account"], hold["amount"], hold_id=hold["hold_id"])
            return self._body("withdrawal_failed", release, **follow)
        if stage == "settled":
            settled = {"amount": max(1, hold["amount"] - 1), "currency": "CNY"}
            return self._body("withdrawal_settled", amounts={"settled": settled}, **follow)
        return self._body("withdrawal_sent", **follow)

    def _refund(self) -> Body | None:
        """Give a part of a payment of ours back, often too much, from our own merchant."""
        paid = self._original("payment", "voucher_sale")
        if paid is None or self.rng.random() < 0.05:
            return self._body(
                "refund", leg("credit", self.own["C"], 1), original_operation_id="nobody"
            )
        debit = paid["legs"][0]
        amount = max(1, debit["amount"] // self.rng.choice((1, 2, 3)))
        legs = (leg("debit", self.own["M"], amount), leg("credit", debit["account"], amount))
        return self._body("refund", *legs, original_operation_id=paid["operation_id"])

    def _voucher_sale(self) -> Body:
        return self._body("voucher_sale", leg("debit", self._payer(), self._amount()))

    def _charge(self) -> Body:
        if self.rng.random() < 0.5:
            return self._body("fee", leg("debit", self._payer(), self.rng.randrange(1, 50)))
        return self._body("interest", leg("credit", self._payer(), self.rng.randrange(1, 50)))

    def _correction(self) -> Body | None:
        """Take a recharge back, or a voucher sale that may still be parked."""
        wrong = self._original("recharge", "voucher_sale")
        if wrong is None or wrong["legs"][0]["account"] == self.own["F"]:
            return None
        side = "debit" if wrong["legs"][0]["kind"] == "credit" else "credit"
        back = leg(side, wrong["legs"][0]["account"], 1)
        amounts = {"clearing_credit" if side == "debit" else "clearing_debit": 1}
        return self._body(
            "correction", back, amounts=amounts, original_operation_id=wrong["operation_id"]
        )

    def _unbalanced(self) -> Body:
        legs = (leg("debit", self._payer(), 10), leg("credit", SHARED_MERCHANT, 9))
        return self._body("payment", *legs)

    def _freeze(self) -> Step:
        number = self.own["F"]
        frozen = not self.model.accounts[number].frozen
        self.made += 1
        body = {
            "operation_id": f"freeze-{self.round_no}-{self.number}-{self.made}",
            "command": "freeze" if frozen else "unfreeze",
            "freeze_id": "court",
            "authority": "court 1",
            "order": "(2026) 1",
            "reason": "soak",
        }
        self.model.freeze(number, frozen=frozen)
        return Step(body, BOOKED, account=number)

    def _stripes(self) -> Step:
        """Spread inflows over other stripes than before; anybody does so to the shared merchant."""
        number = self.rng.choice((SHARED_MERCHANT, self.own["C"], self.own["D"], self.own["M"]))
        self.made += 1
        body = {
            "operation_id": f"stripes-{self.round_no}-{self.number}-{self.made}",
            "command": "stripes",
            "stripes": self.rng.choice((0, 1, 2, 4, 8)),
        }
        self.model.stripe(number)
        return Step(body, BOOKED, account=number)

    # --- choices ----------------------------------------------------------------------------

    @property
    def _last(self) -> list[Body]:
        return self.earlier[-RECENT:]

    def _payer(self) -> str:
        return self.own[self.rng.choice("CCCDD")]

    def _amount(self) -> int:
        return self.rng.randrange(2, 9_000)

    def _a_hold(self, opener: str) -> tuple[str, str, int, str] | None:
        """An open hold on one of our accounts, by what opened it."""
        found = [
            (number, hold_id, amount, name)
            for number in self.own.values()
            for hold_id, (amount, name) in self.model.accounts[number].holds.items()
            if name.startswith(opener)
        ]
        return self.rng.choice(found) if found else None

    def _original(self, *business_types: str) -> Body | None:
        """A body of ours of these types, booked or not."""
        found = [body for body in self._last if body["business_type"] in business_types]
        return self.rng.choice(found) if found else None


def leg(kind: str, account: str, amount: int, **more: object) -> Body:
    """Say a leg."""
    return {"kind": kind, "account": account, "amount": amount, "currency": "CNY", **more}
