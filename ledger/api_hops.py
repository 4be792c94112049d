"""The API's own hop: one line or span for each operation that a request asked for.

Invariant: whatever a caller was answered is told as it was answered, errors too.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import Any

from ledger.api import LineError, Reply
from ledger.errors import LedgerError
from ledger.hops import Hop, hops
from ledger.operation import Answer, Operation, Submission

REPLAYED = b"idempotent-replayed"
TRACEPARENT = b"traceparent"
Headers = Sequence[tuple[bytes, bytes]]


async def answered(headers: Headers, submission: Submission, reply: Awaitable[Reply]) -> Reply:
    """Await the reply to one operation and tell the API's hop, whatever it is."""
    began_ns = time.time_ns()
    facts: dict[str, Any] = {}
    try:
        given = await reply
        replayed = any(name == REPLAYED for name, _ in given.headers)
        facts = {"http_status": given.status, "replayed": replayed}
    except LedgerError as error:
        facts = {"error": error.code}
        raise
    else:
        return given
    finally:
        _tell_api(headers, submission, began_ns, facts)


def tell_lines(
    headers: Headers,
    began_ns: int,
    parsed: Sequence[Submission | LineError],
    results: Sequence[Answer | LineError],
) -> None:
    """Tell the API's hop for every operation of a batch."""
    for submission, result in zip(parsed, results, strict=True):
        if not isinstance(submission, Submission):
            continue
        facts: dict[str, Any] = {"status": result.status}
        if isinstance(result, LineError):
            facts["error"] = result.code
        else:
            facts["replayed"] = result.replayed
        _tell_api(headers, submission, began_ns, facts)


def _tell_api(
    headers: Headers, submission: Submission, began_ns: int, facts: dict[str, Any]
) -> None:
    if not isinstance(submission.body, Operation):
        return
    caller = next((value for name, value in headers if name == TRACEPARENT), None)
    hops.tell(
        Hop(
            part="api",
            book_id=submission.book_id,
            operation_id=submission.operation_id,
            began_ns=began_ns,
            ended_ns=time.time_ns(),
            facts=facts,
            caller=None if caller is None else caller.decode("ascii", "replace"),
        )
    )
