"""A decided batch as it goes to the server: packed before the log's lock is taken.

Under the lock nothing is left to do but to send, so that PostgreSQL and other engines wait for
nobody who packs. A small batch in which only money moved is one statement; everything else is
rows for COPY, beside what `write_heads_in_tx` writes.
"""

from __future__ import annotations

import msgspec

from ledger import statement
from ledger.arrays import UuidArray, uuid_array
from ledger.heads import is_plain
from ledger.job import Decided, Loaded
from ledger.log import Sealed


class Stated(msgspec.Struct, frozen=True):
    """A batch as the parameters of `ledger.append_batch`."""

    values: list[bytes | None]


class Copied(msgspec.Struct, frozen=True):
    """A batch as rows for COPY, and the streams that it takes for new."""

    new_ids: UuidArray
    rows: bytes


Packed = Stated | Copied


def pack(loaded: Loaded, decided: Decided, sealed: Sealed) -> Packed:
    """Pack a batch the way it is to be written."""
    rows = sealed.rows
    if len(rows) <= statement.ROWS_MAX and is_plain(loaded.accounts, decided.touched):
        return Stated(statement.values_of(sealed, list(decided.touched.values())))
    new = [row.stream_id for row in rows if row.version == 1]
    return Copied(uuid_array(new), sealed.copy_bytes())
