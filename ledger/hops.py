"""Hops: what each process did with one operation, told to whoever listens.

An operation hops from the API to the engine, the relay, a consumer, and back with its result.
Each hop is told under the operation's own id, so log lines and traces of all processes come
together without storing anything. Invariant: with no listener nothing is made and nothing is
told; a hop is told only after what it speaks of is done, outside of any transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from ledger.errors import LedgerError
from ledger.operation import Operation, Result, Submission

Part = Literal["api", "engine", "relay", "consumer", "results"]


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One process's share in one operation; times in nanoseconds since 1970.

    `caller` is the W3C traceparent that the request came with, if it did.
    """

    part: Part
    book_id: str
    operation_id: str
    began_ns: int
    ended_ns: int
    facts: dict[str, Any]
    caller: str | None = None


Listener = Callable[[Hop], None]


class Hops:
    """Who listens in this process. The hot path asks `on` and nothing else."""

    def __init__(self) -> None:
        self.on = False
        self._listeners: tuple[Listener, ...] = ()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener every hop from now on; return the way to end it."""
        self._listeners += (listener,)
        self.on = True

        def end() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)
            self.on = bool(self._listeners)

        return end

    def tell(self, hop: Hop) -> None:
        """Tell a hop."""
        for listener in self._listeners:
            listener(hop)


hops = Hops()


def now_ns() -> int:
    """Return the time a hop begins; 0, without asking the clock, when nobody listens."""
    return time.time_ns() if hops.on else 0


def tell(part: Part, began_ns: int, book_id: str, operation_id: str, **facts: Any) -> None:
    """Tell one hop that ends now."""
    hops.tell(
        Hop(
            part=part,
            book_id=book_id,
            operation_id=operation_id,
            began_ns=began_ns or time.time_ns(),
            ended_ns=time.time_ns(),
            facts={name: value for name, value in facts.items() if value is not None},
        )
    )


def tell_settled(
    submissions: Sequence[Submission], began_ns: int, results: Sequence[Result] | LedgerError
) -> None:
    """Tell the engine's hop, from queue to commit, for every operation of a job."""
    for number, submission in enumerate(submissions):
        if not isinstance(submission.body, Operation):
            continue
        result = results if isinstance(results, LedgerError) else results[number]
        facts: dict[str, Any] = (
            {"error": result.code}
            if isinstance(result, LedgerError)
            else {"status": result.status, "position": result.position, "reason": result.code}
        )
        tell("engine", began_ns, submission.book_id, submission.operation_id, **facts)
