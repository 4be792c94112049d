"""Fields and rows as PostgreSQL's binary COPY takes them.

What is packed needs no connection, so it is made in any thread and sent as it is. Invariant: a
value that a column cannot hold raises psycopg.DataError, as the server's refusal would.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from psycopg import Connection, DataError

from ledger.codec import COPY_HEADER, COPY_TRAILER

HEADER, TRAILER = COPY_HEADER, COPY_TRAILER
NULL = struct.pack(">i", -1)
TRUE, FALSE = struct.pack(">ib", 1, 1), struct.pack(">ib", 1, 0)
DAY_ZERO = dt.date(2000, 1, 1).toordinal()
PIECE_BYTES = 128 * 1024
FIXED_MAX = 4_096  # what is the same in many rows: types, rules, dates, subjects

_length = struct.Struct(">i").pack
count_field = struct.Struct(">h").pack  # of the fields of a row, before them
int8_field = struct.Struct(">iq").pack  # of 8 and the value
int4_field = struct.Struct(">ii").pack  # of 4 and the value


def text_field(value: str | None) -> bytes:
    """Pack a text; None is NULL."""
    if value is None:
        return NULL
    raw = value.encode()
    return _length(len(raw)) + raw


def date_field(value: str | None) -> bytes:
    """Pack an ISO date; None is NULL."""
    if value is None:
        return NULL
    return int4_field(4, dt.date.fromisoformat(value).toordinal() - DAY_ZERO)


def jsonb_field(value: bytes) -> bytes:
    """Pack JSON for a jsonb column."""
    return _length(len(value) + 1) + b"\x01" + value


@lru_cache(maxsize=FIXED_MAX)
def text_fields(*values: str | None) -> bytes:
    """Pack texts that many rows have in common."""
    return b"".join(map(text_field, values))


@contextmanager
def refusing() -> Iterator[None]:
    """Raise DataError for what cannot be packed."""
    try:
        yield
    except (ValueError, struct.error) as error:
        raise DataError(str(error)) from error


def copy_in_tx(conn: Connection[Any], statement: str, packed: bytes | bytearray) -> None:
    """Send packed rows, in pieces: of a long one the client library keeps a copy that grows."""
    whole = memoryview(packed)
    with conn.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for at in range(0, len(whole), PIECE_BYTES):
            copy.write(whole[at : at + PIECE_BYTES])
