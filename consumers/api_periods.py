"""Day cuts and periods over HTTP: cut a day, propose to close or reopen, approve or reject.

Who decides is the principal of the key. Invariant: a route here writes a decision into the
log or nothing at all; asking for a cut that is there answers the same cut again.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Path, Request, Response
from psycopg import Connection

from accounting import periods
from accounting.decisions import AccountingDecisions
from consumers.api import Authorize, Caller, DecisionWriter, OpenDecisions, Verdict, WaitS
from consumers.api_documents import REFUSALS, answers, takes
from consumers.periods import cut_day, propose_change, wait_for_change
from ledger.errors import NotFound
from ledger.operation import Text
from projections.api import STRICT, WAIT_S, BooksReader, Connect, Cursor, Limit, Waits, gives
from projections.pages import Page
from projections.periods import (
    CutRow,
    PeriodChange,
    PeriodList,
    select_change,
    select_cuts,
    select_periods,
)

ChangeId = Annotated[UUID, Path(description="The proposal's id.")]


class RequestedCut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cut the books through this date, which must be over; cutting again changes nothing."""

    cut_date: dt.date
    note: Text = ""


class RequestedChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Close the book through this date, or reopen it from this date on."""

    kind: Literal["close", "reopen"]
    period_date: dt.date
    note: Text = ""


_decode_cut = msgspec.json.Decoder(RequestedCut).decode
_decode_change = msgspec.json.Decoder(RequestedChange).decode
_decode_verdict = msgspec.json.Decoder(Verdict).decode


def periods_router(
    *, connect: Connect, authorize: Authorize, open_decisions: OpenDecisions
) -> APIRouter:
    """Make the routes; the arguments are those of `repair_router`."""
    reader = BooksReader(connect, lambda request, scope: authorize(request, scope).book_id)
    writer = DecisionWriter(reader, authorize, open_decisions)
    router = APIRouter(prefix="/v1", tags=["periods"], dependencies=STRICT)
    _add_cuts(router, reader, writer)
    _add_changes(router, reader, writer)
    _add_deciding(router, writer)
    return router


def _add_cuts(router: APIRouter, reader: BooksReader, writer: DecisionWriter) -> None:
    @router.get("/day-cuts", responses=gives(Page[CutRow]) | REFUSALS)
    def day_cuts(
        request: Request, waits: Waits, cursor: Cursor = None, limit: Limit = 100
    ) -> Response:
        """Days that were cut, newest first, with what was parked or waiting then."""
        return reader.answer(
            request, waits, lambda conn, book: select_cuts(conn, book, cursor=cursor, limit=limit)
        )

    @router.post(
        "/day-cuts",
        status_code=201,
        responses=answers({201: CutRow, 200: CutRow}),
        openapi_extra=takes(RequestedCut, end_of_day={"cut_date": "2026-01-31"}),
    )
    async def cut(request: Request, wait_s: WaitS = WAIT_S) -> Response:
        """Cut a day: what is vouchered later is dated into the open day. Needs scope `day`.

        Refused while the day is open, or while the books do not include it whole. 200 with the
        cut that is there when the date is cut already.
        """

        def act(
            conn: Connection[Any],
            decisions: AccountingDecisions,
            caller: Caller,
            asked: RequestedCut,
        ) -> tuple[int, Any]:
            done = cut_day(
                conn,
                decisions,
                caller.book_id,
                asked.cut_date,
                maker=caller.name,
                note=asked.note,
                timeout_s=wait_s,
            )
            return (201 if done.is_new else 200), done.cut

        return await writer.answer(request, "day", _decode_cut, act)


def _add_changes(router: APIRouter, reader: BooksReader, writer: DecisionWriter) -> None:
    @router.get("/period-changes", responses=gives(PeriodList) | REFUSALS)
    def period_changes(
        request: Request, waits: Waits, cursor: Cursor = None, limit: Limit = 100
    ) -> Response:
        """How far the book is closed and cut, and every proposal, close and reopening."""
        return reader.answer(
            request,
            waits,
            lambda conn, book: select_periods(conn, book, cursor=cursor, limit=limit),
        )

    @router.post(
        "/period-changes",
        status_code=201,
        responses=answers({201: PeriodChange}),
        openapi_extra=takes(
            RequestedChange,
            close={"kind": "close", "period_date": "2026-01-31", "note": "January"},
            reopen={"kind": "reopen", "period_date": "2026-01-31"},
        ),
    )
    async def propose(request: Request, wait_s: WaitS = WAIT_S) -> Response:
        """Propose to close or reopen a period, for another principal to approve.

        Needs scope `day`. A period that reaches the open day cannot be closed.
        """

        def act(
            conn: Connection[Any],
            decisions: AccountingDecisions,
            caller: Caller,
            asked: RequestedChange,
        ) -> tuple[int, Any]:
            book_id = caller.book_id
            change_id = propose_change(
                conn,
                decisions,
                book_id,
                asked.kind,
                asked.period_date,
                maker=caller.name,
                note=asked.note,
            )
            found = wait_for_change(conn, book_id, change_id, is_open=True, timeout_s=wait_s)
            return 201, found or _unseen(change_id, asked, caller.name)

        return await writer.answer(request, "day", _decode_change, act)


def _add_deciding(router: APIRouter, writer: DecisionWriter) -> None:
    @router.post(
        "/period-changes/{change_id:uuid}:approve",
        responses=answers({200: PeriodChange}),
        openapi_extra=takes(Verdict, yes={}),
    )
    async def approve(request: Request, change_id: ChangeId, wait_s: WaitS = WAIT_S) -> Response:
        """Approve as another principal than the maker: the period is closed or reopened.

        Needs scope `approve`.
        """

        def act(
            conn: Connection[Any], decisions: AccountingDecisions, caller: Caller, _asked: Verdict
        ) -> tuple[int, Any]:
            name = str(change_id)
            periods.approve_change(decisions, caller.book_id, name, checker=caller.name)
            return 200, _decided(conn, caller.book_id, name, wait_s)

        return await writer.answer(request, "approve", _decode_verdict, act)

    @router.post(
        "/period-changes/{change_id:uuid}:reject",
        responses=answers({200: PeriodChange}),
        openapi_extra=takes(Verdict, no={"note": "not before the bank statement is here"}),
    )
    async def reject(request: Request, change_id: ChangeId, wait_s: WaitS = WAIT_S) -> Response:
        """Reject a proposal. Needs scope `approve`; the own one is taken back with `day`."""

        def act(
            conn: Connection[Any], decisions: AccountingDecisions, caller: Caller, asked: Verdict
        ) -> tuple[int, Any]:
            book_id, name = caller.book_id, str(change_id)
            found = select_change(conn, book_id, name)
            if found is None or found.maker != caller.name:
                caller.principal.require("approve")
            periods.reject_change(decisions, book_id, name, checker=caller.name, note=asked.note)
            return 200, _decided(conn, book_id, name, wait_s)

        scope = "approve" if "approve" in request.state.principal.scopes else "day"
        return await writer.answer(request, scope, _decode_verdict, act)


def _decided(conn: Connection[Any], book_id: str, change_id: str, wait_s: float) -> PeriodChange:
    """Read what became of a proposal, once the books have met it; raises NotFound."""
    found = wait_for_change(conn, book_id, change_id, is_open=False, timeout_s=wait_s)
    if found is None:
        raise NotFound(f"the books have not met {change_id} yet; it is in the log")
    return found


def _unseen(change_id: str, asked: RequestedChange, maker: str) -> PeriodChange:
    """Say a proposal that is in the log and that the books have not met yet."""
    return PeriodChange(
        0,
        change_id,
        f"{asked.kind}_proposed",
        asked.period_date.isoformat(),
        maker,
        None,
        asked.note,
        None,
        is_open=True,
    )
