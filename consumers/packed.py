"""What a batch enters, packed: new rows as the server takes them, made in any thread.

Invariant: it is a function of what was settled alone; it is sent only if all of that is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from consumers.messages import Booked
from consumers.posting import Settled, results_of
from ledger.statuses import pack_first_results
from projections.journal import PackedVouchers, pack_vouchers
from projections.orders import pack_orders
from projections.outcomes import Outcome, in_key_order, pack_outcomes


class Packed(NamedTuple):
    """Rows of outcomes, vouchers with their lines, order numbers, and of the ledger's statuses."""

    outcomes: bytearray
    vouchers: PackedVouchers | None
    orders: bytearray | None
    results: bytes


def pack_new(
    settled: Sequence[Settled], operations: Iterable[Booked], *, with_results: bool
) -> Packed:
    """Pack what was settled, and its operations.

    `with_results`: the statuses are written in the same commit.
    """
    outcomes = [each.outcome for each in settled]
    return Packed(
        pack_outcomes(in_key_order(outcomes)),
        pack_entered(settled),
        pack_ordered(operations),
        pack_first(outcomes) if with_results else b"",
    )


def pack_first(outcomes: Sequence[Outcome]) -> bytes:
    """Pack the results of new outcomes: nothing was said about these operations before."""
    return pack_first_results(results_of(outcomes))


def pack_entered(settled: Sequence[Settled]) -> PackedVouchers | None:
    """Pack the vouchers of what was settled; None without any."""
    return pack_vouchers(
        (each.source_position, voucher) for each in settled for voucher in each.vouchers
    )


def pack_ordered(operations: Iterable[Booked]) -> bytearray | None:
    """Pack the order numbers of operations; None without any."""
    return pack_orders((booked.position, booked.operation) for booked in operations)
