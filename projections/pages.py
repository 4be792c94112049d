"""Pages of a list: a total order that ends in a unique key, and an opaque cursor over it.

Invariant: following the cursors shows every row exactly once, also among equal dates.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ledger.errors import InvalidRequest

PAGE_SIZE_MAX = 1000
T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A stretch of a list; `next_cursor` is None at its end."""

    items: tuple[T, ...]
    next_cursor: str | None


def write_cursor(*key: Any) -> str:
    """Make the cursor that continues after a key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(cursor: str | None, *types: type) -> tuple[Any, ...] | None:
    """Read a cursor back; raises InvalidRequest (`invalid_cursor`) for anything else."""
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = msgspec.json.decode(raw, type=tuple[types])  # type: ignore[valid-type]
    except (binascii.Error, msgspec.MsgspecError, ValueError) as error:
        raise InvalidRequest("not a cursor of this list", code="invalid_cursor") from error
    return tuple(key)


def page_of(items: Sequence[T], limit: int, key: Callable[[T], Sequence[Any]]) -> Page[T]:
    """Cut a list that was read with `limit + 1` rows into a page."""
    shown = tuple(items[:limit])
    more = len(items) > limit
    return Page(shown, write_cursor(*key(shown[-1])) if more and shown else None)


def checked_limit(limit: int) -> int:
    """Refuse a page size outside 1 … PAGE_SIZE_MAX."""
    if not 1 <= limit <= PAGE_SIZE_MAX:
        raise InvalidRequest(f"limit is 1 to {PAGE_SIZE_MAX}", code="invalid_limit")
    return limit
