"""What Daybook must answer, in memory: accounts, operations, how each ends, subject totals.

Nothing of the product is imported: the rules below were written from the domain's words, so a
mistake in one of the two shows as a difference. Bodies are those of the HTTP API. Invariant: what
callers do on accounts of their own, and credits to shared accounts, give the same in any order.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

Body = dict[str, Any]
BOOK = "main"
BOOKED = "booked"
SUSPENSE = "SUSPENSE-CNY"
VOUCHERED, PARKED, WAITING, NON_POSTING = "vouchered", "parked", "waiting", "non_posting"
NO_RULE, UNBALANCED = "no_rule", "unbalanced"
SILENT = {"hold", "release", "withdrawal_hold", "withdrawal_sent", "withdrawal_failed"}
STAGES = {  # stage after, by the stages it may follow
    "withdrawal_sent": ("sent", {"held"}),
    "withdrawal_succeeded": ("succeeded", {"held", "sent"}),
    "withdrawal_settled": ("settled", {"succeeded"}),
    "withdrawal_failed": ("failed", {"held", "sent"}),
}
FOLLOWS = {"refund", "correction", *STAGES}
BESIDE = {  # what is posted beside the legs: subject, side, and the amount by name
    "recharge": ("1131.01 debit got", "6001.01 debit fee", "2202.01 credit fee"),
    "payment": ("5001.01 credit fee",),
    "payment_capture": ("5001.01 credit fee",),
    "refund": ("5001.01 debit fee",),
    "transfer": ("{transfer_fee} credit fee",),
    "fee": ("5001.03 credit paid",),
    "interest": ("6011.01 debit got",),
    "correction": ("1131.01 credit clearing_credit", "1131.01 debit clearing_debit"),
    "withdrawal_succeeded": ("2242.01 credit net", "5001.02 credit fee"),
    "withdrawal_settled": ("2242.01 debit settled", "1002.01.01 credit settled"),
    "voucher_sale": ("5001.01 credit fee", "2004.01 credit rest"),
}
Line = tuple[str, str, int]  # subject, side, amount


@dataclass
class Account:
    """A credit-normal account; `holds` by id: amount and the operation that opened it.

    One that ever got stripes is one balance all the same; only what its version counts is not said.
    """

    subject: str
    credit_limit: int = 0
    balance: int = 0
    frozen: bool = False
    striped: bool = False
    holds: dict[str, tuple[int, str]] = field(default_factory=dict)
    version: int = 1

    @property
    def held(self) -> int:
        return sum(amount for amount, _ in self.holds.values())

    @property
    def available(self) -> int:
        return self.balance - self.held + self.credit_limit

    def copy(self) -> Account:
        return replace(self, holds=dict(self.holds))


@dataclass
class Operation:
    """A booked operation: what it posts, which rules were in force, how it ended."""

    body: Body
    date: str
    rules: Rules
    moved: list[Line]  # the legs that moved money
    status: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Rules:
    """What the rule changes of a history vary."""

    sells_vouchers: bool = False
    transfer_fee: str = "5001.02"


@dataclass
class Model:
    """`post` and the commands say what the system must answer, and remember it."""

    date: str
    rules: Rules = Rules()
    accounts: dict[str, Account] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, Body] = field(default_factory=dict)
    booked: dict[str, Operation] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    refunded: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    gl: dict[tuple[str, str], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )
    cut: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def post(self, body: Body) -> str:
        """Return `booked` or the reason; the same again for a repeated id."""
        with self.lock:
            name = body["operation_id"]
            if name in self.answers:
                return self.answers[name] if self.bodies[name] == body else "operation_id_reused"
            answer = self._follow_refusal(body) or self._book(body)
            self.answers[name], self.bodies[name] = answer, body
            return answer

    def freeze(self, number: str, *, frozen: bool) -> None:
        """An authority freezes or unfreezes a whole account."""
        with self.lock:
            self.accounts[number].frozen = frozen
            self.accounts[number].version += 1

    def stripe(self, number: str) -> None:
        """Somebody spread an account's inflows over stripes, or ended it."""
        with self.lock:
            self.accounts[number].striped = True

    # --- ledger -----------------------------------------------------------------------------

    def _follow_refusal(self, body: Body) -> str | None:
        kind, original = body["business_type"], body.get("original_operation_id")
        if kind not in FOLLOWS:
            return None
        if original not in self.answers:
            return "unknown_original"
        if self.answers[original] != BOOKED:
            return "original_not_booked"
        if kind in STAGES and self.stages.get(original) not in STAGES[kind][1]:
            return "payout_stage"
        return self._refund_refusal(body, original) if kind == "refund" else None

    def _refund_refusal(self, body: Body, original: str) -> str | None:
        paid: dict[str, int] = defaultdict(int)
        for leg in self.bodies[original]["legs"]:
            if leg["kind"] in ("debit", "capture"):
                paid[leg["account"]] += leg["amount"]
        for leg in body["legs"]:
            if leg["kind"] == "credit":
                part = (original, leg["account"])
                if leg["account"] not in paid:
                    return "refund_part_unknown"
                if self.refunded[part] + leg["amount"] > paid[leg["account"]]:
                    return "refund_exceeds_part"
        return None

    def _book(self, body: Body) -> str:
        kind, name = body["business_type"], body["operation_id"]
        if any(leg["account"] not in self.accounts for leg in body["legs"]) and kind != "recharge":
            return "unknown_account"
        after: dict[str, Account] = {}
        moved = []
        for leg in body["legs"]:
            number = leg["account"]
            account = after.get(number) or self.accounts[number].copy()
            refusal = _leg(account, leg, body, name)
            if refusal is not None:
                if kind != "recharge":
                    return refusal
                number = SUSPENSE
                account = after.get(number) or self.accounts[number].copy()
                account.balance += leg["amount"]
                account.version += 1
            after[number] = account
            if leg["kind"] in ("credit", "debit", "capture"):
                side = "credit" if leg["kind"] == "credit" else "debit"
                moved.append((account.subject, side, leg["amount"]))
        if kind in ("withdrawal_succeeded", "withdrawal_failed") and any(
            opener == body["original_operation_id"]
            for account in after.values()
            for _, opener in account.holds.values()
        ):
            return "payout_incomplete"
        self.accounts.update(after)
        self._note_follower(body)
        self.booked[name] = Operation(body, self.date, self.rules, moved)
        self._account_for(name, self.rules)
        return BOOKED

    def _note_follower(self, body: Body) -> None:
        kind, original = body["business_type"], body.get("original_operation_id")
        if kind == "withdrawal_hold":
            self.stages[body["operation_id"]] = "held"
        elif kind in STAGES:
            self.stages[original] = STAGES[kind][0]
        elif kind == "refund":
            for leg in body["legs"]:
                if leg["kind"] == "credit":
                    self.refunded[original, leg["account"]] += leg["amount"]

    # --- accounting -------------------------------------------------------------------------

    def retry(self, names: list[str]) -> None:
        """A repair order: parked operations by the rules of now; then what waited for them."""
        with self.lock:
            for name in names:
                if self.booked[name].status == PARKED:
                    self._account_for(name, self.rules, now=True)
                    self._wake(name)

    def override(self, name: str, line: Line) -> None:
        """Two people gave the line that was missing: it is dated the open day."""
        with self.lock:
            operation = self.booked[name]
            for subject, side, amount in [*operation.moved, line]:
                self.gl[subject, self.date][side == "credit"] += amount
            operation.status, operation.reason = VOUCHERED, None
            self._wake(name)

    def open(self, status: str) -> list[str]:
        """The operations that are parked, or waiting."""
        with self.lock:
            return [name for name, each in self.booked.items() if each.status == status]

    def _account_for(self, name: str, rules: Rules, *, now: bool = False) -> None:
        operation = self.booked[name]
        original = operation.body.get("original_operation_id")
        behind = self.booked.get(original) if original else None
        if behind is not None and behind.status in (PARKED, WAITING):
            operation.status, operation.reason = WAITING, None
            return
        if operation.body["business_type"] in SILENT:
            operation.status = NON_POSTING
            return
        lines = _lines(operation, rules)
        operation.status, operation.reason = VOUCHERED, None
        if lines is None:
            operation.status, operation.reason = PARKED, NO_RULE
        elif sum(amount if side == "debit" else -amount for _, side, amount in lines):
            operation.status, operation.reason = PARKED, UNBALANCED
        else:
            late = now and operation.date <= self.cut
            for subject, side, amount in lines:
                date = self.date if late else operation.date
                self.gl[subject, date][side == "credit"] += amount

    def _wake(self, name: str) -> None:
        if self.booked[name].status not in (VOUCHERED, NON_POSTING):
            return
        for waiter, each in self.booked.items():
            if each.status == WAITING and each.body.get("original_operation_id") == name:
                self._account_for(waiter, each.rules, now=True)
                self._wake(waiter)


