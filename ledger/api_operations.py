"""Posting over HTTP: one operation, or a batch with one result per line.

Invariant: one result per operation, in order; a line that cannot be read never disturbs its
neighbours (unless the batch is atomic: then nothing is decided). A body cut in the middle of
a line is refused whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from ledger.api import (
    JSON_TYPE,
    LineError,
    Reply,
    encode,
    json_reply,
    line_error,
    problem_reply,
    rejection_problem,
    reply_of,
)
from ledger.api_call import JSON_TYPES, NDJSON_TYPES, Call
from ledger.api_gate import Api, book_of
from ledger.api_hops import answered, tell_lines
from ledger.api_metrics import Metrics
from ledger.api_parse import decode, operation_id_in
from ledger.errors import InvalidRequest, LedgerError, NotFound
from ledger.hops import hops, now_ns
from ledger.job import Job
from ledger.operation import Answer, Operation, Result, Submission
from ledger.principals import Principal
from ledger.stream_reads import select_operation

REPLAYED = (b"idempotent-replayed", b"true")
BATCH_TYPES = JSON_TYPES | NDJSON_TYPES
LINES_AT_ONCE = 200  # parsed before the loop may turn to other callers
_decode_lines = msgspec.json.Decoder(list[msgspec.Raw]).decode

Parse = Callable[[bytes], Submission]


async def post_operation(api: Api, call: Call) -> Reply:
    """Book one operation: 201, 202 when a leg was buffered, or 422 with the recorded rejection."""
    call.media_type(JSON_TYPES)
    dry_run = bool(call.scope["query_string"]) and call.flags("dry_run")["dry_run"]
    raw = await call.body(api.limits)
    if not call.let_in:
        api.engine.admission.look(raw)
    started = time.perf_counter()
    submission = read_operation(api, raw, call.operation_id, book_of(api, call), call.principal)
    posted = post_one(api, submission, dry_run=dry_run, let_in=call.let_in)
    reply = await (answered(call.scope["headers"], submission, posted) if hops.on else posted)
    api.metrics.single_latency.observe(time.perf_counter() - started)
    return reply


def read_operation(
    api: Api, raw: bytes, operation_id: bytes | None, book_id: str, principal: Principal
) -> Submission:
    """Parse an operation; raise `BacklogTooLong` for a type that waits until accounting is near."""
    submission = api.parser.operation(raw, operation_id, book_id, principal)
    if api.gate.held_back:
        assert isinstance(submission.body, Operation)
        api.gate.admit(submission.body.business_type)
    return submission


async def post_one(
    api: Api,
    submission: Submission,
    *,
    dry_run: bool = False,
    status: int = 201,
    let_in: bool = False,
) -> Reply:
    """Book one submission and turn its result into an answer or a problem."""
    job = Job(book_id=submission.book_id, submissions=(submission,), dry_run=dry_run)
    result = (await api.engine.post(job, let_in=let_in))[0]
    count(api.metrics, result)
    if isinstance(result, LedgerError):
        raise result
    return answer_reply(result, 200 if dry_run else status)


def answer_reply(answer: Answer, status: int) -> Reply:
    """Return the first answer, byte for byte, however often it is asked for."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if answer.replayed:
        headers = (REPLAYED,)
        answer = msgspec.structs.replace(answer, replayed=False)
    if answer.status == "rejected":
        return problem_reply(rejection_problem(answer), *headers)
    if answer.status == "accepted" and not answer.dry_run:
        status = 202
    return reply_of(encode(answer), status, JSON_TYPE, *headers)


def count(metrics: Metrics, result: Result | LineError) -> None:
    """Count a result."""
    name: str = "error"
    if isinstance(result, Answer):
        name = "replayed" if result.replayed else result.status
    metrics.results[name].inc()


async def post_operations(api: Api, call: Call) -> Reply:
    """Book a batch of operations: 200 with one result per line, in order."""
    book_id = book_of(api, call)
    principal = call.principal
    return await post_batch(
        api, call, book_id, lambda raw: read_operation(api, raw, None, book_id, principal)
    )


