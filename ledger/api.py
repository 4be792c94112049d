"""The ledger over HTTP: what the world sees when a call fails, and where each part lives.

Every failure is an RFC 9457 problem document with a stable `code`. `STATUS` below is the one
table of HTTP numbers; rejections (`RejectionReason`) are answers of record, all 422, and are
given again byte for byte under the same operation id, with `Idempotent-Replayed: true`.
Invariant: what is not 2xx and not a rejection recorded nothing.

    api.py             this page: numbers, problem documents, replies
    api_call.py        one HTTP request: headers, query, bounded body
    api_parse.py       bytes → strict structs → submissions
    api_bridge.py      event loop ↔ engine thread, event loop ↔ reading threads
    api_gate.py        who calls; the hot routes; the rest by FastAPI
    api_operations.py  POST /v1/operations, /v1/operations:batch, GET /v1/operations/{id}
    api_accounts.py    accounts, their commands, events, holds, freezes, register
    api_books.py       books, open day, status
    api_health.py      liveness, readiness, metrics
    api_docs.py        OpenAPI, with the examples of api_examples.py
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ledger.errors import LedgerError, RejectionReason
from ledger.operation import Answer

PROBLEM_TYPE = b"application/problem+json"
JSON_TYPE = b"application/json"
RETRY_AFTER_S = b"1"
RETRY_AFTER_BACKLOG_S = b"5"  # the consumers need longer than a batch does

# code: (HTTP status, title). Rejections, every `RejectionReason`, are 422.
STATUS: dict[str, tuple[int, str]] = {
    "invalid_request": (400, "The request breaks a rule of its schema"),
    "malformed_json": (400, "The body is not JSON"),
    "ndjson_truncated": (400, "The body ends in the middle of a line"),
    "nul_character": (400, "NUL characters are refused"),
    "unknown_field": (400, "A field nobody declared"),
    "missing_field": (400, "A required field is missing"),
    "invalid_amount": (400, "Amounts are integers in minor units, 1 to 2^63-1"),
    "amount_without_currency": (400, "A named amount needs its currency"),
    "unknown_currency": (400, "Not an ISO 4217 currency"),
    "unknown_business_type": (400, "A business type nobody declared"),
    "unknown_name": (400, "A name nobody declared"),
    "operation_id_missing": (400, "Give operation_id or the Idempotency-Key header"),
    "operation_id_mismatch": (400, "operation_id and Idempotency-Key differ"),
    "invalid_operation_id": (400, "The operation id is too long or reserved"),
    "invalid_parameter": (400, "A query parameter or header cannot be read"),
    "invalid_cursor": (400, "The cursor is not one this list gave out"),
    "atomic_batch_refused": (400, "Another line of the atomic batch cannot be read"),
    "refused_by_store": (400, "The store cannot hold this value"),
    "not_authenticated": (401, "No key, or a key nobody knows"),
    "not_permitted": (403, "The key lacks the permission"),
    "not_found": (404, "There is no such thing"),
    "unknown_book": (404, "There is no such book"),
    "unknown_change": (404, "There is no such proposal in this book"),
    "unknown_override": (404, "There is no such proposal in this book"),
    "method_not_allowed": (405, "The path does not take this method"),
    "request_timeout": (408, "The body did not arrive in time"),
    "operation_running": (409, "The operation is being booked right now"),
    "day_refused": (409, "The open business date only moves forward"),
    "day_open": (409, "The day to cut is not over"),
    "books_behind": (409, "The books do not include the day whole yet"),
    "period_open": (409, "The period to close is not over"),
    "already_closed": (409, "The period is closed already"),
    "not_closed": (409, "The period to reopen is not closed"),
    "already_decided": (409, "Somebody has decided it already"),
    "same_principal": (409, "Maker and checker must be two principals"),
    "already_approved": (409, "Somebody has approved it already"),
    "already_rejected": (409, "Somebody has rejected it already"),
    "version_mismatch": (412, "The account has another version"),
    "body_too_large": (413, "The body is over the limit"),
    "batch_too_large": (413, "The batch has too many operations"),
    "operation_too_large": (413, "The operation does not fit a message"),
    "decision_too_large": (413, "The decision does not fit a message"),
    "unsupported_media_type": (415, "The content type is not taken here"),
    "operation_id_reused": (422, "The operation id is recorded with another body"),
    "override_refused": (422, "The voucher lines cannot stand"),
    "internal_error": (500, "A defect of the server"),
    "ledger_error": (500, "A defect of the server"),
    "log_corrupt": (500, "The log contradicts itself"),
    "not_visible_yet": (503, "The books have not come so far yet"),
    "store_unavailable": (503, "The database cannot be reached"),
    "overloaded": (503, "Too many operations are waiting"),
    "clock_ahead": (503, "The clock of the server is not right"),
    "buffer_full": (503, "Too much waits for a hot account"),
    "backlog": (503, "Accounting is too far behind to take more of this business type"),
    "engine_stopped": (503, "The server is draining"),
}
REJECTED_STATUS = 422
REASONS = frozenset(reason.value for reason in RejectionReason)


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An RFC 9457 problem document. `code` is stable; `detail` is for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""
    retriable: bool = False
    operation_id: str | None = None
    field: str | None = None
    leg_no: int = 0
    account: str | None = None
    position: int | None = None
    business_date: str | None = None
    booked_at: str | None = None
    dry_run: bool = False


class LineError(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line of a batch that was not decided; nothing was recorded for it."""

    status: Literal["error"]
    line: int
    code: str
    detail: str = ""
    retriable: bool = False
    operation_id: str | None = None
    field: str | None = None
    leg_no: int = 0


