"""Bytes: stream ids, event states, row digests and seals. One place knows each format.

Invariant: the same fact gives the same bytes, on any machine, for ever. Stream id = UUIDv8:
the time prefix of the client's UUIDv7 or ULID when the id is one (new rows land at the
index's right edge), then a hash of (kind, book, id); the full id is stored in the state and
compared by the reader.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import msgspec

from ledger import events

TOPIC_PREFIX = "ledger.recorded:"
ACCOUNT_STREAMS_MAX = 200_000  # kept for each book
ZERO_SEAL = b"\x00" * 32
_pack_digest_head = struct.Struct(">q16sq").pack
# A byte with the bits of UUID version 8, and one with those of variant 10, for each byte before.
_VERSION_8 = [bytes([byte & 0x0F | 0x80]) for byte in range(256)]
_VARIANT_10 = [bytes([byte & 0x3F | 0x80]) for byte in range(256)]
encode_state = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode

_CROCKFORD = {c: i for i, c in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}
_DECODERS: dict[str, msgspec.json.Decoder[events.LedgerEvent]] = {
    TOPIC_PREFIX + cls.__name__: msgspec.json.Decoder(cls) for cls in events.LedgerEvent.__args__
}
TOPIC_OF: dict[type, bytes] = {
    cls: (TOPIC_PREFIX + cls.__name__).encode() for cls in events.LedgerEvent.__args__
}


class Row(NamedTuple):
    """A row of the event log on its way in: ids and digest are not there yet."""

    stream_id: bytes
    version: int
    topic: bytes
    state: bytes


_row: Callable[[tuple[bytes, int, bytes, bytes]], Row] = partial(tuple.__new__, Row)  # hot


def _time_prefix(text: str) -> bytes | None:
    """Return the 48-bit millisecond prefix of a UUIDv7 or ULID, else None."""
    if len(text) == 36 and text[14] == "7" and text[8] == text[13] == text[18] == "-":
        try:
            return bytes.fromhex(text[:8] + text[9:13])
        except ValueError:
            return None
    if len(text) == 26:
        try:
            value = 0
            for character in text[:10].upper():
                value = value << 5 | _CROCKFORD[character]
            return (value & 0xFFFFFFFFFFFF).to_bytes(6, "big")
        except KeyError:
            return None
    return None


def stream_bytes(kind: str, book_id: str, identifier: str) -> bytes:
    """Return the 16 bytes of a stream's UUIDv8; `kind` is account, operation or book."""
    digest = hashlib.sha256(f"{kind}\x00{book_id}\x00{identifier}".encode()).digest()
    head = (_time_prefix(identifier) if kind == "operation" else None) or digest[16:22]
    return head + _VERSION_8[digest[0]] + digest[1:2] + _VARIANT_10[digest[2]] + digest[3:10]


def operation_stream(book_id: str, operation_id: str) -> bytes:
    """Return the stream id of an operation or account command.

    Not remembered: an id is seldom asked for again, and to drop an old one costs more than a hash.
    """
    return stream_bytes("operation", book_id, operation_id)


class _AccountStreams(dict[str, bytes]):
    """Stream ids of a book's accounts by number, made when they are asked for.

    A plain dictionary: an `lru_cache` writes to four cold places of memory for each answer.
    """

    def __init__(self, book_id: str) -> None:
        super().__init__()
        self._book_id = book_id

    def __missing__(self, number: str) -> bytes:
        if len(self) >= ACCOUNT_STREAMS_MAX:
            self.clear()
        stream_id = self[number] = stream_bytes("account", self._book_id, number)
        return stream_id


@lru_cache(maxsize=64)
def account_streams(book_id: str) -> Mapping[str, bytes]:
    """Return the stream ids of a book's accounts by number; it has every number."""
    return _AccountStreams(book_id)


def account_stream(book_id: str, number: str) -> bytes:
    """Return the stream id of an account."""
    return account_streams(book_id)[number]


