"""The ledger over HTTP: NDJSON batches with retries.

Invariant: a call returns one result a line, in order, or raises. Retried are only answers
that say nothing was decided for good (503 and its like, a broken connection, an answer cut
short): operation ids make the repetition safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from infra.csv_import.ledger_client import (
    AccountState,
    LedgerRefused,
    LedgerUnreachable,
    LineResult,
)
from ledger.errors import EngineStopped, OperationRunning, Overloaded, StoreUnavailable
from ledger.operation import OpenAccount, Operation

RETRIED_STATUS = frozenset({409, 429, 502, 503, 504})
RETRIED_CODES = frozenset(
    error.code for error in (EngineStopped, OperationRunning, Overloaded, StoreUnavailable)
)
PAUSE_FIRST_S = 0.25
PAUSE_MAX_S = 15.0
Answered = TypeVar("Answered")
_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(LineResult).decode
_decode_account = msgspec.json.Decoder(AccountState).decode


class HttpLedgerClient:
    """A keep-alive connection to one book. Close it, or use it as a context manager."""

    def __init__(
        self,
        url: str,
        *,
        key: str,
        book: str,
        tries_max: int = 10,
        timeout_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            timeout=timeout_s,
            headers={"Authorization": f"Bearer {key}", "Daybook-Book": book},
        )
        self._tries_max = tries_max
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def open_accounts(self, accounts: Sequence[OpenAccount]) -> list[LineResult]:
        """POST the accounts as NDJSON; one result each."""
        return self._post_lines("/v1/accounts:batch", accounts)

    def post_operations(
        self, operations: Sequence[Operation], *, dry_run: bool = False
    ) -> list[LineResult]:
        """POST the operations as NDJSON; one result each."""
        path = "/v1/operations:batch" + ("?dry_run=true" if dry_run else "")
        return self._post_lines(path, operations)

    def select_balance(self, account: str) -> int:
        """GET the account's balance in minor units."""
        path = f"/v1/accounts/{quote(account, safe='')}"
        return self._retried(lambda: self._get_balance(path))

    def _post_lines(
        self, path: str, requests: Sequence[OpenAccount] | Sequence[Operation]
    ) -> list[LineResult]:
        if not requests:
            return []
        body = b"".join(_encode(request) + b"\n" for request in requests)
        return self._retried(lambda: self._post_once(path, body, len(requests)))

    def _post_once(self, path: str, body: bytes, count: int) -> list[LineResult]:
        headers = {"Content-Type": "application/x-ndjson", "Accept": "application/x-ndjson"}
        response = self._http.post(path, content=body, headers=headers)
        _check(response)
        try:
            results = [_decode_line(line) for line in response.content.splitlines()]
        except msgspec.DecodeError as error:
            raise _TryAgain(f"an unreadable line in the answer: {error}") from error
        if len(results) != count:
            raise _TryAgain(f"{len(results)} results for {count} lines")
        undecided = next((result for result in results if _is_undecided(result)), None)
        if undecided is not None:
            raise _TryAgain(f"{undecided.code}: {undecided.detail}")
        return results

    def _get_balance(self, path: str) -> int:
        response = self._http.get(path)
        _check(response)
        return _decode_account(response.content).balance_minor

    def _retried(self, call: Callable[[], Answered]) -> Answered:
        last = ""
        for attempt in range(self._tries_max):
            pause_s = min(PAUSE_FIRST_S * 2**attempt, PAUSE_MAX_S)
            try:
                return call()
            except httpx.TransportError as error:
                last = f"{type(error).__name__}: {error}"
            except _TryAgain as again:
                last = str(again)
                pause_s = pause_s if again.pause_s is None else again.pause_s
            if attempt + 1 < self._tries_max:
                self._sleep(pause_s)
        raise LedgerUnreachable(f"gave up after {self._tries_max} tries: {last}")


class _TryAgain(Exception):
    """The answer decided nothing for good; `pause_s` when the server said how long."""

    def __init__(self, detail: str, pause_s: float | None = None) -> None:
        super().__init__(detail)
        self.pause_s = pause_s


def _is_undecided(result: LineResult) -> bool:
    return result.status == "error" and (result.retriable or result.code in RETRIED_CODES)


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    detail = f"{response.status_code} {response.text[:500]}"
    if response.status_code in RETRIED_STATUS:
        raise _TryAgain(detail, _retry_after_s(response))
    raise LedgerRefused(detail, status=response.status_code)


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds of `Retry-After`; a date or nonsense falls back to our own pause."""
    text = response.headers.get("retry-after", "")
    return min(float(text), PAUSE_MAX_S) if text.isdecimal() and text.isascii() else None