def _leg(account: Account, leg: Body, body: Body, name: str) -> str | None:
    """Apply a leg to a copy of its account, or say the first reason against it."""
    kind, amount, hold_id = leg["kind"], leg["amount"], leg.get("hold_id")
    if account.frozen and kind != "release" and body["business_type"] != "withdrawal_succeeded":
        return "account_frozen"
    held, opener = account.holds.get(hold_id or "", (0, ""))
    if kind in ("release", "capture"):
        if not opener:
            return "unknown_hold"
        stays = body["business_type"] not in ("withdrawal_succeeded", "withdrawal_failed")
        if opener.startswith("payout") and stays:
            return "hold_of_payout"
        if amount > held:
            return "hold_exceeded"
        account.holds[hold_id] = (held - amount, opener)
        if held == amount:
            del account.holds[hold_id]
    elif kind in ("debit", "hold") and account.available < amount:
        return "insufficient_funds"
    elif kind == "hold":
        account.holds[hold_id] = (amount, name)
    account.balance += {"credit": amount, "debit": -amount, "capture": -amount}.get(kind, 0)
    account.version += 1
    return None


def _lines(operation: Operation, rules: Rules) -> list[Line] | None:
    """Double entry: the legs, and what stands beside them; None where there is no rule."""
    kind, named = operation.body["business_type"], operation.body.get("amounts", {})
    if kind not in BESIDE or (kind == "voucher_sale" and not rules.sells_vouchers):
        return None
    amounts = {name: each["amount"] if name == "settled" else each for name, each in named.items()}
    paid = sum(amount for _, side, amount in operation.moved if side == "debit")
    got = sum(amount for _, side, amount in operation.moved if side == "credit")
    fee = amounts.get("fee", 0)
    amounts |= {"paid": paid, "got": got, "net": paid - fee, "rest": paid - fee - got}
    beside = (line.format(transfer_fee=rules.transfer_fee).split() for line in BESIDE[kind])
    lines = [(subject, side, amounts.get(name, 0)) for subject, side, name in beside]
    return [line for line in operation.moved + lines if line[2]]
