"""Put the rows of an account's day in the order in which the stated balances chain.

A row is an edge from (stated balance − signed amount) to its stated balance; an order
chains when every row starts where the one before ended. Invariant: the result is a
permutation of the rows, the same for the same rows, and never has a worse chain than
file order; on days of up to `SEARCH_MAX` rows no order has fewer unexplained links, and
among those none has fewer links that are off by the source's rounding.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SEARCH_MAX = 8  # segments whose every order is weighed (2^8 × 8 states)
STEPS_MAX = 50_000  # of the backtracking search on days with more segments than that
UNEXPLAINED = 1_000_000  # the weight of a link that neither chains nor is off by rounding
ROUNDED = 1


class Move(NamedTuple):
    """One row as the search sees it."""

    signed_minor: int
    stated_minor: int

    @property
    def opening_minor(self) -> int:
        """The balance the source must have had before this row."""
        return self.stated_minor - self.signed_minor


class Segment(NamedTuple):
    """Rows that already chain exactly: indexes, balance before the first, after the last."""

    rows: tuple[int, ...]
    opening_minor: int
    closing_minor: int


def chaining_order(
    start_minor: int | None, moves: Sequence[Move], rounding_minor: int
) -> tuple[int, ...]:
    """Return the indexes of `moves` in chaining order; `start_minor` None is unknown."""
    if len(moves) < 2:
        return tuple(range(len(moves)))
    in_file_order = tuple(range(len(moves)))
    trails = exact_trails(start_minor, moves)
    chained = _join(trails)
    if chain_weight(start_minor, moves, chained, rounding_minor) == 0:
        return chained
    segments = [_segment(moves, (row,)) for row in in_file_order]
    if len(moves) > SEARCH_MAX:
        segments = [_segment(moves, trail) for trail in trails]
    linked = link_segments(start_minor, segments, rounding_minor)
    return min(
        (_join(segments[number].rows for number in linked), in_file_order),
        key=lambda order: chain_weight(start_minor, moves, order, rounding_minor),
    )


def chain_weight(
    start_minor: int | None, moves: Sequence[Move], order: Iterable[int], rounding_minor: int
) -> int:
    """Weigh an order: 0 chains exactly; `UNEXPLAINED` and `ROUNDED` for each such link."""
    weight, balance = 0, start_minor
    for row in order:
        weight += _link_weight(balance, moves[row].opening_minor, rounding_minor)
        balance = moves[row].stated_minor
    return weight


def exact_trails(start_minor: int | None, moves: Sequence[Move]) -> list[tuple[int, ...]]:
    """Cut the day into the fewest exact chains (Euler's trails), all rows in exactly one.

    One trail comes back whenever an exact order of all rows from `start_minor` exists.
    """
    waiting: dict[int, deque[int]] = defaultdict(deque)
    surplus: dict[int, int] = defaultdict(int)
    for row, move in enumerate(moves):
        waiting[move.opening_minor].append(row)
        surplus[move.opening_minor] += 1
        surplus[move.stated_minor] -= 1
    heads = []
    if start_minor is not None:
        heads.append(start_minor)
        surplus[start_minor] -= 1
    heads += [balance for balance, count in surplus.items() for _ in range(count)]
    trails = [(head, _walk(head, waiting, moves)) for head in heads]
    for head, trail in trails:
        _splice_cycles(head, trail, waiting, moves)
    for move in moves:  # cycles that touch no trail
        trail = _walk(move.opening_minor, waiting, moves)
        _splice_cycles(move.opening_minor, trail, waiting, moves)
        trails.append((move.opening_minor, trail))
    return [tuple(trail) for _, trail in trails if trail]


def link_segments(
    start_minor: int | None, segments: Sequence[Segment], rounding_minor: int
) -> tuple[int, ...]:
    """Return the segments' numbers in the order with the lightest links."""
    if len(segments) <= SEARCH_MAX:
        return _lightest_order(start_minor, segments, rounding_minor)
    found = _first_order_within_rounding(start_minor, segments, rounding_minor)
    return found or _nearest_first(start_minor, segments, rounding_minor)


def _link_weight(balance_minor: int | None, opening_minor: int, rounding_minor: int) -> int:
    if balance_minor is None or balance_minor == opening_minor:
        return 0
    off_by_rounding = abs(balance_minor - opening_minor) == rounding_minor
    return ROUNDED if off_by_rounding else UNEXPLAINED


def _join(trails: Iterable[Iterable[int]]) -> tuple[int, ...]:
    return tuple(row for trail in trails for row in trail)


def _segment(moves: Sequence[Move], rows: tuple[int, ...]) -> Segment:
    return Segment(rows, moves[rows[0]].opening_minor, moves[rows[-1]].stated_minor)


def _walk(balance_minor: int, waiting: dict[int, deque[int]], moves: Sequence[Move]) -> list[int]:
    """Take waiting rows, first in the file first, until none starts where the last ended."""
    trail = []
    while waiting[balance_minor]:
        row = waiting[balance_minor].popleft()
        trail.append(row)
        balance_minor = moves[row].stated_minor
    return trail


def _splice_cycles(
    head_minor: int, trail: list[int], waiting: dict[int, deque[int]], moves: Sequence[Move]
) -> None:
    """Insert into the trail every waiting cycle that passes one of its balances."""
    place, balance = 0, head_minor
    while place <= len(trail):
        cycle = _walk(balance, waiting, moves)
        if cycle:
            trail[place:place] = cycle
        elif place == len(trail):
            return
        else:
            balance = moves[trail[place]].stated_minor
            place += 1


def _lightest_order(
    start_minor: int | None, segments: Sequence[Segment], rounding_minor: int
) -> tuple[int, ...]:
    """Weigh every order by dynamic programming; on equal weight, file order decides."""
    everything = (1 << len(segments)) - 1
    known: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {}

    def rest(taken: int, last: int) -> tuple[int, tuple[int, ...]]:
        if taken == everything:
            return 0, ()
        if (taken, last) in known:
            return known[taken, last]
        balance = start_minor if last < 0 else segments[last].closing_minor
        best: tuple[int, tuple[int, ...]] | None = None
        for number, segment in enumerate(segments):
            if taken >> number & 1:
                continue
            weight = _link_weight(balance, segment.opening_minor, rounding_minor)
            rest_weight, rest_order = rest(taken | 1 << number, number)
            if best is None or weight + rest_weight < best[0]:
                best = weight + rest_weight, (number, *rest_order)
        assert best is not None
        known[taken, last] = best
        return best

    return rest(0, -1)[1]


def _first_order_within_rounding(
    start_minor: int | None, segments: Sequence[Segment], rounding_minor: int
) -> tuple[int, ...] | None:
    """Search backwards out of dead ends, at most `STEPS_MAX` steps; None if none is found."""
    order: list[int] = []
    left = dict.fromkeys(range(len(segments)))
    choices = [_candidates(start_minor, segments, left, rounding_minor)]
    for _ in range(STEPS_MAX):
        if not left:
            return tuple(order)
        if choices[-1]:
            number = choices[-1].popleft()
            del left[number]
            order.append(number)
            closing = segments[number].closing_minor
            choices.append(_candidates(closing, segments, left, rounding_minor))
        elif order:
            choices.pop()
            left[order.pop()] = None
        else:
            return None
    return None


def _candidates(
    balance_minor: int | None,
    segments: Sequence[Segment],
    left: Iterable[int],
    rounding_minor: int,
) -> deque[int]:
    """Return what may follow within rounding: exact links first, then file order."""
    weighed = sorted(
        (_link_weight(balance_minor, segments[number].opening_minor, rounding_minor), number)
        for number in left
    )
    return deque(number for weight, number in weighed if weight < UNEXPLAINED)


def _nearest_first(
    start_minor: int | None, segments: Sequence[Segment], rounding_minor: int
) -> tuple[int, ...]:
    """Follow the lightest link each time; jump to the first segment left when none chains."""
    order: list[int] = []
    left = dict.fromkeys(range(len(segments)))
    balance = start_minor
    while left:
        follows = _candidates(balance, segments, left, rounding_minor)
        number = follows[0] if follows else min(left)
        del left[number]
        order.append(number)
        balance = segments[number].closing_minor
    return tuple(order)
