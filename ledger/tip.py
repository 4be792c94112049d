"""The end of the log as one process knows it, also of a batch that may not be visible yet.

A batch decided ahead is decided on this. Invariant: it is a guess; whoever writes proves it under
the log's lock (`ledger/booking.py`).
"""

from __future__ import annotations

import msgspec

from ledger.account import Account
from ledger.business_types import BusinessTypes
from ledger.errors import LedgerError
from ledger.job import Decided, Job, Loaded, Recorded
from ledger.loading import Wanted
from ledger.log import LogEnd, Sealed
from ledger.original import Original, known_original
from ledger.packed import Packed


class Tip(msgspec.Struct, frozen=True):
    """The end of the log as this process knows it, and what of it may not be visible yet."""

    book_id: str
    end: LogEnd
    touched: dict[str, Account] = {}
    recorded: dict[str, Recorded] = {}
    originals: dict[str, Original] = {}
    first_id: int = 0

    def record(self, operation_id: str) -> Recorded:
        """Return what it has recorded of an id that it has, with its position."""
        found = self.recorded[operation_id]
        return Recorded(found.event, self.first_id + (found.row or 0))


class Prepared(msgspec.Struct, frozen=True):
    """A batch decided ahead, on `base`: valid only while that is the log's last seal."""

    base: bytes
    loaded: Loaded
    decided: Decided
    sealed: Sealed
    packed: Packed


def leaves_no_row(jobs: list[Job], decided: Decided) -> bool:
    """Tell whether anything is said of an operation id that nothing is written of."""
    return any(job.dry_run for job in jobs) or any(
        isinstance(outcome, LedgerError) for outcomes in decided.outcomes for outcome in outcomes
    )


def overlay(loaded: Loaded, wanted: Wanted, tip: Tip, types: BusinessTypes) -> list[Account]:
    """Add what the batch before has decided and may not have committed yet.

    Return the heads that memory did not have right.
    """
    replaced = [
        tip.touched[number]
        for number in loaded.accounts.keys() & tip.touched.keys()
        if loaded.accounts[number] is not tip.touched[number]
    ]
    loaded.accounts.update({account.number: account for account in replaced})
    for operation_id in tip.recorded.keys() & wanted.operation_ids:
        loaded.recorded[operation_id] = tip.record(operation_id)
    for operation_id in loaded.originals:
        if operation_id in tip.originals:
            loaded.originals[operation_id] = tip.originals[operation_id]
        elif (record := tip.recorded.get(operation_id)) is not None:
            loaded.originals[operation_id] = known_original(record.event, None, 1, types)
    return replaced
