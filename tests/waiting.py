"""Wait for something that happens elsewhere; the patience is a bound for failure, not a timing."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 180.0


def wait_until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Return as soon as the condition holds; fail with `what` in words when it never does."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:g} s in vain: {what}")
        time.sleep(0.02)
