"""The instant of a commit that is not the engine's: a book or day opened, a decision recorded.

Rule (dates): `booked_at = max(now, last booked_at)`, set under the lock. A clock that is far ahead
would hold every later commit at its instant, so it is compared with the database's first.
Invariant: nothing is written with a clock further ahead than `CLOCK_AHEAD_S_MAX`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from psycopg import Connection, Cursor

from ledger.account import instant_text
from ledger.errors import ClockAhead
from ledger.log import LogEnd

CLOCK_AHEAD_S_MAX = 300.0
SELECT_CLOCK = "SELECT clock_timestamp()"


def utc_now() -> dt.datetime:
    """Read this machine's clock."""
    return dt.datetime.now(dt.UTC)


def select_clock(on: Connection[Any] | Cursor[Any]) -> dt.datetime:
    """Read the database's clock."""
    row = on.execute(SELECT_CLOCK).fetchone()
    assert row is not None
    found: dt.datetime = row[0]
    return found


def booked_at_in_tx(cursor: Cursor[Any], end: LogEnd, now: dt.datetime) -> str:
    """Return the instant of a commit after `end`. Needs the commit-order lock.

    Raises `ClockAhead` when `now` is ahead of the database's clock by more than the bound.
    """
    ahead_s = (now - select_clock(cursor)).total_seconds()
    if ahead_s > CLOCK_AHEAD_S_MAX:
        raise ClockAhead(f"this machine's clock is {ahead_s:.0f} s ahead of the database's")
    return max(instant_text(now), end.booked_at)
