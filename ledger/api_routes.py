"""The ledger's routes in one table: method, path, handler, and what the documents say of it.

Invariant: a route is listed here or it does not exist; the OpenAPI document is made from
this table.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Response

from ledger import api_accounts, api_books, api_health, api_operations
from ledger import operation as op
from ledger.api_gate import Handler, endpoint
from ledger.books import Book
from ledger.reads import FILTERS, AccountPage, AccountState, FreezePage, HoldPage
from ledger.stream_reads import EventPage, OperationState


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route. `takes`, `gives`: types of its bodies; `refuses`: statuses of its problems."""

    method: str
    path: str
    handler: Handler
    name: str
    summary: str
    scope: str | None
    takes: Any = None
    lines: bool = False
    gives: Any
    status: int = 200
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ("Daybook-Book",)
    refuses: tuple[int, ...] = ()


READ = (400, 401, 403, 404, 503)
POST = (400, 401, 403, 404, 408, 409, 413, 415, 422, 503)
BATCH = (400, 401, 403, 404, 408, 413, 415, 503)
FILTERED = ("cursor", "limit", *FILTERS)

ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/books",
        handler=api_books.create_book,
        name="open_book",
        summary="Open a book",
        scope="admin",
        takes=api_books.OpenBook,
        gives=Book,
        status=201,
        headers=(),
        refuses=(400, 401, 403, 408, 413, 415, 503),
    ),
    Route(
        method="GET",
        path="/v1/books",
        handler=api_books.list_books,
        name="list_books",
        summary="List the books",
        scope="read",
        gives=api_books.BookPage,
        headers=(),
        refuses=(400, 401, 403, 503),
    ),
    Route(
        method="GET",
        path="/v1/books/{book_id}",
        handler=api_books.get_book,
        name="get_book",
        summary="A book and its open business date",
        scope="read",
        gives=Book,
        headers=(),
        refuses=READ,
    ),
    Route(
        method="POST",
        path="/v1/books/{book_id}/day",
        handler=api_books.create_day,
        name="open_day",
        summary="Move the open business date forward",
        scope="day",
        takes=api_books.OpenDay,
        gives=Book,
        headers=(),
        refuses=(400, 401, 403, 404, 408, 409, 413, 415, 503),
    ),
    Route(
        method="POST",
        path="/v1/accounts",
        handler=api_accounts.open_account,
        name="open_account",
        summary="Open an account",
        scope="accounts",
        takes=op.OpenAccount,
        gives=op.Answer,
        status=201,
        query=("dry_run",),
        headers=("Idempotency-Key", "Daybook-Book"),
        refuses=POST,
    ),
    Route(
        method="POST",
        path="/v1/accounts:batch",
        handler=api_accounts.open_accounts,
        name="open_accounts",
        summary="Open many accounts, one result per line",
        scope="accounts",
        takes=op.OpenAccount,
        lines=True,
        gives=op.Answer,
        query=("atomic", "dry_run"),
        refuses=BATCH,
    ),
    Route(
        method="GET",
        path="/v1/accounts",
        handler=api_accounts.list_accounts,
        name="list_accounts",
        summary="List accounts by number",
        scope="read",
        gives=AccountPage,
        query=FILTERED,
        refuses=(400, 401, 403, 503),
    ),
    Route(
        method="POST",
        path="/v1/operations",
        handler=api_operations.post_operation,
        name="post_operation",
        summary="Book an operation: all its legs or none",
        scope="post",
        takes=op.Operation,
        gives=op.Answer,
        status=201,
        query=("dry_run",),
        headers=("Idempotency-Key", "Daybook-Book"),
        refuses=POST,
    ),
    Route(
        method="POST",
        path="/v1/operations:batch",
        handler=api_operations.post_operations,
        name="post_operations",
        summary="Book many operations, one result per line",
        scope="post",
        takes=op.Operation,
        lines=True,
        gives=op.Answer,
        query=("atomic", "dry_run"),
        refuses=BATCH,
    ),
    Route(
        method="GET",
        path="/v1/operations/{operation_id:path}",
        handler=api_operations.get_operation,
        name="get_operation",
        summary="An operation's record and its accounting status now",
        scope="read",
        gives=OperationState,
        refuses=READ,
    ),
    Route(
        method="POST",
        path="/v1/accounts/{number}/commands",
        handler=api_accounts.change_account,
        name="change_account",
        summary="Change an account's standing: close, freeze, limits, …",
        scope="accounts",
        takes=op.Change,
        gives=op.Answer,
        query=("dry_run",),
        headers=("Idempotency-Key", "Daybook-Book", "If-Match"),
        refuses=(*POST, 412),
    ),
    Route(
        method="GET",
        path="/v1/accounts/{number}/events",
        handler=api_accounts.get_events,
        name="list_account_events",
        summary="An account's events by version; with stripes, of all parts by position",
        scope="read",
        gives=EventPage,
        query=("cursor", "limit"),
        refuses=READ,
    ),
    Route(
        method="GET",
        path="/v1/accounts/{number}/register",
        handler=api_accounts.get_register,
        name="list_account_register",
        summary="Who changed an account's standing: when, why, by which order",
        scope="read",
        gives=EventPage,
        query=("cursor", "limit"),
        refuses=READ,
    ),
    Route(
        method="GET",
        path="/v1/accounts/{number}/holds",
        handler=api_accounts.get_holds,
        name="list_account_holds",
        summary="An account's open holds",
        scope="read",
        gives=HoldPage,
        refuses=READ,
    ),
    Route(
        method="GET",
        path="/v1/accounts/{number}/freezes",
        handler=api_accounts.get_freezes,
        name="list_account_freezes",
        summary="The freezes in force on an account",
        scope="read",
        gives=FreezePage,
        refuses=READ,
    ),
    Route(
        method="GET",
        path="/v1/accounts/{number}",
        handler=api_accounts.get_account,
        name="get_account",
        summary="An account with its balances, rolled up over its tree",
        scope="read",
        gives=AccountState,
        refuses=READ,
    ),
    Route(
        method="GET",
        path="/v1/status",
        handler=api_books.get_status,
        name="get_status",
        summary="Where the ledger stands, and how far accounting is behind",
        scope="read",
        gives=api_books.Status,
        refuses=READ,
    ),
    Route(
        method="GET",
        path="/health/live",
        handler=api_health.get_liveness,
        name="get_liveness",
        summary="The process turns",
        scope=None,
        gives=api_health.Liveness,
        headers=(),
    ),
    Route(
        method="GET",
        path="/health/ready",
        handler=api_health.get_readiness,
        name="get_readiness",
        summary="Whether operations would be booked now",
        scope=None,
        gives=api_health.Readiness,
        headers=(),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=api_health.get_metrics,
        name="get_metrics",
        summary="Metrics in Prometheus' text format",
        scope="read",
        gives=None,
        headers=(),
        refuses=(401, 403),
    ),
)

HOT: dict[tuple[str, str], Handler] = {
    (route.method, route.path): route.handler
    for route in ROUTES
    if route.name in ("post_operation", "post_operations")
}


def add_ledger_routes(app: FastAPI) -> None:
    """Add the routes to FastAPI; their documents are made by `api_docs`."""
    for route in ROUTES:
        app.add_api_route(
            route.path,
            endpoint(route.handler),
            methods=[route.method],
            name=route.name,
            response_class=Response,
            include_in_schema=False,
        )
