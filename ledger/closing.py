"""What only the closing of an account asks: operations not ended, open accounts below it. Pure.

Invariant: it sees what was loaded under the log's lock and what this batch has done since, so
that a batch gives what its operations give one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ledger.account import Account
from ledger.buffers import buffer_number
from ledger.events import OperationBooked
from ledger.job import Loaded, Recorded
from ledger.stripes import is_engine_account


def may_be_closed(account: Account) -> bool:
    """Tell whether its operations matter for closing it: else something of itself is in the way."""
    return account.status == "open" and not (account.balance_minor or account.holds)


def has_unended(number: str, loaded: Loaded, recorded: Iterable[Recorded]) -> bool:
    """Tell whether accounting has still to end an operation that touched the account."""
    ours = {number, buffer_number(number)}
    return number in loaded.unvouchered or any(
        touched.account in ours
        for record in recorded
        if isinstance(record.event, OperationBooked)
        for touched in record.event.accounts
    )


def open_below(number: str, loaded: Loaded, touched: Mapping[str, Account]) -> tuple[str, ...]:
    """Return the open accounts directly below, by number; not the engine's own."""
    is_open = dict.fromkeys(loaded.children.get(number, ()), True)
    for account in touched.values():
        if account.parent == number and not is_engine_account(account):
            is_open[account.number] = account.status == "open"
    return tuple(sorted(child for child, stands in is_open.items() if stands))