async def post_batch(api: Api, call: Call, book_id: str, parse: Parse) -> Reply:
    """Read, parse and book the lines of a batch; answer in the content type that came."""
    media_type = call.media_type(BATCH_TYPES)
    if call.operation_id is not None:
        raise InvalidRequest(
            "a batch's operations carry their own ids: leave out Idempotency-Key",
            code="invalid_parameter",
        )
    flags = call.flags("atomic", "dry_run")
    raw = await call.body(api.limits)
    if not call.let_in:
        api.engine.admission.look(raw)
    started = time.perf_counter()
    lines = _ndjson_lines(raw) if media_type in NDJSON_TYPES else decode(_decode_lines, raw)
    if len(lines) > api.limits.operations_max:
        raise InvalidRequest(
            f"{len(lines)} operations; at most {api.limits.operations_max}", code="batch_too_large"
        )
    parsed = await _parse_lines(lines, parse)
    began_ns = now_ns()
    results = await _book(api, book_id, parsed, flags, let_in=call.let_in)
    if hops.on:
        tell_lines(call.scope["headers"], began_ns, parsed, results)
    for result in results:
        count(api.metrics, result)
    api.metrics.batch_size.observe(len(lines))
    api.metrics.batch_latency.observe(time.perf_counter() - started)
    return await _batch_reply(results, media_type)


def _ndjson_lines(raw: bytes) -> list[bytes]:
    """Split into lines. Raises `ndjson_truncated` when the last one was cut in the middle."""
    lines = raw.split(b"\n")
    last = lines.pop()
    if last.strip():
        try:
            msgspec.json.decode(last, type=msgspec.Raw)
        except (msgspec.DecodeError, RecursionError):
            raise InvalidRequest(
                f"line {len(lines) + 1} is cut in the middle", code="ndjson_truncated"
            ) from None
        lines.append(last)
    return [line for line in lines if line.strip()]


async def _parse_lines(
    lines: list[bytes] | list[msgspec.Raw], parse: Parse
) -> list[Submission | LineError]:
    parsed: list[Submission | LineError] = []
    for number, line in enumerate(lines, start=1):
        raw = bytes(line)
        try:
            parsed.append(parse(raw))
        except LedgerError as error:
            parsed.append(line_error(error, number, operation_id_in(raw)))
        if number % LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
    return parsed


async def _book(
    api: Api,
    book_id: str,
    parsed: list[Submission | LineError],
    flags: dict[str, bool],
    *,
    let_in: bool,
) -> list[Answer | LineError]:
    submissions = tuple(item for item in parsed if isinstance(item, Submission))
    if flags["atomic"] and len(submissions) < len(parsed):
        return [_left_out(item, number) for number, item in enumerate(parsed, start=1)]
    if not submissions:
        return [item for item in parsed if isinstance(item, LineError)]
    job = Job(
        book_id=book_id,
        submissions=submissions,
        atomic=flags["atomic"],
        dry_run=flags["dry_run"],
    )
    booked = iter(await api.engine.post(job, let_in=let_in))
    results: list[Answer | LineError] = []
    for number, item in enumerate(parsed, start=1):
        if isinstance(item, LineError):
            results.append(item)
            continue
        result = next(booked)
        if isinstance(result, LedgerError):
            results.append(line_error(result, number, item.operation_id))
        else:
            results.append(result)
    return results


def _left_out(item: Submission | LineError, number: int) -> LineError:
    """Return what a line of an atomic batch with an unreadable line gets: nothing recorded."""
    if isinstance(item, LineError):
        return item
    return LineError(
        status="error",
        line=number,
        code="atomic_batch_refused",
        detail="another line cannot be read; nothing of the batch was decided",
        operation_id=item.operation_id,
    )


async def _batch_reply(results: list[Answer | LineError], media_type: bytes) -> Reply:
    parts: list[bytes] = []
    for start in range(0, len(results), LINES_AT_ONCE):
        parts += map(encode, results[start : start + LINES_AT_ONCE])
        await asyncio.sleep(0)
    if media_type in NDJSON_TYPES:
        body = b"\n".join(parts) + (b"\n" if parts else b"")
        return reply_of(body, 200, b"application/x-ndjson")
    return reply_of(b"[" + b",".join(parts) + b"]", 200, JSON_TYPE)


async def get_operation(api: Api, call: Call) -> Reply:
    """Return the permanent record of an operation and where accounting stands with it now."""
    call.principal.require("read")
    call.query()
    operation_id = call.params["operation_id"]
    if "\x00" in operation_id:
        raise NotFound("no operation id has a NUL")
    return json_reply(await api.store.call(select_operation, book_of(api, call), operation_id))
