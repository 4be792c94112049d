"""One posting as it lies in a read: its body, found without an HTTP parser.

In an overload most of what is read is refused, and to parse it first costs more than to refuse it.
Invariant: only what any parser would take for exactly one plain request with a body of this length
has a body here; whatever is special, cut, followed by more or unclear is left to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HEAD_END = b"\r\n\r\n"
# What says where a request ends, or that more is to be said than one answer.
_framing = re.compile(
    rb"\n(?:content-length|transfer-encoding|connection|expect|upgrade)", re.IGNORECASE
).findall
_length = re.compile(rb"\r\ncontent-length: ?([0-9]{1,9})\r\n", re.IGNORECASE).search


def request_lines(paths: Iterable[tuple[str, str]]) -> tuple[bytes, ...]:
    """Return how requests of these methods and paths, without a query, begin."""
    return tuple(f"{method} {path} HTTP/1.1\r\n".encode() for method, path in paths)


def body_of(data: bytes, lines: tuple[bytes, ...]) -> bytes | None:
    """Return the body if the bytes are one whole request that begins with one of the lines."""
    if not data.startswith(lines):
        return None
    end = data.find(HEAD_END)
    if end < 0 or not _has_plain_lines(data, end):
        return None
    length = _length(data, 0, end + 2)
    start = end + len(HEAD_END)
    if length is None or len(data) - start != int(length[1]):
        return None
    return data[start:] if len(_framing(data, 0, end)) == 1 else None


def _has_plain_lines(data: bytes, end: int) -> bool:
    """Tell whether every line ends in CR LF: of other ends readers think differently."""
    lines = data.count(b"\r\n", 0, end)
    return data.count(b"\n", 0, end) == lines == data.count(b"\r", 0, end)