class Reply(msgspec.Struct, frozen=True, gc=False):
    """An HTTP response before it is sent."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


encode = msgspec.json.Encoder().encode


def status_of(code: str) -> tuple[int, str]:
    """Return the HTTP status and title of a code."""
    if code in REASONS:
        return REJECTED_STATUS, "Rejected: " + code.replace("_", " ")
    return STATUS.get(code, STATUS["internal_error"])


def json_reply(value: Any, status: int = 200, *headers: tuple[bytes, bytes]) -> Reply:
    """Return a JSON answer."""
    return reply_of(encode(value), status, JSON_TYPE, *headers)


def reply_of(body: bytes, status: int, content_type: bytes, *headers: tuple[bytes, bytes]) -> Reply:
    """Return bytes as an answer of a content type."""
    length = (b"content-length", b"%d" % len(body))
    return Reply(status, body, ((b"content-type", content_type), length, *headers))


def problem_reply(problem: Problem, *headers: tuple[bytes, bytes]) -> Reply:
    """Return a problem document; 503 asks to come back, 401 names the scheme."""
    extra: list[tuple[bytes, bytes]] = list(headers)
    if problem.status == 503:
        backlog = problem.code == "backlog"
        extra.append((b"retry-after", RETRY_AFTER_BACKLOG_S if backlog else RETRY_AFTER_S))
    elif problem.status == 401:
        extra.append((b"www-authenticate", b'Bearer realm="daybook"'))
    elif problem.code in ("request_timeout", "body_too_large"):
        extra.append((b"connection", b"close"))  # the rest of the body is never read
    return reply_of(encode(problem), problem.status, PROBLEM_TYPE, *extra)


def problem_of(error: LedgerError, operation_id: str | None = None) -> Problem:
    """Return the problem document of an error that recorded nothing."""
    status, title = status_of(error.code)
    return Problem(
        type=f"urn:daybook:problem:{error.code}",
        title=title,
        status=status,
        code=error.code,
        detail=error.detail,
        retriable=error.retriable,
        operation_id=operation_id,
        field=error.fields.get("field"),
        leg_no=error.fields.get("leg_no", 0),
    )


def rejection_problem(answer: Answer) -> Problem:
    """Return the problem document of a recorded rejection."""
    code = answer.code or RejectionReason.NO_CHANGE
    status, title = status_of(code)
    return Problem(
        type=f"urn:daybook:problem:{code}",
        title=title,
        status=status,
        code=code,
        detail=answer.detail,
        operation_id=answer.operation_id,
        leg_no=answer.leg_no,
        account=answer.account,
        position=answer.position,
        business_date=answer.business_date,
        booked_at=answer.booked_at,
        dry_run=answer.dry_run,
    )


def line_error(error: LedgerError, line: int, operation_id: str | None = None) -> LineError:
    """Return the result of a batch line that was not decided."""
    return LineError(
        status="error",
        line=line,
        code=error.code,
        detail=error.detail,
        retriable=error.retriable,
        operation_id=operation_id,
        field=error.fields.get("field"),
        leg_no=error.fields.get("leg_no", 0),
    )
