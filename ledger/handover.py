"""What passes between API processes of one host: postings to the one that books, answers back.

A message is four bytes of length and so much MessagePack; many are written at once. Each side says
`Hello` first. A message of no bytes asks whether the other is there, and is answered by another.
Invariant: an answer that was passed on is encoded to the same JSON as where it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ledger.errors import LedgerError
from ledger.job import Job
from ledger.operation import Answer, Operation, Result, Submission

VERSION = 1
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
LENGTH_BYTES = 4
THERE = bytes(LENGTH_BYTES)


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """Who speaks: how, and for which log at which address. Both must be the listener's own."""

    version: int
    log: str


class Posting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One operation to be booked alone; `number` is the asking process's own."""

    number: int
    dry_run: bool
    book_id: str
    principal: str
    operation_id: str
    fingerprint: str
    operation: Operation


class Failure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `LedgerError`; `whole`: of the job, not of its one submission."""

    whole: bool
    code: str
    detail: str
    retriable: bool
    fields: dict[str, Any]


class Told(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a posting came to."""

    number: int
    answer: Answer | None
    failure: Failure | None = None


encode = msgspec.msgpack.Encoder(enc_hook=str).encode
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_posting = msgspec.msgpack.Decoder(Posting).decode
decode_told = msgspec.msgpack.Decoder(Told).decode


class BrokenLine(Exception):
    """The other side said what it cannot have meant."""


class Messages:
    """Cuts what is received into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def of(self, data: bytes) -> Iterator[bytes]:
        """Yield each message that is whole. Raises `BrokenLine` at one that is too long."""
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        while end - start >= LENGTH_BYTES:
            after = start + LENGTH_BYTES
            length = int.from_bytes(data[start:after])
            if length > MESSAGE_BYTES_MAX:
                raise BrokenLine(f"a message of {length} bytes")
            if end - after < length:
                break
            start = after + length
            yield data[after:start]
        self._rest = data[start:]


def framed(message: msgspec.Struct) -> bytes:
    """Return a message as it is written."""
    payload = encode(message)
    return len(payload).to_bytes(LENGTH_BYTES) + payload


def posting_of(number: int, job: Job) -> Posting | None:
    """Return a job as it is handed over; None unless it is one operation."""
    if len(job.submissions) != 1 or job.atomic:
        return None
    (submission,) = job.submissions
    if not isinstance(submission.body, Operation):
        return None
    return Posting(
        number,
        job.dry_run,
        submission.book_id,
        submission.principal,
        submission.operation_id,
        submission.fingerprint,
        submission.body,
    )


def job_of(posting: Posting) -> Job:
    """Return the job that was handed over."""
    submission = Submission(
        book_id=posting.book_id,
        principal=posting.principal,
        operation_id=posting.operation_id,
        fingerprint=posting.fingerprint,
        body=posting.operation,
    )
    return Job(book_id=posting.book_id, submissions=(submission,), dry_run=posting.dry_run)


def told_of(number: int, results: list[Result] | LedgerError) -> Told:
    """Return the results of a handed-over job, or its error, as they are told."""
    whole = isinstance(results, LedgerError)
    result = results if isinstance(results, LedgerError) else results[0]
    if isinstance(result, Answer):
        return Told(number, result)
    return Told(
        number, None, Failure(whole, result.code, result.detail, result.retriable, result.fields)
    )


def results_of(told: Told) -> list[Result] | LedgerError:
    """Return what a job came to, as its own engine would have said it."""
    if told.answer is not None:
        return [told.answer]
    failure = told.failure
    if failure is None:
        raise BrokenLine("neither an answer nor a failure")
    error = LedgerError(failure.detail, **failure.fields)
    error.code, error.retriable = failure.code, failure.retriable
    return error if failure.whole else [error]
