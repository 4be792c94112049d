"""What each leg does in each standing of the account: the table, cell by cell."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ledger.account import Account, Freeze, Hold, decide_leg
from ledger.business_types import BusinessType
from ledger.errors import Rejection
from ledger.operation import Leg
from tests.ledger import builders as b

LEGS: dict[str, Leg] = {
    "in": b.credit("C-1", 100),
    "out": b.debit("C-1", 100),
    "hold": b.hold("C-1", 100, "new"),
    "release": b.release("C-1", 100, "h"),
    "capture": b.capture("C-1", 100, "h"),
    "freeze": b.freeze("C-1", 100, "new"),
    "unfreeze": b.unfreeze("C-1", 100, "f"),
}
MONEY = {
    "balance_minor": 10_000,
    "held_minor": 100,
    "frozen_minor": 100,
    "holds": {"h": Hold(100, "opener")},
    "freezes": {"f": Freeze(100, "court", "1", "")},
}
STOP = {"payment_status": "partial_stop", "partial_types": ("fee",)}
STANDINGS: dict[str, dict[str, Any]] = {
    "normal": {},
    "closed": {"status": "closed"},
    "frozen whole": {"whole_freezes": 1},
    "lost": {"lost": True},
    "receive_only": {"payment_status": "receive_only"},
    "blocked": {"payment_status": "blocked"},
    "stop, listed": {**STOP, "partial_types": ("transfer",), "partial_amount_minor": 9_999},
    "stop, no amount": STOP,
    "stop, below": {**STOP, "partial_amount_minor": 9_701},
    "stop, above": {**STOP, "partial_amount_minor": 9_700},
    "closed and lost": {"status": "closed", "lost": True},
    "frozen and lost": {"whole_freezes": 1, "lost": True},
    "lost and blocked": {"lost": True, "payment_status": "blocked"},
}
# available is 10,000 − 100 held − 100 frozen = 9,800: a leg of 100 leaves 9,700.
TABLE = """
                   in      out           hold          release  capture  freeze  unfreeze
normal           | ok      ok            ok            ok       ok       ok      ok
closed           | closed  closed        closed        closed   closed   closed  closed
frozen whole     | frozen  frozen        frozen        ok       frozen   ok      ok
lost             | ok      lost          lost          ok       ok       ok      ok
receive_only     | ok      receive_only  receive_only  ok       ok       ok      ok
blocked          | blocked blocked       blocked       ok       ok       ok      ok
stop, listed     | ok      ok            ok            ok       ok       ok      ok
stop, no amount  | ok      partial_stop  partial_stop  ok       ok       ok      ok
stop, below      | ok      partial_stop  partial_stop  ok       ok       ok      ok
stop, above      | ok      ok            ok            ok       ok       ok      ok
closed and lost  | closed  closed        closed        closed   closed   closed  closed
frozen and lost  | frozen  frozen        frozen        ok       frozen   ok      ok
lost and blocked | blocked lost          lost          ok       ok       ok      ok
"""
# A must-book type is refused like any other on the account itself (the operation then sends
# the inflow to suspense), but the capture of a payout that has happened passes a freeze.
MUST_BOOK_DIFFERS = {("frozen whole", "capture"): "ok", ("frozen and lost", "capture"): "ok"}


def cells() -> list[tuple[str, str, str]]:
    """Read the table: (standing, leg, what it says)."""
    heading, *lines = TABLE.strip("\n").splitlines()
    found = []
    for line in lines:
        standing, _, words = line.partition("|")
        for leg, word in zip(heading.split(), words.split(), strict=True):
            found.append((standing.strip(), leg, word))
    return found


def said(account: Account, leg: Leg, kind: BusinessType) -> str:
    decision = decide_leg(account, leg, 1, b.context(kind=kind))
    if isinstance(decision, Rejection):
        return decision.reason.value.removeprefix("account_")
    return "ok"


def test_the_table_has_a_row_for_every_standing_and_a_column_for_every_leg() -> None:
    assert {standing for standing, _, _ in cells()} == set(STANDINGS)
    assert {leg for _, leg, _ in cells()} == set(LEGS)


@pytest.mark.parametrize(("standing", "leg", "word"), cells())
def test_a_leg_does_in_a_standing_what_the_table_says(standing: str, leg: str, word: str) -> None:
    account = b.account(**MONEY, **STANDINGS[standing])
    assert said(account, LEGS[leg], b.TYPES.types["transfer"]) == word


@pytest.mark.parametrize(("standing", "leg", "word"), cells())
def test_a_must_book_leg_differs_only_in_the_capture_of_a_frozen_account(
    standing: str, leg: str, word: str
) -> None:
    account = b.account(**MONEY, **STANDINGS[standing])
    kind = b.business_type("transfer", must_book=True)
    assert said(account, LEGS[leg], kind) == MUST_BOOK_DIFFERS.get((standing, leg), word)


def test_in_every_combination_of_standings_the_first_declared_reason_is_the_answer() -> None:
    of_table = {(standing, leg): word for standing, leg, word in cells()}
    statuses = [
        name for name in STANDINGS if "payment_status" in STANDINGS[name] and " and " not in name
    ]
    parts = (("normal", "closed"), ("normal", "frozen whole"), ("normal", "lost"))
    combinations = list(itertools.product(*parts, ("normal", *statuses)))
    assert len(combinations) == 56
    for standings, leg in itertools.product(combinations, LEGS):
        account = b.account(**MONEY, **{k: v for s in standings for k, v in STANDINGS[s].items()})
        words = [of_table[standing, leg] for standing in standings]
        expected = next((word for word in words if word != "ok"), "ok")
        assert said(account, LEGS[leg], b.TYPES.types["transfer"]) == expected, (standings, leg)


@pytest.mark.parametrize("standing", STANDINGS)
def test_on_a_debit_normal_account_debits_come_in_and_credits_go_out(standing: str) -> None:
    facts = {**MONEY, "holds": {}, "held_minor": 0, "normal_side": "debit"}
    if "partial_amount_minor" in STANDINGS[standing]:
        facts["held_minor"] = 100  # keep the same available amount as in the table
    account = b.account(**facts, **STANDINGS[standing])
    of_table = {(s, leg): word for s, leg, word in cells()}
    kind = b.TYPES.types["transfer"]
    assert said(account, b.debit("C-1", 100), kind) == of_table[standing, "in"]
    assert said(account, b.credit("C-1", 100), kind) == of_table[standing, "out"]


def test_a_partial_stop_leaves_an_account_without_floor_alone_when_it_states_an_amount() -> None:
    account = b.account(**STOP, partial_amount_minor=5, credit_limit_minor=None)
    assert said(account, b.debit("C-1", 10**9), b.TYPES.types["transfer"]) == "ok"
