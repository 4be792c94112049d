"""Posting the generated day through HTTP: single postings by many callers, batches beside them.

Invariant: every answer is compared with the one foretold; a difference ends the demo with its
operation's name.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from infra.demo.maker import BOOKED, Step
from infra.demo.payment_day import PaymentDay, Stage, with_expiry
from infra.http_load import Reply, Request, Tally, run_callers
from ledger.operation import Operation

CALLERS = 24
BATCH_CALLERS = 2
BATCH_SIZE = 500
HOLD_LIFE_S = 6.0
NDJSON = "application/x-ndjson"
OPERATIONS_PATH = "/v1/operations"
BATCH_PATH = "/v1/operations:batch"


class Outcome(msgspec.Struct):
    """What matters of an answer or a batch line."""

    status: str | int = ""
    code: str | None = None
    operation_id: str | None = None
    position: int | None = None
    replayed: bool = False
    detail: str = ""

    @property
    def ending(self) -> str:
        """Return `booked`, or the reason against it."""
        return self.code or str(self.status)


Item = TypeVar("Item")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Outcome).decode


class AnswerDiffers(Exception):
    """An answer is not the one that the generated day foretold."""


@dataclass
class Posted:
    """What came of posting."""

    single: Tally = field(default_factory=Tally)
    batch: Tally = field(default_factory=Tally)
    batch_operations: int = 0
    operations: int = 0
    elapsed_s: float = 0.0
    last_position: int = 0
    last_answered_at: float = 0.0
    endings: dict[str, int] = field(default_factory=dict)


class DayPoster:
    """Posts stages one after the other. `advance` is told how many operations were answered."""

    def __init__(self, url: str, key: str, book: str, advance: Callable[[int], None]) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {key}", "Daybook-Book": book}
        self.posted = Posted()
        self._advance = advance

    def open_accounts(self, day: PaymentDay) -> None:
        """Open every account, then make the difficult ones difficult."""
        lines = [_encode(account) for account in day.accounts]
        requests = [
            Request("POST", "/v1/accounts:batch", b"\n".join(chunk) + b"\n", NDJSON)
            for chunk in chunked(lines, BATCH_SIZE)
        ]
        changes = [
            Request("POST", f"/v1/accounts/{number}/commands", _encode(change))
            for number, change in day.changes
        ]
        asyncio.run(self._all_well(requests))
        asyncio.run(self._all_well(changes))

    async def _all_well(self, requests: Sequence[Request]) -> None:
        def check(request: Request, reply: Reply) -> None:
            lines = reply.body.splitlines()
            bad = [line for line in map(_decode, lines) if line.status != BOOKED]
            if reply.status not in (200, 201) or bad:
                raise AnswerDiffers(f"{request.path}: {reply.status} {bad or reply.body[:300]!r}")

        await run_callers(requests, url=self.url, headers=self.headers, callers=1, on_reply=check)

    def post_stage(self, stage: Stage) -> None:
        """Post a stage: singles by many callers and, at the same time, its batches."""
        expires_at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=HOLD_LIFE_S)
        single = [with_expiry(step, expires_at) for step in stage.single]
        asyncio.run(self._post(single, list(stage.batch)))

    async def _post(self, single: list[Step], batch: list[Step]) -> None:
        chunks = list(chunked(batch, BATCH_SIZE))

        def on_single(request: Request, reply: Reply) -> None:
            self._note(single[request.key], _decode(reply.body), reply)
            self._advance(1)

        def on_batch(request: Request, reply: Reply) -> None:
            steps = chunks[request.key]
            lines = reply.body.splitlines()
            if reply.status != 200 or len(lines) != len(steps):
                raise AnswerDiffers(f"batch of {len(steps)}: {reply.status} {reply.body[:300]!r}")
            for step, line in zip(steps, lines, strict=True):
                self._note(step, _decode(line), reply)
            self._advance(len(steps))

        async with asyncio.TaskGroup() as group:
            singles = group.create_task(self._run(_single_requests(single), CALLERS, on_single))
            batches = group.create_task(self._run(_batch_requests(chunks), BATCH_CALLERS, on_batch))
        posted = self.posted
        _add(posted.single, singles.result())
        _add(posted.batch, batches.result())
        posted.batch_operations += len(batch)
        posted.operations += len(single) + len(batch)
        posted.elapsed_s += max(singles.result().elapsed_s, batches.result().elapsed_s)

    def post_again(self, steps: Sequence[Step]) -> None:
        """Send operations a second time: each must give the first answer again."""
        ids = [step.operation.operation_id for step in steps]

        async def run() -> None:
            def check(request: Request, reply: Reply) -> None:
                again = _decode(reply.body)
                if again.ending != BOOKED or again.operation_id != ids[request.key]:
                    raise AnswerDiffers(f"repeated {ids[request.key]}: {again}")

            await self._run(_single_requests(steps), CALLERS, check)

        asyncio.run(run())

    async def _run(
        self, requests: Iterable[Request], callers: int, on_reply: Callable[[Request, Reply], None]
    ) -> Tally:
        return await run_callers(
            requests, url=self.url, headers=self.headers, callers=callers, on_reply=on_reply
        )

    def _note(self, step: Step, outcome: Outcome, reply: Reply) -> None:
        if outcome.ending != step.expected:
            operation = step.operation
            raise AnswerDiffers(
                f"{operation.business_type} {operation.operation_id}: foretold {step.expected}, "
                f"answered {outcome.ending} {outcome.detail}"
            )
        posted = self.posted
        posted.endings[outcome.ending] = posted.endings.get(outcome.ending, 0) + 1
        posted.last_position = max(posted.last_position, outcome.position or 0)
        posted.last_answered_at = max(posted.last_answered_at, reply.answered_at)


def _single_requests(steps: Sequence[Step]) -> Iterator[Request]:
    for number, step in enumerate(steps):
        yield Request("POST", OPERATIONS_PATH, encoded(step.operation), key=number)


def _batch_requests(chunks: Sequence[Sequence[Step]]) -> Iterator[Request]:
    for number, chunk in enumerate(chunks):
        body = b"".join(encoded(step.operation) + b"\n" for step in chunk)
        yield Request("POST", BATCH_PATH, body, NDJSON, number)


def encoded(operation: Operation) -> bytes:
    """Return an operation as the API takes it."""
    return _encode(operation)


def chunked(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into pieces."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _add(total: Tally, part: Tally) -> None:
    if part.latencies_s:
        total.latencies_s += part.latencies_s
        total.retries += part.retries
        total.elapsed_s += part.elapsed_s
