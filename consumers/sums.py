"""Sums: what a batch adds to balances and totals, added up in memory before it is written.

The live handler writes them with every batch, a rebuild with every long stretch. Invariant:
they are added to only for outcomes that are new, and written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import Connection

from accounting.voucher import Voucher
from consumers.messages import Booked
from projections.account_balances import (
    LegSums,
    WrittenDays,
    add_legs,
    post_leg_sums_in_tx,
    write_leg_sums,
)
from projections.gl_balances import LineSums, add_lines, post_line_sums_in_tx
from projections.outcomes import Outcome, Totals, add_totals, post_totals_in_tx


class Sums:
    """Debits and credits per subject and per account and day, counts and amounts per status."""

    def __init__(self) -> None:
        self.lines: LineSums = {}
        self.legs: LegSums = {}
        self.totals: Totals = {}
        self._written: WrittenDays | None = None

    def __len__(self) -> int:
        return len(self.lines) + len(self.legs) + len(self.totals)

    def add(
        self,
        outcomes: Sequence[Outcome],
        operations: Iterable[Booked],
        vouchers: Iterable[Voucher],
    ) -> None:
        """Add new outcomes, with their operations and vouchers."""
        add_lines(self.lines, vouchers)
        add_totals(self.totals, outcomes)
        add_legs(self.legs, (booked.operation for booked in operations))

    def write(self) -> None:
        """Write the longest of them as it is sent; nothing may be added afterwards."""
        self._written = write_leg_sums(self.legs) if self.legs else None

    def post_in_tx(self, conn: Connection[Any], lane: int) -> None:
        """Write them into the lane's rows, each table in key order; nothing is left."""
        post_line_sums_in_tx(conn, self.lines, lane)
        post_totals_in_tx(conn, self.totals, lane)
        if self.legs:
            post_leg_sums_in_tx(conn, self._written or write_leg_sums(self.legs), lane)
        self.lines, self.legs, self.totals, self._written = {}, {}, {}, None
