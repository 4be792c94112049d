"""The API for commands and the demo: keep-alive, repeated while the server says "later".

Invariant: a call returns the answer's JSON or raises `ApiUnavailable` (nothing was decided for
good; asking again is safe) or `ApiRefused` (with the problem's code, for the exit code).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

RETRIED_STATUS = frozenset({429, 502, 503, 504})
NOT_VISIBLE = b'"not_visible_yet"'  # the books have not come so far: wait on
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 5.0
PATIENCE_S = 30.0
NDJSON = "application/x-ndjson"
Query = Mapping[str, str | int | bool | None]


class ApiUnavailable(Exception):
    """The API gave no final answer; nothing is known to be lost, ask again."""


class ApiRefused(Exception):
    """The API said no: a problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{problem.get('code', status)}: {problem.get('detail', '')}".strip(": "))
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.detail = str(problem.get("detail") or problem.get("title") or status)
        self.problem = dict(problem)


@dataclass(frozen=True)
class Given:
    """An answer: its status, its JSON, and whether it had been given before."""

    status: int
    value: Any
    replayed: bool


class DaybookClient:
    """A connection to the API for one book. Use it as a context manager."""

    def __init__(
        self,
        url: str,
        *,
        key: str,
        book: str,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self.book = book
        self._patience_s = patience_s
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(60.0, connect=5.0),
            headers={"Authorization": f"Bearer {key}", "Daybook-Book": book},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: str | int | bool | None) -> Any:
        """GET JSON. Query parameters that are None are left out."""
        return self._send("GET", path, query=query).value

    def pages(self, path: str, **query: str | int | bool | None) -> Iterator[dict[str, Any]]:
        """GET every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.get(path, **query, cursor=cursor)
            page = page.get("data", page)  # reads of the books say how fresh they are beside it
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def post(self, path: str, body: object, **query: str | int | bool | None) -> Given:
        """POST a JSON value."""
        content = msgspec.json.encode(body)
        return self._send("POST", path, content, "application/json", query)

    def post_lines(
        self, path: str, lines: Iterable[object], **query: str | int | bool | None
    ) -> list[dict[str, Any]]:
        """POST values as NDJSON; one result for each, in order."""
        content = b"".join(
            (line if isinstance(line, bytes) else msgspec.json.encode(line)) + b"\n"
            for line in lines
        )
        answer = self._send("POST", path, content, NDJSON, query)
        results: list[dict[str, Any]] = answer.value
        return results

    def _send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        content_type: str | None = None,
        query: Query | None = None,
    ) -> Given:
        deadline = time.monotonic() + self._patience_s
        pause_s = PAUSE_FIRST_S
        headers = {} if content_type is None else {"Content-Type": content_type}
        params = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        while True:
            try:
                answer = self._http.request(
                    method, path, content=content, headers=headers, params=params
                )
            except httpx.TransportError as error:
                why, pause = f"{self.url} does not answer: {error}", pause_s
                if isinstance(error, httpx.ConnectError):
                    raise ApiUnavailable(f"{why}. Is `daybook serve` running?") from error
            else:
                if answer.status_code not in RETRIED_STATUS and NOT_VISIBLE not in answer.content:
                    return _given(answer)
                why = f"{answer.status_code} {answer.text[:300]}"
                pause = max(pause_s, _retry_after_s(answer))
            if time.monotonic() + pause > deadline:
                raise ApiUnavailable(why)
            self._sleep(pause)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)


def _given(answer: httpx.Response) -> Given:
    kind = answer.headers.get("content-type", "")
    value: Any
    if kind.startswith(NDJSON):
        value = [msgspec.json.decode(line) for line in answer.content.splitlines()]
    elif "json" in kind:
        value = msgspec.json.decode(answer.content)
    else:
        value = answer.text
    if answer.is_success:
        return Given(answer.status_code, value, "idempotent-replayed" in answer.headers)
    problem = value if isinstance(value, dict) else {"detail": str(value)[:500]}
    raise ApiRefused(answer.status_code, problem)


def _text(value: str | int | bool | None) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _retry_after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), PAUSE_MAX_S) if text.isascii() and text.isdecimal() else 0.0
