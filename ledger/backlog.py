"""How far accounting is behind the ledger, and when the API pushes back because of it.

The facts are read elsewhere (`projections/backlog.py`) and noted here; the hot path looks at
one set, which is empty unless the backlog is over its hard limit. Invariant: an operation that
returns money is never held back, whatever the settings say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import field

from ledger.business_types import BusinessTypes
from ledger.errors import BacklogTooLong, UnknownName

Level = Literal["ok", "soft", "hard"]
LEVELS: tuple[Level, ...] = ("ok", "soft", "hard")
ALL_TYPES = "*"


class OldestOperation(msgspec.Struct, frozen=True):
    """The oldest operation without a voucher that should have one: id, standing, age.

    `pending`: not in the books yet; `parked` and `waiting` as the books have it.
    """

    book_id: str
    operation_id: str
    position: int
    status: Literal["pending", "parked", "waiting"]
    booked_at: str
    age_s: float


class OpenCount(msgspec.Struct, frozen=True):
    """How many operations are parked for a reason, or wait (reason empty)."""

    status: str
    reason: str
    count: int


class LaneState(msgspec.Struct, frozen=True):
    """A lane of the books: its position, and why it stands still if it was stopped."""

    lane: int
    position: int
    stopped: str | None


class RelayState(msgspec.Struct, frozen=True):
    """The relay: how far the topic has come; `lag_s` is the age of the oldest row not sent."""

    topic: str
    position: int
    lag_positions: int
    lag_s: float


class BufferedAmount(msgspec.Struct, frozen=True):
    """What waits on buffers in one currency, gross on each side."""

    currency: str
    debits_minor: int = field(name="debits")
    credits_minor: int = field(name="credits")


class Buffers(msgspec.Struct, frozen=True):
    """Depth and age of the buffers of hot accounts; `late` counts those past their bound."""

    accounts: int = 0
    entries: int = 0
    late: int = 0
    oldest_s: float = 0.0
    amounts: tuple[BufferedAmount, ...] = ()


class Backlog(msgspec.Struct, frozen=True):
    """What is late or stuck between the ledger and the books, in one snapshot.

    `lag_operations` counts booked operations that are not in the books, `lag_s` is the age of
    the oldest one. `relay` is null on the log bus, and before a relay has begun. `buffers` is
    what the ledger itself has accepted and not applied yet.
    """

    position: int
    log_position: int
    lag_operations: int
    lag_s: float
    oldest: OldestOperation | None
    open: tuple[OpenCount, ...]
    lanes: tuple[LaneState, ...]
    relay: RelayState | None = None
    buffers: Buffers = Buffers()


class BacklogLimits(msgspec.Struct, frozen=True):
    """Above a soft limit: an alarm. Above a hard one: the API pushes back. 0 is no limit."""

    operations_soft: int = 0
    operations_hard: int = 0
    seconds_soft: float = 0
    seconds_hard: float = 0

    def level(self, lag_operations: int, lag_s: float) -> Level:
        """Say over which limit a lag is."""
        if _over(lag_operations, self.operations_hard) or _over(lag_s, self.seconds_hard):
            return "hard"
        if _over(lag_operations, self.operations_soft) or _over(lag_s, self.seconds_soft):
            return "soft"
        return "ok"


def _over(value: float, limit: float) -> bool:
    return 0 < limit < value


def held_back_types(types: BusinessTypes, wanted: Iterable[str]) -> frozenset[str]:
    """Return the business types that wait when the backlog is over its hard limit.

    `*` is every type that does not return money. Raises `UnknownName` for a type nobody
    declared and for one that returns money: it may not be held back.
    """
    chosen: set[str] = set()
    for name in wanted:
        if name == ALL_TYPES:
            chosen |= {code for code, kind in types.types.items() if not kind.returns_money}
        elif name not in types.types:
            raise UnknownName(f"backlog_types: nobody declared business type {name!r}")
        elif types.types[name].returns_money:
            raise UnknownName(f"backlog_types: {name!r} returns money and is never held back")
        else:
            chosen.add(name)
    return frozenset(chosen)


class BacklogGate:
    """What the hot path asks. One thread notes, any may look.

    Until something was noted nobody is held back: without a database nothing is booked anyway.
    """

    def __init__(self, limits: BacklogLimits, types: frozenset[str]) -> None:
        self.limits = limits
        self.types = types
        self.level: Level = "ok"
        self.held_back: frozenset[str] = frozenset()
        self.refused = 0
        self._words = ""

    def note(self, lag_operations: int, lag_s: float) -> Level:
        """Take note of the lag; return the level it is at."""
        self.level = self.limits.level(lag_operations, lag_s)
        self._words = f"accounting is {lag_operations:,} operations and {lag_s:.0f} s behind"
        self.held_back = self.types if self.level == "hard" else frozenset()
        return self.level

    def admit(self, business_type: str) -> None:
        """Raise `BacklogTooLong` for a business type that waits just now."""
        if business_type in self.held_back:
            self.refused += 1
            raise BacklogTooLong(self._words)
