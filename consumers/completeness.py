"""Completeness: every operation of the log against what the books hold of it.

The log is read and decoded; a stretch that agrees with its outcomes is proved at once
(`agreement.py`); otherwise outcomes are matched by position and, where that fails, by book and
operation id; vouchers are compared with outcomes by the database itself. Offsets are never
asked; a lane's position only says whether an operation without an outcome is due.
Invariant: nothing is written here, and what is called missing has no trace in the books.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
from psycopg import Connection

from consumers.agreement import Logged, LoggedLeg, amounts_text, count_agreeing_in_tx
from consumers.messages import OPERATION_TOPIC, Unreadable, log_row, partition_of, read_row
from consumers.set_aside import is_set_aside
from consumers.traces import (
    select_booked_in_tx,
    select_elsewhere_in_tx,
    select_unkept_in_tx,
    select_unposted_in_tx,
    select_vouchered_in_tx,
)
from projections.positions import select_head, select_lanes
from projections.sweeps import DIFFERENCES_MAX, Difference

POSITIONS_PER_SLICE = 50_000

UNMET = "a decision that the books never met: what is not healed, a rebuild mends"

BEGIN_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
ALONE = "SET LOCAL max_parallel_workers_per_gather = 0"  # the other half runs beside it
SELECT_COMPARED = """
    SELECT notification_id, state, o.position, o.book_id, o.operation_id,
           o.business_date::text, o.amounts::text
    FROM (SELECT notification_id, state FROM ledger.stored_events
          WHERE notification_id > %(after)s AND notification_id <= %(until)s
            AND topic = 'ledger.recorded:OperationBooked'
            AND (%(day)s::bytea IS NULL OR position(%(day)s::bytea IN state) > 0)) logged
    FULL JOIN (SELECT position, book_id, operation_id, business_date, amounts FROM outcomes
               WHERE position > %(after)s AND position <= %(until)s
                 AND (%(date)s::date IS NULL OR business_date = %(date)s::date)) o
      ON o.position = logged.notification_id
