"""The books over HTTP: trial balance, journal, balances, parked, issues, identity, positions.

Every answer says how fresh it is; `min_position=` or `operation_id=` waits until a write is
visible. Invariant: one answer is one snapshot (repeatable read, read only), so its figures
and its freshness belong together. The caller passes in how to connect and who may read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.dependencies.models import Dependant
from psycopg import Connection, DataError, Error
from psycopg_pool import PoolTimeout

from accounting.trial_balance import TrialBalance
from ledger.errors import InvalidRequest, LedgerError, StoreUnavailable
from projections.account_balances import AccountDay, select_account_days
from projections.gl_balances import GlDay, select_gl_days, select_trial_balance
from projections.identity import Identity, select_identity
from projections.journal import (
    JournalVoucher,
    select_voucher,
    select_vouchers,
    select_vouchers_of,
)
from projections.orders import OrderedOperation, select_by_order
from projections.pages import PAGE_SIZE_MAX, Page
from projections.parked import (
    OpenIssue,
    ParkedCount,
    ParkedFilter,
    ParkedOperation,
    count_parked,
    select_issues,
    select_parked,
)
from projections.positions import (
    Freshness,
    Lane,
    select_freshness,
    select_lanes,
    wait_for_position,
)
from projections.rulesets import Publication, select_publications
from projections.sweeps import Sweep, select_sweeps

WAIT_S = 5.0
WAIT_S_MAX = 30.0
SNAPSHOT = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;"
    "SET LOCAL search_path = projections, ledger"
)
SEARCH_PATH = "SET search_path = projections, ledger"
REF = "#/components/schemas/{name}"
SCOPE = "read"

T = TypeVar("T")
Read = Callable[[Connection[Any], str], T]
Connect = Callable[[Request], AbstractContextManager[Connection[Any]]]
Authorize = Callable[[Request, str], str]


class NotVisibleYet(LedgerError):
    """The write that was waited for is not in the books yet; ask again."""

    code = "not_visible_yet"
    retriable = True


class Fresh(msgspec.Struct, Generic[T], frozen=True):
    """An answer: the book, how far the books are behind the log, and what was asked for."""

    book_id: str
    freshness: Freshness
    data: T


class ParkedPage(msgspec.Struct, frozen=True):
    """Parked and waiting operations with counts per reason."""

    counts: tuple[ParkedCount, ...]
    items: tuple[ParkedOperation, ...]
    next_cursor: str | None


class LanePosition(msgspec.Struct, frozen=True):
    """A lane: its position, when it last moved, and why it stands still if it was stopped."""

    lane: int
    position: int
    incarnation: int
    moved_at: dt.datetime
    stopped: str | None


class Waiting(msgspec.Struct, frozen=True):
    """What a read waits for before it looks."""

    min_position: int | None
    operation_id: str | None
    wait_s: float


def _waiting(
    min_position: Annotated[
        int | None, Query(ge=0, le=2**62, description="Wait until this position is visible.")
    ] = None,
    operation_id: Annotated[
        str | None, Query(max_length=128, description="Wait until this operation is visible.")
    ] = None,
    wait_s: Annotated[
        float, Query(ge=0, le=WAIT_S_MAX, description="How long to wait at most.")
    ] = WAIT_S,
) -> Waiting:
    return Waiting(min_position, operation_id, wait_s)


Waits = Annotated[Waiting, Depends(_waiting)]
From = Annotated[dt.date | None, Query(alias="from", description="First date, inclusive.")]
To = Annotated[dt.date | None, Query(description="Last date, inclusive.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of a page.")]
Limit = Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX, description="Items of a page.")]
Word = Annotated[str | None, Query(max_length=128)]


def parked_filter(
    status: Annotated[str | None, Query(pattern="^(parked|waiting)$")] = None,
    reason: Annotated[str | None, Query(max_length=128, description="E.g. `no_rule`.")] = None,
    business_type: Word = None,
    from_date: From = None,
    to: To = None,
    account: Annotated[
        str | None, Query(max_length=64, description="Only operations with a leg on this account.")
    ] = None,
) -> ParkedFilter:
    """Read which parked and waiting operations a request means."""
    return ParkedFilter(
        status=status,
        reason=reason,
        business_type=business_type,
        from_date=_text(from_date),
        to_date=_text(to),
        account=account,
    )


async def declared_parameters(request: Request) -> None:
    """Refuse a query parameter that the route does not declare, or that is there twice.

    A misspelt `min_position` would be answered at once, with books that are behind.
    """
    given = [name for name, _ in request.query_params.multi_items()]
    if not given:
        return
    declared = set(_query_names(request.scope["route"].dependant))
    for name in given:
        if name not in declared or given.count(name) > 1:
            raise InvalidRequest(
                f"query parameter {name!r} is unknown or repeated",
                code="invalid_parameter",
                field=name,
            )


def _query_names(route: Dependant) -> Iterator[str]:
    yield from (each.alias for each in route.query_params)
    for inner in route.dependencies:
        yield from _query_names(inner)


STRICT = (Depends(declared_parameters),)


class BooksReader:
    """Answers one read: who, which book, wait, snapshot, freshness."""

    def __init__(self, connect: Connect, authorize: Authorize) -> None:
        self._connect = connect
        self._authorize = authorize

    def answer(self, request: Request, waits: Waiting, read: Read[Any]) -> Response:
        """Read in one snapshot and answer with its freshness."""
        book_id = self._authorize(request, SCOPE)
        with self.connected(request) as conn:
            self._wait(conn, book_id, waits)
            with conn.transaction():
                conn.execute(SNAPSHOT)
                data = read(conn, book_id)
                freshness = select_freshness(conn, dt.datetime.now(dt.UTC))
        body = msgspec.json.encode(Fresh(book_id, freshness, data))
        return Response(body, media_type="application/json")

    @contextmanager
    def connected(self, request: Request) -> Iterator[Connection[Any]]:
        """Lend an autocommit connection; what the database says becomes an error of ours."""
        try:
            with self._connect(request) as conn:
                before = conn.autocommit
                conn.autocommit = True
                try:
                    yield conn
                finally:
                    if not conn.closed:
                        conn.autocommit = before
        except DataError as error:
            raise InvalidRequest(
                "a parameter has no such value", code="invalid_parameter"
            ) from error
        except (Error, PoolTimeout) as error:
            raise StoreUnavailable(str(error).splitlines()[0] if str(error) else "") from error

    def _wait(self, conn: Connection[Any], book_id: str, waits: Waiting) -> None:
        if waits.min_position is None and waits.operation_id is None:
            return
        conn.execute(SEARCH_PATH)
        operation = None if waits.operation_id is None else (book_id, waits.operation_id)
        reached = wait_for_position(
            conn,
            min_position=waits.min_position,
            operation=operation,
            timeout_s=waits.wait_s,
        )
        if not reached:
            raise NotVisibleYet("the books have not come so far yet")


def books_router(*, connect: Connect, authorize: Authorize) -> APIRouter:
    """Make the routes. `connect` lends a connection for a request; `authorize` proves that
    the caller has a scope and returns the book (raises NotPermitted otherwise).
    """
    reader = BooksReader(connect, authorize)
    router = APIRouter(prefix="/v1", tags=["books"], dependencies=STRICT)
    _add_sheets(router, reader)
    _add_journal(router, reader)
    _add_open_items(router, reader)
    _add_state(router, reader)
    return router


def _add_sheets(router: APIRouter, reader: BooksReader) -> None:
    @router.get("/trial-balance", responses=gives(TrialBalance))
    def trial_balance(
        request: Request,
        waits: Waits,
        at: Annotated[dt.date | None, Query(description="Last accounting date.")] = None,
        from_date: From = None,
        level: Annotated[int | None, Query(ge=1, le=9, description="Depth shown.")] = None,
    ) -> Response:
        """Debit and credit totals and balances of every subject, with totals that tie."""
        return reader.answer(
            request,
            waits,
            lambda conn, book: select_trial_balance(
                conn, book, from_date=_text(from_date), at_date=_text(at), level=level
            ),
        )

    @router.get("/gl-balances", responses=gives(list[GlDay]))
    def gl_balances(
        request: Request, waits: Waits, subject: Word = None, from_date: From = None, to: To = None
    ) -> Response:
        """Movements per subject, currency and accounting date."""
        return reader.answer(
            request,
            waits,
            lambda conn, book: select_gl_days(
                conn, book, subject=subject, from_date=_text(from_date), to_date=_text(to)
            ),
        )

    @router.get("/accounts/{number}/days", responses=gives(Page[AccountDay]))
    def account_days(
        request: Request,
        waits: Waits,
        number: Annotated[str, Path(max_length=64)],
        from_date: From = None,
        to: To = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """A ledger account's movements and closing balance per business date, its stripes in it."""
        return reader.answer(
            request,
            waits,
            lambda conn, book: select_account_days(
                conn,
                book,
                number,
                from_date=_text(from_date),
                to_date=_text(to),
                cursor=cursor,
                limit=limit,
            ),
        )