def book_stream(book_id: str) -> bytes:
    """Return the stream id of a book's own events."""
    return stream_bytes("book", book_id, book_id)


def stream_uuid(stream_id: bytes) -> uuid.UUID:
    """Return the UUID that the database shows for a stream id."""
    return uuid.UUID(bytes=stream_id)


def row_of(stream_id: bytes, version: int, event: events.LedgerEvent) -> Row:
    """Encode an event as a row of the log."""
    return _row((stream_id, version, TOPIC_OF[type(event)], encode_state(event)))


def decoders() -> dict[bytes, Callable[[bytes], events.LedgerEvent]]:
    """Return, by topic as it is stored, what decodes a state: for whoever reads everything."""
    return {topic.encode(): decoder.decode for topic, decoder in _DECODERS.items()}


def decode_event(topic: str, state: bytes) -> events.LedgerEvent:
    """Decode a stored ledger event, upcasting older schema versions.

    Raises `msgspec.ValidationError`/`DecodeError` for bytes that are no such event and
    `KeyError` for a topic that is not the ledger's.
    """
    return _DECODERS[topic].decode(state)


def digest_of(notification_id: int, row: Row) -> bytes:
    """Return the SHA-256 of everything a row of the log says."""
    return digest_of_parts(notification_id, *row)


def digest_of_parts(
    notification_id: int, stream_id: bytes, version: int, topic: bytes, state: bytes
) -> bytes:
    """Return a row's digest without making the row: an audit does it for each one."""
    head = _pack_digest_head(notification_id, stream_id, version)
    return hashlib.sha256(b"".join((head, topic, b"\x00", state))).digest()


def digests_of(first_id: int, rows: Sequence[Row]) -> list[bytes]:
    """Return the digests of rows that follow each other: `digest_of`, a batch at a time."""
    pack, sha256, join = _pack_digest_head, hashlib.sha256, b"".join
    return [
        sha256(join((pack(position, stream_id, version), topic, b"\x00", state))).digest()
        for position, (stream_id, version, topic, state) in enumerate(rows, first_id)
    ]


class Seal(NamedTuple):
    """One commit's link in the chain. `totals`: currency → (operations, amount), cumulative."""

    first_id: int
    last_id: int
    book_id: str
    booked_at: str
    totals: str
    previous: bytes
    seal: bytes


def totals_text(totals: dict[str, tuple[int, int]]) -> str:
    """Write totals canonically: currencies sorted, no white space."""
    return _encode_sorted(totals).decode()


def seal_of(
    *,
    previous: bytes,
    first_id: int,
    book_id: str,
    booked_at: str,
    totals: str,
    digests: Sequence[bytes],
) -> Seal:
    """Return the seal over a commit: H(previous, first id, count, who, totals, H(digests))."""
    inner = hashlib.sha256(b"".join(digests)).digest()
    head = f"{first_id}\x00{len(digests)}\x00{book_id}\x00{booked_at}\x00{totals}\x00".encode()
    seal = hashlib.sha256(previous + head + inner).digest()
    last_id = first_id + len(digests) - 1
    return Seal(first_id, last_id, book_id, booked_at, totals, previous, seal)


COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
COPY_TRAILER = struct.pack(">h", -1)


def copy_bytes(first_id: int, rows: Sequence[Row], digests: Sequence[bytes]) -> bytes:
    """Pack rows as PostgreSQL binary COPY: uuid, int8, text, bytea, int8, bytea."""
    pack_head = struct.Struct(">hi16siqi").pack
    pack_int = struct.Struct(">i").pack
    pack_tail = struct.Struct(">iqi32s").pack
    parts = [COPY_HEADER]
    add = parts.append
    position = first_id
    for (stream_id, version, topic, state), digest in zip(rows, digests, strict=True):
        add(pack_head(6, 16, stream_id, 8, version, len(topic)))
        add(topic)
        add(pack_int(len(state)))
        add(state)
        add(pack_tail(8, position, 32, digest))
        position += 1
    add(COPY_TRAILER)
    return b"".join(parts)
