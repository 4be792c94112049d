"""Renumbering: what is healed into a day that is cut takes its number there, and later ones move.

All numbers behind it are taken back first, the last ones first, chunk by chunk, while the cuts
count as not performed; then it is healed, and numbering goes on as after any cut. Between two
chunks lanes move on. Invariant: at every commit the numbers are a beginning of those that the log
gives, so whoever is killed leaves a cut that the consumers perform to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from psycopg import Connection

from consumers.consumer import DeliverInTx, never
from projections import numbering
from projections.numbering import (
    Late,
    Renumbered,
    numbers_held,
    select_late_in_tx,
    take_back_chunk_in_tx,
)
from projections.periods import lock_due_cut_in_tx, perform_cut_in_tx, reopen_cuts_in_tx
from projections.positions import (
    Lane,
    LanesChanged,
    lock_lane_in_tx,
    select_lanes,
    select_log,
    select_visible,
)

__all__ = ["Healing", "Renumbered", "before_numbers", "lock_books_in_tx", "refuse_late_in_tx"]

HealInTx = Callable[[Connection[Any], Sequence[Renumbered]], None]
RecordInTx = Callable[[Connection[Any], Sequence[int], Sequence[Renumbered]], None]


class Healing(NamedTuple):
    """How the books are healed: which ones, and who is told.

    `incarnation` is the books' when they were compared; `record_in_tx` is given the positions
    that its transaction heals, and where later vouchers get other numbers for them.
    """

    incarnation: int
    deliver_in_tx: DeliverInTx
    record_in_tx: RecordInTx = lambda _conn, _healed, _renumbered: None
    failpoint: Callable[[str], None] = never


class _AmongNumbers(Exception):
    """A transaction brought vouchers that stand among numbered ones: it must not commit."""

    def __init__(self, late: Sequence[Late]) -> None:
        super().__init__(late)
        self.late = late


def before_numbers(conn: Connection[Any], healing: Healing, heal_in_tx: HealInTx) -> None:
    """Run a transaction that heals; if it brings vouchers among numbers, take these back first.

    It is given which books are renumbered for it, ends with `refuse_late_in_tx`, and is run again
    after each time that refuses.
    """
    moved: dict[str, Renumbered] = {}
    with ExitStack() as stack:
        while True:
            try:
                with conn.transaction():
                    lock_books_in_tx(conn, healing.incarnation)
                    for each in moved.values():
                        reopen_cuts_in_tx(conn, each.book_id, each.from_date)
                    heal_in_tx(conn, tuple(moved.values()))
                break
            except _AmongNumbers as among:
                if not moved:
                    stack.enter_context(numbers_held(conn))
                for late in among.late:
                    before = moved.get(late.book_id, Renumbered(late.book_id, late.date, 0))
                    taken = before.moved + _take_back(conn, healing, late)
                    moved[late.book_id] = Renumbered(
                        late.book_id, min(before.from_date, late.date), taken
                    )
    if moved:
        _number_again(conn, healing, moved)


def lock_books_in_tx(conn: Connection[Any], incarnation: int) -> Lane:
    """Lock the first lane; raises LanesChanged when these are no longer the books of then."""
    lane = lock_lane_in_tx(conn, select_lanes(conn)[0].lane, select_log(conn))
    if lane.incarnation != incarnation:
        raise LanesChanged(f"the books have incarnation {lane.incarnation} now")
    return lane


def refuse_late_in_tx(conn: Connection[Any], positions: Collection[int]) -> None:
    """End the transaction if vouchers of these positions stand among numbered ones."""
    late = select_late_in_tx(conn, sorted(positions))
    if late:
        raise _AmongNumbers(late)


def _take_back(conn: Connection[Any], healing: Healing, late: Late) -> int:
    """Take back the numbers behind a place; return how many."""
    moved = 0
    while True:
        with conn.transaction():
            lock_books_in_tx(conn, healing.incarnation)
            taken, first_date = take_back_chunk_in_tx(conn, late)
            if first_date is not None:
                reopen_cuts_in_tx(conn, late.book_id, first_date)
        moved += taken
        healing.failpoint("taken_back")
        if taken < numbering.CHUNK_VOUCHERS:
            return moved


def _number_again(conn: Connection[Any], healing: Healing, books: Collection[str]) -> None:
    """Perform the cuts of these books again, unless the consumers were faster."""
    while True:
        with conn.transaction():
            lock_books_in_tx(conn, healing.incarnation)
            cut = lock_due_cut_in_tx(conn, select_visible(conn))
            if cut is None or cut.book_id not in books:
                return
            perform_cut_in_tx(conn, cut)
