"""Repair over HTTP: order retries, propose and approve overrides.

Who decides is the principal of the key, never a name in the body. Invariant: a route here
writes a decision into the log or nothing at all; its effect comes by the consumers, so an
answer says whether they have performed it yet.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import msgspec
from eventsourcing.persistence import PersistenceError
from fastapi import APIRouter, Path, Query, Request, Response
from msgspec import Meta, field
from psycopg import Connection
from starlette.concurrency import run_in_threadpool

from accounting.decisions import AccountingDecisions, DecisionRefused, GivenLine
from consumers.api_documents import REFUSALS, answers, takes
from consumers.overrides import (
    ProposedOverride,
    Status,
    approve_override,
    propose_override,
    select_override,
    select_overrides,
)
from consumers.repair import (
    RepairOrdered,
    RepairState,
    TriedPage,
    order_page,
    published_hash,
    select_order,
    select_repaired,
    try_page,
    wait_until_performed,
)
from ledger.api_call import JSON_TYPES, Call, ClientGone, Limits
from ledger.api_gate import refuse_error
from ledger.api_parse import decode
from ledger.errors import InvalidRequest, StoreUnavailable
from ledger.money import AMOUNT_MAX
from ledger.operation import Name, Text
from ledger.principals import Principal
from projections.api import (
    SEARCH_PATH,
    STRICT,
    WAIT_S,
    WAIT_S_MAX,
    BooksReader,
    Connect,
    Cursor,
    Limit,
    Waits,
    gives,
)
from projections.pages import PAGE_SIZE_MAX, Page
from projections.parked import ParkedFilter

BODY_LIMITS = Limits(body_bytes_max=1024 * 1024, operations_max=1)
LINES_MAX = 500

T = TypeVar("T")
WaitS = Annotated[
    float, Query(ge=0, le=WAIT_S_MAX, description="How long to wait for the consumers at most.")
]
OverrideId = Annotated[UUID, Path(description="The proposal's id.")]
Id = Annotated[str, Meta(min_length=1, max_length=128)]


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and about which book."""

    principal: Principal
    book_id: str

    @property
    def name(self) -> str:
        """Give the name that a decision keeps."""
        return self.principal.name


Authorize = Callable[[Request, str], Caller]
OpenDecisions = Callable[[], AbstractContextManager[AccountingDecisions]]


class RequestedRepair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which parked and waiting operations to try again; left out means any.

    One order names at most `limit` operations; `cursor` continues after an earlier one.
    """

    status: Literal["parked", "waiting"] | None = None
    reason: Id | None = None
    business_type: Id | None = None
    from_date: dt.date | None = field(default=None, name="from")
    to_date: dt.date | None = field(default=None, name="to")
    account: Name | None = None
    operation_ids: Annotated[tuple[Id, ...], Meta(max_length=1000)] | None = None
    ruleset_hash: Annotated[str, Meta(max_length=128)] | None = None
    note: Text = ""
    limit: Annotated[int, Meta(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE_MAX
    cursor: Annotated[str, Meta(max_length=500)] | None = None

    @property
    def wanted(self) -> ParkedFilter:
        """Say it as a filter."""
        return ParkedFilter(
            status=self.status,
            reason=self.reason,
            business_type=self.business_type,
            from_date=None if self.from_date is None else self.from_date.isoformat(),
            to_date=None if self.to_date is None else self.to_date.isoformat(),
            account=self.account,
            operation_ids=self.operation_ids,
        )


class RequestedLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A voucher line in minor units; `account` on the lines of the operation's own legs."""

    side: Literal["debit", "credit"]
    subject: Name
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    amount_minor: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)] = field(name="amount")
    account: Name | None = None
    off_balance: bool = False


class RequestedOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The voucher of one parked or waiting operation; its date is the operation's unless given."""

    operation_id: Id
    lines: Annotated[tuple[RequestedLine, ...], Meta(min_length=1, max_length=LINES_MAX)]
    accounting_date: dt.date | None = None
    note: Text = ""


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a checker says beside yes or no."""

    note: Text = ""


_decode_repair = msgspec.json.Decoder(RequestedRepair).decode
_decode_override = msgspec.json.Decoder(RequestedOverride).decode
_decode_verdict = msgspec.json.Decoder(Verdict).decode


def repair_router(
    *, connect: Connect, authorize: Authorize, open_decisions: OpenDecisions
) -> APIRouter:
    """Make the routes. `authorize` proves that the caller has a scope and says who it is;
    `open_decisions` opens the log for writing decisions.
    """
    reader = BooksReader(connect, lambda request, scope: authorize(request, scope).book_id)
    writer = DecisionWriter(reader, authorize, open_decisions)
    router = APIRouter(prefix="/v1", tags=["repair"], dependencies=STRICT)
    _add_repairs(router, reader, writer)
    _add_override_reads(router, reader)
    _add_proposing(router, writer)
    _add_deciding(router, writer)
    return router


async def refuse_decision(request: Request, error: Exception) -> Response:
    """Turn a refused decision into a problem document with its code."""
    assert isinstance(error, DecisionRefused)
    return await refuse_error(request, InvalidRequest(error.detail, code=error.code))


class DecisionWriter:
    """Answers one request that decides something: who, the body, then the work in a thread."""

    def __init__(
        self, reader: BooksReader, authorize: Authorize, open_decisions: OpenDecisions
    ) -> None:
        self._reader = reader
        self._authorize = authorize
        self._open_decisions = open_decisions

    async def answer(
        self,
        request: Request,
        scope: str,
        decoder: Callable[[bytes], T],
        act: Callable[[Connection[Any], AccountingDecisions, Caller, T], tuple[int, Any]],
    ) -> Response:
        """Answer with what `act` returns: a status and a struct."""
        caller = await run_in_threadpool(self._authorize, request, scope)
        call = Call(request.scope, request.receive)
        call.media_type(JSON_TYPES)
        try:
            wanted = decode(decoder, await call.body(BODY_LIMITS))
        except ClientGone:
            return Response(status_code=400)

        def work() -> tuple[int, Any]:
            with self._opened(request) as (conn, decisions):
                return act(conn, decisions, caller, wanted)

        status, value = await run_in_threadpool(work)
        body = msgspec.json.encode(value)
        return Response(body, status_code=status, media_type="application/json")

    @contextmanager
    def _opened(self, request: Request) -> Iterator[tuple[Connection[Any], AccountingDecisions]]:
        with self._reader.connected(request) as conn:
            conn.execute(SEARCH_PATH)
            try:
                with self._open_decisions() as decisions:
                    yield conn, decisions
            except PersistenceError as error:
                raise StoreUnavailable(str(error).partition("\n")[0]) from error


def _add_repairs(router: APIRouter, reader: BooksReader, writer: DecisionWriter) -> None:
    @router.post(
        "/repairs",
        status_code=202,
        responses=answers({202: RepairOrdered, 200: TriedPage}),
        openapi_extra=takes(
            RequestedRepair,
            by_reason={"reason": "no_rule", "note": "the rule was published"},
            by_account={"account": "C-1", "from": "2026-01-01", "to": "2026-01-31"},
        ),
    )
    async def order_repairs(
        request: Request,
        dry_run: Annotated[bool, Query(description="Answer the vouchers, order nothing.")] = False,
        wait_s: WaitS = WAIT_S,
    ) -> Response:
        """Order a retry of what is parked; safe to repeat. Needs scope `repair`."""

        def act(
            conn: Connection[Any],
            decisions: AccountingDecisions,
            caller: Caller,
            asked: RequestedRepair,
        ) -> tuple[int, Any]:
            book, wanted, rules = caller.book_id, asked.wanted, asked.ruleset_hash
            if rules is not None:
                rules = published_hash(conn, book, rules)
            if dry_run:
                return 200, try_page(
                    conn, book, wanted, ruleset_hash=rules, cursor=asked.cursor, limit=asked.limit
                )
            ordered = order_page(
                conn,
                decisions,
                book,
                wanted,
                maker=caller.name,
                ruleset_hash=rules,
                note=asked.note,
                cursor=asked.cursor,
                limit=asked.limit,
            )
            return 202, _performed(conn, book, ordered, wait_s)

        return await writer.answer(request, "repair", _decode_repair, act)

    @router.get("/repairs/{position:int}", responses=gives(RepairState) | REFUSALS)
    def repair(
        request: Request, waits: Waits, position: Annotated[int, Path(ge=1, le=2**62)]
    ) -> Response:
        """A repair order or approved override: who, why, and how its operations stand."""
        return reader.answer(request, waits, lambda conn, book: select_order(conn, book, position))


def _performed(
    conn: Connection[Any], book_id: str, ordered: RepairOrdered, wait_s: float
) -> RepairOrdered:
    """Wait for the consumers; say how the operations stand once they have performed it."""
    position = ordered.position
    if position is None or not wait_until_performed(conn, position, timeout_s=wait_s):
        return ordered
    ids = [each.operation_id for each in ordered.operations]
    repaired = tuple(select_repaired(conn, book_id, ids))
    return msgspec.structs.replace(ordered, performed=True, operations=repaired)


def _add_override_reads(router: APIRouter, reader: BooksReader) -> None:
    @router.get("/overrides", responses=gives(Page[ProposedOverride]) | REFUSALS)
    def overrides(
        request: Request,
        waits: Waits,
        status: Annotated[Status | None, Query(description="Only those that stand so.")] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """Proposed voucher lines, oldest first: by whom, and who approved or rejected them."""
        return reader.answer(
            request,
            waits,
            lambda conn, book: select_overrides(
                conn, book, status=status, cursor=cursor, limit=limit
            ),
        )

    @router.get("/overrides/{override_id:uuid}", responses=gives(ProposedOverride) | REFUSALS)
    def override(request: Request, waits: Waits, override_id: OverrideId) -> Response:
        """One proposal and what became of it."""
        return reader.answer(
            request, waits, lambda conn, book: select_override(conn, book, override_id)
        )


def _add_proposing(router: APIRouter, writer: DecisionWriter) -> None:
    @router.post(
        "/overrides",
        status_code=201,
        responses=answers({201: ProposedOverride}),
        openapi_extra=takes(RequestedOverride, payment_with_fee=OVERRIDE_EXAMPLE),
    )
    async def propose(request: Request) -> Response:
        """Give the voucher lines of a parked operation, for another principal to approve.

        Needs scope `repair`.
        """

        def act(
            conn: Connection[Any],
            decisions: AccountingDecisions,
            caller: Caller,
            asked: RequestedOverride,
        ) -> tuple[int, Any]:
            given = [msgspec.convert(line, GivenLine, from_attributes=True) for line in asked.lines]
            date = None if asked.accounting_date is None else asked.accounting_date.isoformat()
            override_id, _ = propose_override(
                conn,
                decisions,
                caller.book_id,
                asked.operation_id,
                given,
                accounting_date=date,
                maker=caller.name,
                note=asked.note,
            )
            return 201, select_override(conn, caller.book_id, override_id)

        return await writer.answer(request, "repair", _decode_override, act)


def _add_deciding(router: APIRouter, writer: DecisionWriter) -> None:
    @router.post(
        "/overrides/{override_id:uuid}:approve",
        responses=answers({200: ProposedOverride}),
        openapi_extra=takes(Verdict, yes={}),
    )
    async def approve(
        request: Request, override_id: OverrideId, wait_s: WaitS = WAIT_S
    ) -> Response:
        """Approve as another principal than the maker: the lines become the voucher.

        Needs scope `approve`.
        """

        def act(
            conn: Connection[Any], decisions: AccountingDecisions, caller: Caller, _asked: Verdict
        ) -> tuple[int, Any]:
            approve_override(
                conn,
                decisions,
                override_id,
                checker=caller.name,
                book_id=caller.book_id,
                timeout_s=wait_s,
            )
            return 200, select_override(conn, caller.book_id, override_id)

        return await writer.answer(request, "approve", _decode_verdict, act)

    @router.post(
        "/overrides/{override_id:uuid}:reject",
        responses=answers({200: ProposedOverride}),
        openapi_extra=takes(Verdict, no={"note": "the fee is income"}),
    )
    async def reject(request: Request, override_id: OverrideId) -> Response:
        """Reject a proposal. Needs scope `approve`; the own one is taken back with `repair`."""

        def act(
            conn: Connection[Any], decisions: AccountingDecisions, caller: Caller, asked: Verdict
        ) -> tuple[int, Any]:
            book_id = caller.book_id
            if select_override(conn, book_id, override_id).maker != caller.name:
                caller.principal.require("approve")
            decisions.reject_override(
                override_id, checker=caller.name, note=asked.note, book_id=book_id
            )
            return 200, select_override(conn, book_id, override_id)

        scope = "approve" if "approve" in request.state.principal.scopes else "repair"
        return await writer.answer(request, scope, _decode_verdict, act)


OVERRIDE_EXAMPLE = {
    "operation_id": "payment-17",
    "lines": [
        {"side": "debit", "subject": "2001.01", "currency": "CNY", "amount": 500, "account": "C-1"},
        {
            "side": "credit",
            "subject": "2002.01",
            "currency": "CNY",
            "amount": 490,
            "account": "M-1",
        },
        {"side": "credit", "subject": "5001.01", "currency": "CNY", "amount": 10},
    ],
    "note": "agreed by telephone",
}
