"""PostgreSQL arrays packed by `struct`: one parameter, one pass, no per-element dumper.

The engine's statements carry thousands of elements; psycopg's own list dumper took a third
of a batch's time. Invariant: the bytes are PostgreSQL's binary array format (one dimension,
NULLs only where said). Source of the format: PostgreSQL's array_send.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Sequence
from functools import lru_cache

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_UUID, _UUID_ARRAY = 2950, 2951
_INT8, _INT8_ARRAY = 20, 1016
_DATE, _DATE_ARRAY = 1082, 1182
_TEXT, _TEXT_ARRAY = 25, 1009
_BYTEA, _BYTEA_ARRAY = 17, 1001
_EPOCH = dt.date(2000, 1, 1).toordinal()
_pack_size = struct.Struct(">i").pack
_NULL = _pack_size(-1)
_SIXTEEN, _THIRTY_TWO = _pack_size(16), _pack_size(32)


class PackedArray:
    """An array that is already in PostgreSQL's binary format."""

    __slots__ = ("data",)
    oid = 0

    def __init__(self, data: bytes) -> None:
        self.data = data


class UuidArray(PackedArray):
    """uuid[]"""

    oid = _UUID_ARRAY


class Int8Array(PackedArray):
    """int8[]"""

    oid = _INT8_ARRAY


class DateArray(PackedArray):
    """date[]"""

    oid = _DATE_ARRAY


@lru_cache(maxsize=4096)
def _header(count: int, element_oid: int, *, nulls: bool = False) -> bytes:
    if count == 0:
        return struct.pack(">iii", 0, 0, element_oid)
    return struct.pack(">iiiii", 1, int(nulls), element_oid, count, 1)


def _same_size(elements: Sequence[bytes], element_oid: int, size: bytes) -> bytes:
    """Pack elements of one size: their common length is what stands between them."""
    if not elements:
        return _header(0, element_oid)
    return _header(len(elements), element_oid) + size + size.join(elements)


def uuid_array(streams: Sequence[bytes]) -> UuidArray:
    """Pack 16-byte ids."""
    return UuidArray(_same_size(streams, _UUID, _SIXTEEN))


def digest_array(digests: Sequence[bytes]) -> ByteaArray:
    """Pack 32-byte digests."""
    return ByteaArray(_same_size(digests, _BYTEA, _THIRTY_TWO))


@lru_cache(maxsize=256)
def _int8_format(count: int) -> struct.Struct:
    return struct.Struct(">" + "iq" * count)


def int8_array(values: Sequence[int]) -> Int8Array:
    """Pack signed 64-bit integers."""
    count = len(values)
    flat = [8] * (2 * count)
    flat[1::2] = values
    return Int8Array(_header(count, _INT8) + _int8_format(count).pack(*flat))


@lru_cache(maxsize=4096)
def _date_element(date: str | None) -> bytes:
    if date is None:
        return _NULL
    return struct.pack(">ii", 4, dt.date.fromisoformat(date).toordinal() - _EPOCH)


def date_array(dates: Sequence[str | None]) -> DateArray:
    """Pack ISO dates; None becomes NULL."""
    elements = {date: _date_element(date) for date in set(dates)}  # few of them, often one
    head = _header(len(dates), _DATE, nulls=None in elements)
    return DateArray(head + b"".join([elements[date] for date in dates]))


class TextArray(PackedArray):
    """text[]"""

    oid = _TEXT_ARRAY


class ByteaArray(PackedArray):
    """bytea[]"""

    oid = _BYTEA_ARRAY


def text_array(texts: Sequence[bytes]) -> TextArray:
    """Pack texts that are already UTF-8."""
    return TextArray(_header(len(texts), _TEXT) + b"".join(map(_sized_text, texts)))


def bytea_array(values: Sequence[bytes]) -> ByteaArray:
    """Pack byte strings."""
    parts = [b""] * (2 * len(values))
    parts[0::2] = map(_pack_size, map(len, values))
    parts[1::2] = values
    return ByteaArray(_header(len(values), _BYTEA) + b"".join(parts))


@lru_cache(maxsize=256)
def _sized_text(text: bytes) -> bytes:
    return _pack_size(len(text)) + text


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: PackedArray) -> bytes:
        """Return the bytes as they are."""
        return obj.data


def _register() -> None:
    for kind in (UuidArray, Int8Array, DateArray, TextArray, ByteaArray):
        dumper = type(f"{kind.__name__}Dumper", (_PackedDumper,), {"oid": kind.oid})
        psycopg.adapters.register_dumper(kind, dumper)


_register()
