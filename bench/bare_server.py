"""A socket that answers every HTTP request with fixed bytes: the load generator's own ceiling.

Nothing is parsed but the length of the body. Usage: `python -m bench.bare_server FD`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import cast

import uvloop

BODY = b'{"operation_id":"' + b"0" * 36 + b'","status":"booked"' + b" " * 500 + b"}"
ANSWER = (
    b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: "
    + str(len(BODY)).encode()
    + b"\r\n\r\n"
    + BODY
)


class _Answerer(asyncio.Protocol):
    """Answers when a request's announced body has come."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self._received.find(b"Content-Length: ", 0, end)
        size = int(self._received[at + 16 : end].split(b"\r\n")[0]) if at > 0 else 0
        if len(self._received) >= end + 4 + size:
            del self._received[: end + 4 + size]
            self._transport.write(ANSWER)


async def _serve(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Answerer, sock=listener)
    await server.serve_forever()


def main() -> None:
    """Serve on an inherited listening socket until killed."""
    uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
