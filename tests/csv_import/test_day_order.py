"""Rows of a day are put where their stated balances chain, whenever any order does."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from infra.csv_import.day_order import (
    UNEXPLAINED,
    Move,
    chain_weight,
    chaining_order,
)

TENTH = 10
few_amounts = st.sampled_from([-300, -200, -100, 100, 200, 300])
amounts = st.integers(min_value=-(10**9), max_value=10**9).filter(bool)


def chain(start: int, steps: list[tuple[int, int]]) -> list[Move]:
    """Return rows that chain: each of signed amount and what the source's rounding added."""
    moves, balance = [], start
    for signed, rounding in steps:
        balance += signed + rounding
        moves.append(Move(signed, balance))
    return moves


def shuffled(moves: list[Move], order: list[int]) -> list[Move]:
    return [moves[index] for index in order]


@st.composite
def shuffled_chains(
    draw: st.DrawFn,
    signed: st.SearchStrategy[int],
    rounding: st.SearchStrategy[int],
    size_max: int,
) -> tuple[int, list[Move]]:
    steps = draw(st.lists(st.tuples(signed, rounding), min_size=1, max_size=size_max))
    start = draw(st.integers(min_value=-(10**6), max_value=10**6))
    order = draw(st.permutations(range(len(steps))))
    return start, shuffled(chain(start, steps), order)


@given(shuffled_chains(few_amounts, st.just(0), size_max=60))
def test_a_shuffled_exact_chain_chains_again_however_often_balances_repeat(
    given_chain: tuple[int, list[Move]],
) -> None:
    start, moves = given_chain

    order = chaining_order(start, moves, TENTH)

    assert sorted(order) == list(range(len(moves)))
    assert chain_weight(start, moves, order, TENTH) == 0


@given(shuffled_chains(few_amounts, st.sampled_from([-TENTH, 0, TENTH]), size_max=8))
def test_a_shuffled_chain_with_rounding_chains_again_within_rounding(
    given_chain: tuple[int, list[Move]],
) -> None:
    start, moves = given_chain

    order = chaining_order(start, moves, TENTH)

    assert sorted(order) == list(range(len(moves)))
    assert chain_weight(start, moves, order, TENTH) < UNEXPLAINED


@given(shuffled_chains(amounts, st.sampled_from([0, 0, 0, 0, -TENTH, TENTH]), size_max=60))
def test_a_long_day_with_rounding_chains_again_within_rounding(
    given_chain: tuple[int, list[Move]],
) -> None:
    start, moves = given_chain

    order = chaining_order(start, moves, TENTH)

    assert sorted(order) == list(range(len(moves)))
    assert chain_weight(start, moves, order, TENTH) < UNEXPLAINED


@given(shuffled_chains(few_amounts, st.sampled_from([0, 0, 0, -TENTH, TENTH, 37]), size_max=5))
def test_no_order_of_a_small_day_is_better_than_the_one_found(
    given_chain: tuple[int, list[Move]],
) -> None:
    start, moves = given_chain
    every_order = permutations(range(len(moves)))
    best = min(chain_weight(start, moves, order, TENTH) for order in every_order)

    assert chain_weight(start, moves, chaining_order(start, moves, TENTH), TENTH) == best


@given(shuffled_chains(amounts, st.sampled_from([0, 0, -TENTH, TENTH, 37]), size_max=40))
def test_the_order_is_never_worse_than_the_files_and_always_the_same(
    given_chain: tuple[int, list[Move]],
) -> None:
    start, moves = given_chain

    order = chaining_order(start, moves, TENTH)

    in_file_order = chain_weight(start, moves, range(len(moves)), TENTH)
    assert chain_weight(start, moves, order, TENTH) <= in_file_order
    assert chaining_order(start, moves, TENTH) == order


@given(shuffled_chains(amounts, st.just(0), size_max=20))
def test_a_chain_is_found_without_knowing_where_it_starts(
    given_chain: tuple[int, list[Move]],
) -> None:
    _, moves = given_chain

    order = chaining_order(None, moves, TENTH)

    assert chain_weight(None, moves, order, TENTH) == 0


def test_a_day_in_chaining_order_is_left_as_it_is() -> None:
    moves = chain(1000, [(100, 0), (-300, 0), (50, TENTH), (7, 0)])

    assert chaining_order(1000, moves, TENTH) == (0, 1, 2, 3)


def test_equal_rows_keep_file_order() -> None:
    moves = [Move(100, 100), Move(-100, 0), Move(100, 100), Move(-100, 0)]

    assert chaining_order(0, moves, TENTH) == (0, 1, 2, 3)


def test_two_cycles_through_one_balance_become_one_chain() -> None:
    moves = [Move(5, 5), Move(-5, 0), Move(7, 7), Move(-7, 0)]

    order = chaining_order(0, moves, TENTH)

    assert chain_weight(0, moves, order, TENTH) == 0


def test_a_day_of_thousands_of_rows_is_ordered_without_weighing_every_order() -> None:
    steps = [(100 + 37 * n, TENTH if n % 20 == 0 else 0) for n in range(4000)]
    moves = chain(0, steps)
    moves.reverse()

    order = chaining_order(0, moves, TENTH)

    assert chain_weight(0, moves, order, TENTH) == 200
