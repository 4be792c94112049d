"""How the interpreter is shared and cleaned in a process that works in batches.

Measured: with the defaults the engine's writer took a quarter longer for its steps, and a sixth of
a batch's processor time (a tenth of a consumer's) went into looking for circles that are not there.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# A thread that has an answer of the database gets the interpreter back after so long at most; with
# Python's 5 ms it waits behind the event loop, or behind who makes the next batch, at each step.
SWITCH_INTERVAL_S = 0.0005
# A batch makes tens of thousands of objects and frees them all; none refers to itself.
GC_THRESHOLDS = (50_000, 20, 100)


def suit_batches() -> None:
    """Set both, for the whole process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)


@contextmanager
def without_collector() -> Iterator[None]:
    """Look for no circles meanwhile: for a pass over the whole log, which makes none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
