"""Many results cross from a thread to the event loop by few wake-ups."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from ledger.crossing import Crossing


def test_what_a_thread_adds_is_delivered_in_order_and_once() -> None:
    count = 5_000
    delivered: list[int] = []
    turns: list[int] = []

    async def cross() -> None:
        all_there = asyncio.Event()

        def deliver(crossed: deque[int]) -> None:
            turns.append(len(crossed))
            while crossed:
                delivered.append(crossed.popleft())
            if len(delivered) == count:
                all_there.set()

        crossing = Crossing(deliver)
        crossing.start()
        thread = threading.Thread(target=lambda: [crossing.add(one) for one in range(count)])
        thread.start()
        await asyncio.wait_for(all_there.wait(), 60)
        thread.join()

    asyncio.run(cross())
    assert delivered == list(range(count))


def test_all_that_came_in_one_turn_of_the_loop_crosses_by_one_wake_up() -> None:
    turns: list[list[str]] = []

    async def cross() -> None:
        def deliver(crossed: deque[str]) -> None:
            turns.append(list(crossed))
            crossed.clear()

        crossing = Crossing(deliver)
        crossing.start()
        for name in ("a", "b", "c"):
            crossing.add(name)
        await asyncio.sleep(0.01)
        crossing.add("d")
        await asyncio.sleep(0.01)

    asyncio.run(cross())
    assert turns == [["a", "b", "c"], ["d"]]


def test_a_result_after_the_end_of_the_loop_harms_nobody() -> None:
    crossing: Crossing[int] = Crossing(lambda crossed: crossed.clear())

    async def start() -> None:
        crossing.start()

    asyncio.run(start())
    crossing.add(1)
    crossing.deliver()
