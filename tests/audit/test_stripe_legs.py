"""What an operation says of an account with stripes is checked against all parts together."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ledger import events as ev
from ledger.account import Account, Striping
from ledger.audit_legs import Legs
from ledger.audit_verdict import DifferenceFound
from ledger.codec import account_stream
from ledger.evolve import evolve
from ledger.stripes import STRIPE
from tests.ledger import builders as b

# An inflow on a stripe, and money out for which something is gathered first.
OPERATIONS = {
    "an inflow": b.post("recharge", b.credit("M-1", 4), operation_id="o"),
    "a debit": b.post("fee", b.debit("M-1", 6), operation_id="o"),
}


def audit_of(name: str, **lies: Any) -> None:
    """Read the operation as an audit does, with these lies in what it says of its account."""
    home = b.account("M-1", balance_minor=3, striping=Striping(1, 1))
    stripe = b.account("STRIPE-1-M-1", type=STRIPE, parent="M-1", balance_minor=5)
    accounts: dict[bytes, Account] = {}
    for account in (home, stripe):
        accounts[account_stream(b.BOOK, account.number)] = account
    legs = Legs(accounts)
    decided = b.decide(b.loaded(home, stripe), OPERATIONS[name])
    for position, event in enumerate(b.events_of(decided)):
        if isinstance(event, ev.OperationBooked):
            (said,) = event.accounts
            told = msgspec.structs.replace(said, **(lies if event.operation_id == "o" else {}))
            legs.claim(msgspec.structs.replace(event, accounts=(told,)), position)
            continue
        stream = account_stream(b.BOOK, event.account)
        accounts[stream] = evolve(accounts[stream], event)
        legs.settle(event, accounts[stream], position)
    legs.finish_commit()


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_true_of_the_whole_passes(name: str) -> None:
    audit_of(name)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("lies", "column"),
    [
        ({"balance_minor": 5}, "balance"),
        ({"available_minor": 1}, "available"),
        ({"day_credits_minor": 99}, "day_credits"),
        ({"version": 99}, ""),
    ],
)
def test_a_lie_about_the_whole_is_found(name: str, lies: dict[str, Any], column: str) -> None:
    with pytest.raises(DifferenceFound) as found:
        audit_of(name, **lies)
    difference = found.value.difference
    assert difference.column.startswith("state.accounts[M-1]")
    assert difference.column.endswith(column)