def _add_journal(router: APIRouter, reader: BooksReader) -> None:
    @router.get("/vouchers", responses=gives(Page[JournalVoucher]))
    def vouchers(
        request: Request,
        waits: Waits,
        operation: Word = None,
        business_type: Word = None,
        from_date: From = None,
        to: To = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """The journal by accounting date, or the vouchers of one operation."""

        def read(conn: Connection[Any], book: str) -> Page[JournalVoucher]:
            if operation is not None:
                return Page(tuple(select_vouchers_of(conn, book, operation)), None)
            return select_vouchers(
                conn,
                book,
                from_date=_text(from_date),
                to_date=_text(to),
                business_type=business_type,
                cursor=cursor,
                limit=limit,
            )

        return reader.answer(request, waits, read)

    @router.get("/vouchers/{voucher_id:path}", responses=gives(JournalVoucher))
    def voucher(
        request: Request, waits: Waits, voucher_id: Annotated[str, Path(max_length=300)]
    ) -> Response:
        """One voucher with its lines."""
        return reader.answer(request, waits, lambda conn, book: _own(conn, book, voucher_id))

    @router.get("/orders/{order_number:path}", responses=gives(Page[OrderedOperation]))
    def orders(
        request: Request,
        waits: Waits,
        order_number: Annotated[str, Path(max_length=128)],
        kind: Annotated[str | None, Query(pattern="^(trade|payment|channel)$")] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """The operations that carry a trade, payment or channel order number."""
        return reader.answer(
            request,
            waits,
            lambda conn, book: select_by_order(
                conn, book, order_number, kind=kind, cursor=cursor, limit=limit
            ),
        )


def _add_open_items(router: APIRouter, reader: BooksReader) -> None:
    @router.get("/parked", responses=gives(ParkedPage))
    def parked(
        request: Request,
        waits: Waits,
        wanted: Annotated[ParkedFilter, Depends(parked_filter)],
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """Parked and waiting operations, oldest first, with age; counts and amounts per reason."""

        def read(conn: Connection[Any], book: str) -> ParkedPage:
            now = dt.datetime.now(dt.UTC)
            page = select_parked(conn, book, wanted, now=now, cursor=cursor, limit=limit)
            counts = count_parked(conn, book, wanted, now=now)
            return ParkedPage(tuple(counts), page.items, page.next_cursor)

        return reader.answer(request, waits, read)

    @router.get("/issues", responses=gives(Page[OpenIssue]))
    def issues(
        request: Request, waits: Waits, cursor: Cursor = None, limit: Limit = 100
    ) -> Response:
        """Money that could not be placed as intended."""
        return reader.answer(
            request,
            waits,
            lambda conn, book: select_issues(conn, book, cursor=cursor, limit=limit),
        )


def _add_state(router: APIRouter, reader: BooksReader) -> None:
    @router.get("/identity", responses=gives(Identity))
    def identity(request: Request, waits: Waits) -> Response:
        """Booked = vouchered + parked + waiting + non-posting, per currency."""
        return reader.answer(request, waits, select_identity)

    @router.get("/positions", responses=gives(list[LanePosition]))
    def positions(request: Request, waits: Waits) -> Response:
        """How far each lane has come."""
        return reader.answer(
            request,
            waits,
            lambda conn, _: [_lane(lane) for lane in select_lanes(conn)],
        )

    @router.get("/sweeps", responses=gives(Page[Sweep]))
    def sweeps(
        request: Request, waits: Waits, cursor: Cursor = None, limit: Limit = 100
    ) -> Response:
        """The completeness sweeps, the last one first: what was compared, found and healed."""
        return reader.answer(
            request,
            waits,
            lambda conn, book: select_sweeps(conn, book, cursor=cursor, limit=limit),
        )

    @router.get("/rulesets", responses=gives(list[Publication]))
    def rulesets(request: Request, waits: Waits) -> Response:
        """The rulesets that were published for the book."""
        return reader.answer(request, waits, select_publications)


def add_books_documents(document: dict[str, Any]) -> dict[str, Any]:
    """Put the schemas of these answers into an OpenAPI document."""
    wanted = [Fresh[kind] for kind in _ANSWERS]  # type: ignore[valid-type]
    _, components = msgspec.json.schema_components(wanted, ref_template=REF)
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    return document


_ANSWERS: list[Any] = []


def gives(kind: Any) -> dict[int | str, dict[str, Any]]:
    """Document that a route answers with this struct and its freshness."""
    if kind not in _ANSWERS:
        _ANSWERS.append(kind)
    (schema,), _ = msgspec.json.schema_components([Fresh[kind]], ref_template=REF)
    answer = {"description": "The answer with its freshness.", "content": _json(schema)}
    return {200: answer}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _text(date: dt.date | None) -> str | None:
    return None if date is None else date.isoformat()


def _own(conn: Connection[Any], book_id: str, voucher_id: str) -> JournalVoucher:
    """Read a voucher of the caller's book; `<source>/<ordinal>` alone is enough."""
    prefix = f"{book_id}/"
    full = voucher_id if voucher_id.startswith(prefix) else prefix + voucher_id
    return select_voucher(conn, full)


def _lane(lane: Lane) -> LanePosition:
    return LanePosition(lane.lane, lane.position, lane.incarnation, lane.moved_at, lane.stopped)