"""


class _Leg(LoggedLeg, frozen=True, gc=False):
    account: str


class _Logged(Logged, frozen=True, gc=False):
    legs: tuple[_Leg, ...] = ()


class Selection(msgspec.Struct, frozen=True):
    """What is compared of a stretch: everything, or a business day, in all books or one."""

    business_date: str | None = None
    book_id: str | None = None

    def takes(self, book_id: str, business_date: str) -> bool:
        """Tell whether an operation is meant."""
        return self.book_id in (None, book_id) and self.business_date in (None, business_date)

    @property
    def takes_all(self) -> bool:
        """Tell whether nothing is left out."""
        return self.book_id is None and self.business_date is None

    @property
    def day(self) -> bytes | None:
        """Give what the stored bytes of an operation of the day contain."""
        date = self.business_date
        return None if date is None else f'"business_date":"{date}"'.encode()


EVERYTHING = Selection()


class Comparison(NamedTuple):
    """A stretch after < position ≤ until, compared.

    `waiting` operations are not due: their lane has not come so far.
    """

    operations: int
    waiting: int
    differences: list[Difference]

    @property
    def missing(self) -> list[int]:
        """Give the positions of what handling them again would heal."""
        return [each.position for each in self.differences if each.kind == "missing"]

    @property
    def unmet(self) -> list[int]:
        """Give the positions of decisions that left no row."""
        return [each.position for each in self.differences if each.kind == "unmet"]


class SweepReport(msgspec.Struct, frozen=True):
    """What was compared and found; `differences` are the first DIFFERENCES_MAX."""

    after: int
    through: int
    operations: int
    waiting: int
    differences: tuple[Difference, ...]
    found: int

    @property
    def is_complete(self) -> bool:
        """Tell whether the books hold all that is due, as the log says it."""
        return self.found == 0


_decode = msgspec.json.Decoder(_Logged).decode
_decode_amounts = msgspec.json.Decoder(dict[str, int]).decode


def sweep(
    conn: Connection[Any],
    *,
    after: int = 0,
    through: int | None = None,
    selection: Selection = EVERYTHING,
    beside: Connection[Any] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> SweepReport:
    """Compare the stretch after < position ≤ through (default: to where the log ends).

    Needs autocommit connections. `beside` is another connection, on which half of each slice
    is compared at the same time. `progress` is told how many positions each slice covered.
    """
    head = select_head(conn)
    end = head if through is None else min(through, head)
    start, operations, waiting, found = after, 0, 0, 0
    differences: list[Difference] = []
    while after < end:
        until = min(end, after + POSITIONS_PER_SLICE)
        compared = compare(conn, after, until, selection=selection, beside=beside)
        operations += compared.operations
        waiting += compared.waiting
        found += len(compared.differences)
        differences += compared.differences[: DIFFERENCES_MAX - len(differences)]
        progress(until - after)
        after = until
    return SweepReport(start, end, operations, waiting, tuple(differences), found)


def compare(
    conn: Connection[Any],
    after: int,
    until: int,
    *,
    selection: Selection = EVERYTHING,
    beside: Connection[Any] | None = None,
) -> Comparison:
    """Compare one stretch: the log with the outcomes, and these with their vouchers."""
    if beside is None:
        halves = [_compare_half(conn, after, until, selection)]
    else:
        middle = (after + until) // 2
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(_compare_half, beside, middle, until, selection)
            halves = [_compare_half(conn, after, middle, selection), future.result()]
    differences = [each for logged, _ in halves for each in logged.differences]
    named = {(each.book_id, each.operation_id) for each in differences}
    differences += [
        each
        for _, posted in halves
        for each in posted
        if (each.book_id, each.operation_id) not in named
    ]
    return Comparison(
        sum(logged.operations for logged, _ in halves),
        sum(logged.waiting for logged, _ in halves),
        sorted(differences, key=lambda each: each.position),
    )


def _compare_half(
    conn: Connection[Any], after: int, until: int, selection: Selection
) -> tuple[Comparison, list[Difference]]:
    logged = _compare_log(conn, after, until, selection)
    return logged, _compare_vouchers(conn, after, until, selection)


def _compare_log(conn: Connection[Any], after: int, until: int, selection: Selection) -> Comparison:
    """Match the log's operations with outcomes; look closer where they do not agree at once."""
    span = {
        "after": after,
        "until": until,
        "day": selection.day,
        "date": selection.business_date,
        "book": selection.book_id,
    }
    with _snapshot(conn):
        takes = None if selection.takes_all else selection.takes
        operations = count_agreeing_in_tx(conn, span, takes)
        if operations is None:
            operations, waiting, differences = _match_in_tx(conn, span, selection)
        else:
            waiting, differences = 0, []
        if selection.takes_all:
            unkept = _due(conn, select_unkept_in_tx(conn, after, until))
            differences += [Difference("unmet", *each, UNMET) for each in unkept]
    return Comparison(operations, waiting, differences)


def _match_in_tx(
    conn: Connection[Any], span: Mapping[str, object], selection: Selection
) -> tuple[int, int, list[Difference]]:
    """Match one by one; look again at what finds no partner. Return operations, waiting ones."""
    operations = 0
    alone: dict[int, _Logged] = {}
    extra: list[tuple[int, str, str]] = []
    differences: list[Difference] = []
    with conn.cursor(binary=True) as cursor:
        cursor.execute(SELECT_COMPARED, span)
        for position, state, at, *outcome in cursor:
            if state is None:
                extra.append((at, outcome[0], outcome[1]))
                continue
            try:
                logged = _decode(state)
                if at is None:
                    read_row(log_row(position, OPERATION_TOPIC, state))
            except (msgspec.MsgspecError, Unreadable):
                differences += _unreadable(conn, position, state)
                continue
            if not selection.takes(logged.book_id, logged.business_date):
                continue
            operations += 1
            if at is None:
                alone[position] = logged
            else:
                detail = _difference(logged, outcome)
                if detail is not None:
                    differences.append(_named("differing", position, logged, detail))
        waiting, found = _look_again(conn, alone)
    return operations, waiting, [*differences, *found, *_unknown(conn, extra, selection)]


@contextmanager
def _snapshot(conn: Connection[Any]) -> Iterator[None]:
    with conn.transaction():
        conn.execute(BEGIN_SNAPSHOT)
        conn.execute(ALONE)
        yield


