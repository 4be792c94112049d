"""One HTTP request as the ledger reads it: headers in one pass, strict query, bounded body.

Invariant: a body is read at most to its limit and for a limited time; what comes late, long
or cut short is refused before anything is decided.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope

from ledger.errors import InvalidRequest
from ledger.principals import Principal

JSON_TYPES = frozenset({b"application/json"})
NDJSON_TYPES = frozenset({b"application/x-ndjson", b"application/ndjson"})
LET_IN = "daybook.let_in"  # set in the scope by who reads the connection
BOOLEANS = {"true": True, "false": False}


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one request."""

    body_bytes_max: int
    operations_max: int
    body_patience_s: float = 15.0


class ClientGone(Exception):
    """The caller hung up before its body was complete: there is nobody to answer."""


class Call:
    """A request: `principal` is set by the gate, `params` by the router."""

    __slots__ = (
        "_receive",
        "authorization",
        "book_id",
        "content_length",
        "content_type",
        "if_match",
        "operation_id",
        "params",
        "principal",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self.principal: Principal
        self.params: dict[str, str] = scope.get("path_params", {})
        self.authorization = b""
        self.content_type = b""
        self.content_length: bytes | None = None
        self.operation_id: bytes | None = None
        self.book_id: bytes | None = None
        self.if_match: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                self.authorization = value
            elif name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                self.content_length = value
            elif name == b"idempotency-key":
                self.operation_id = value
            elif name == b"daybook-book":
                self.book_id = value
            elif name == b"if-match":
                self.if_match = value

    @property
    def let_in(self) -> bool:
        """Whether there was room for it during an overload when it came: it is not judged again."""
        return LET_IN in self.scope

    def media_type(self, taken: frozenset[bytes]) -> bytes:
        """Return the body's content type. Raises 415 for one that is not taken."""
        given = self.content_type
        if given not in taken:
            given, _, parameters = given.partition(b";")
            given = given.strip().lower()
            charset = parameters.strip().lower().replace(b'"', b"")
            if given not in taken or charset not in (b"", b"charset=utf-8"):
                raise InvalidRequest(
                    "send " + " or ".join(sorted(name.decode() for name in taken)),
                    code="unsupported_media_type",
                )
        return given

    async def body(self, limits: Limits) -> bytes:
        """Return the whole body. Raises 413, 408, or `ClientGone` when it is cut short."""
        bytes_max, patience_s = limits.body_bytes_max, limits.body_patience_s
        length = self.content_length
        if length is not None and (not length.isdigit() or int(length) > bytes_max):
            raise _too_large(bytes_max)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunk: bytes = message.get("body", b"")
                    size += len(chunk)
                    if size > bytes_max:
                        raise _too_large(bytes_max)
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            raise InvalidRequest(
                f"the body was not complete after {patience_s:g} s", code="request_timeout"
            ) from None

    def query(self, *names: str) -> dict[str, str]:
        """Return the query parameters; a name that is not declared is refused."""
        raw = self.scope["query_string"]
        if not raw:
            return {}
        try:
            pairs = parse_qsl(
                raw.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=True,
                errors="strict",
                max_num_fields=50,
            )
        except ValueError:
            raise InvalidRequest(
                "the query string cannot be read", code="invalid_parameter"
            ) from None
        found: dict[str, str] = {}
        for name, value in pairs:
            if name not in names or name in found or "\x00" in value:
                raise InvalidRequest(
                    f"query parameter {name!r} is unknown, repeated or has a NUL",
                    code="invalid_parameter",
                    field=name,
                )
            found[name] = value
        return found

    def flags(self, *names: str) -> dict[str, bool]:
        """Return boolean query parameters, false when left out."""
        found = self.query(*names)
        if not found:
            return dict.fromkeys(names, False)
        for name, value in found.items():
            if value not in BOOLEANS:
                raise InvalidRequest(
                    f"{name} is true or false", code="invalid_parameter", field=name
                )
        return {name: BOOLEANS[found.get(name, "false")] for name in names}


def _too_large(bytes_max: int) -> InvalidRequest:
    return InvalidRequest(f"a body has at most {bytes_max} bytes", code="body_too_large")
