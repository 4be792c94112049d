"""Opaque cursors of the ledger's lists: which row was the last one given.

Invariant: a cursor names a unique key, so that pages neither repeat nor skip under new rows;
one that no list gave out is refused.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from ledger.errors import InvalidRequest

PAGE_SIZE = 100
PAGE_SIZE_MAX = 1_000


def cursor_of(key: str | int | Sequence[int]) -> str:
    """Return the opaque cursor that continues after a key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def text_after(cursor: str | None) -> str:
    """Return the text key a cursor names, the empty text for none. Raises `invalid_cursor`."""
    return "" if cursor is None else _decoded_cursor(cursor, str)


def number_after(cursor: str | None) -> int:
    """Return the number a cursor names, 0 for none. Raises `invalid_cursor`."""
    number = 0 if cursor is None else _decoded_cursor(cursor, int)
    if not 0 <= number < 2**63:
        raise InvalidRequest("the cursor names no row", code="invalid_cursor", field="cursor")
    return number


def numbers_after(cursor: str | None) -> tuple[int, ...]:
    """Return the numbers a cursor names, or the one, none for none. Raises `invalid_cursor`."""
    key = () if cursor is None else _decoded_cursor(cursor, int | tuple[int, ...])
    numbers = (key,) if isinstance(key, int) else key
    if not all(0 <= number < 2**63 for number in numbers):
        raise InvalidRequest("the cursor names no row", code="invalid_cursor", field="cursor")
    return tuple(numbers)


def _decoded_cursor(cursor: str, kind: Any) -> Any:
    try:
        raw = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
        key = msgspec.json.decode(raw, type=kind)
    except (ValueError, UnicodeError, msgspec.DecodeError):
        raise InvalidRequest(
            "use the next_cursor of an earlier page", code="invalid_cursor", field="cursor"
        ) from None
    if isinstance(key, str) and "\x00" in key:
        raise InvalidRequest("a cursor has no NUL", code="invalid_cursor", field="cursor")
    return key
