"""A decided batch as it goes to the server: packed before the log's lock is taken.

Under the lock nothing is left to do but to send, so that PostgreSQL and other engines wait for
nobody who packs. A small batch in which only money and holds moved is stated in one trip; the
others are rows for COPY. Heads are packed too where only money moved; else `write_heads_in_tx`
writes them.
"""

from __future__ import annotations

import msgspec

from ledger import statement
from ledger.arrays import PackedArray, UuidArray, uuid_array
from ledger.heads import is_plain, money_arrays
from ledger.job import Decided, Loaded
from ledger.log import Sealed
from ledger.stated_holds import holds_values
from ledger.statement import Stated


class Copied(msgspec.Struct, frozen=True):
    """A batch as rows for COPY, the streams that it takes for new, and its heads.

    `money` is None when more than money moved, or nothing did.
    """

    new_ids: UuidArray
    rows: bytes
    money: tuple[PackedArray, ...] | None


Packed = Stated | Copied


def pack(loaded: Loaded, decided: Decided, sealed: Sealed) -> Packed:
    """Pack a batch the way it is to be written."""
    before, after = loaded.accounts, decided.touched
    rows, changed = sealed.rows, list(after.values())
    plain = is_plain(before, after)
    if len(rows) <= statement.ROWS_MAX and (plain or is_plain(before, after, or_holds=True)):
        holds = [] if plain else holds_values(before, after, sealed)
        return Stated(statement.values_of(sealed, changed), holds)
    new = [stream_id for stream_id, version, _, _ in rows if version == 1]
    money = money_arrays(changed) if plain and changed else None
    return Copied(uuid_array(new), sealed.copy_bytes(), money)