def _difference(logged: _Logged, outcome: list[Any]) -> str | None:
    book_id, operation_id, business_date, amounts = outcome
    if operation_id != logged.operation_id or book_id != logged.book_id:
        return f"the outcome is of {book_id}/{operation_id}"
    if business_date != logged.business_date:
        return f"the log says {logged.business_date}, the outcome {business_date}"
    movement = logged.movement()
    if amounts != amounts_text(movement) and _decode_amounts(amounts) != movement:
        return f"the log says {movement}, the outcome {amounts}"
    return None


def _look_again(conn: Connection[Any], alone: dict[int, _Logged]) -> tuple[int, list[Difference]]:
    """Judge operations that have no outcome at their position.

    One whose lane has not come so far is not due. One that left a trace elsewhere differs; to
    handle it again would double the rest of it.
    """
    if not alone:
        return 0, []
    lanes = {lane.lane: lane.position for lane in select_lanes(conn)}
    furthest = max(lanes.values(), default=0)
    due: dict[int, _Logged] = {}
    for position, logged in alone.items():
        first = logged.legs[0].account if logged.legs else logged.operation_id
        if position <= furthest:
            lane = partition_of(f"{logged.book_id}/{first}", len(lanes))
            if position <= lanes.get(lane, 0):
                due[position] = logged
    names = [(each.book_id, each.operation_id) for each in due.values()]
    elsewhere = select_elsewhere_in_tx(conn, names) if names else {}
    vouchered = select_vouchered_in_tx(conn, list(due)) if due else set()
    found: list[Difference] = []
    for position, logged in due.items():
        traced = elsewhere.get((logged.book_id, logged.operation_id))
        if traced is not None:
            at, date = traced
            detail = f"its outcome says position {at}, {date}"
            found.append(_named("differing", position, logged, detail))
        elif position in vouchered:
            found.append(_named("differing", position, logged, "no outcome, and has vouchers"))
        else:
            found.append(_named("missing", position, logged, "no trace of it"))
    return len(alone) - len(due), found


def _due(conn: Connection[Any], unkept: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """Keep the decisions that a lane has passed: every lane brings them, the first keeps them."""
    furthest = max((lane.position for lane in select_lanes(conn)), default=0) if unkept else 0
    return [each for each in unkept if each[0] <= furthest]


def _unknown(
    conn: Connection[Any], extra: list[tuple[int, str, str]], selection: Selection
) -> Iterable[Difference]:
    """Name outcomes of operations that were never booked.

    One that was booked at another position is named there.
    """
    meant = [each for each in extra if selection.book_id in (None, each[1])]
    booked = select_booked_in_tx(conn, [(book, each) for _, book, each in meant]) if meant else {}
    for position, book_id, operation_id in meant:
        at = booked.get((book_id, operation_id))
        if at is None:
            yield Difference("unknown", position, book_id, operation_id, "not in the log")
        elif at == position:
            detail = f"the outcome says {selection.business_date}, the log another day"
            yield Difference("differing", position, book_id, operation_id, detail)


def _unreadable(conn: Connection[Any], position: int, state: bytes) -> list[Difference]:
    """Name an operation that no consumer can read, unless it was set aside."""
    try:
        read_row(log_row(position, OPERATION_TOPIC, state))
    except Unreadable as error:
        if is_set_aside(conn, error):
            return []
        return [Difference("differing", position, "", "", f"nobody can read it: {error}")]
    except msgspec.MsgspecError as error:
        return [Difference("differing", position, "", "", f"nobody can read it: {error}")]
    return []


def _compare_vouchers(
    conn: Connection[Any], after: int, until: int, selection: Selection
) -> list[Difference]:
    with _snapshot(conn):
        rows = select_unposted_in_tx(conn, after, until)
    return [
        Difference(kind, position, book_id, operation_id, detail)
        for kind, position, book_id, operation_id, date, detail in rows
        if selection.takes(book_id, date) or (date == "" and selection.takes_all)
    ]


def _named(kind: str, position: int, logged: _Logged, detail: str) -> Difference:
    return Difference(kind, position, logged.book_id, logged.operation_id, detail)
