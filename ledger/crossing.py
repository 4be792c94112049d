"""From the engine's thread to the event loop: many results, one wake-up.

Invariant: what was added is delivered on the loop, in order, once; the thread that adds never waits
for the loop. What comes before the loop gets to it crosses with the first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Crossing(Generic[T]):
    """`deliver` is called on the loop with all that has crossed, and empties it from the left."""

    def __init__(self, deliver: Callable[[deque[T]], None]) -> None:
        self._deliver = deliver
        self._crossed: deque[T] = deque()
        self._woken = False
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Bind to the running loop; nothing may be added before."""
        self._loop = asyncio.get_running_loop()

    def add(self, one: T) -> None:
        """Send one across, from any thread."""
        self._crossed.append(one)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self.deliver)

    def deliver(self) -> None:
        """Deliver what has crossed; on the loop."""
        self._woken = False  # before it is emptied: what comes later wakes again
        self._deliver(self._crossed)
