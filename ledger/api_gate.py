"""The gate in front of every route: who calls, for which book, and what a failure looks like.

Invariant: every path but /health/… needs a key; every failure leaves as a problem document.
The hot routes (`POST /v1/operations` and its batch) are answered here without a router in
between; everything else, and the OpenAPI document, goes through FastAPI.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from psycopg import Connection
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ledger.api import Reply, problem_of, problem_reply
from ledger.api_bridge import EngineBridge, StoreBridge
from ledger.api_call import Call, ClientGone, Limits
from ledger.api_metrics import Metrics
from ledger.api_parse import Parser
from ledger.backlog import Backlog, BacklogGate
from ledger.books import Book
from ledger.errors import InvalidRequest, LedgerError
from ledger.principals import Keyring, Principal
from ledger.schema_state import SchemaState

_log = logging.getLogger(__name__)
OPEN_PATHS = ("/health/",)
BOOK_CHARS_MAX = 64


ReadBacklog = Callable[[Connection[Any], str | None], Backlog]  # of one book, or of the log
ReadSchema = Callable[[Connection[Any]], SchemaState]
OpenBookWithRules = Callable[[str, str, dt.date, str], Book]  # book id, name, date, principal


class Api(msgspec.Struct, frozen=True):
    """What a route needs: engine, database, parser, keys, bounds, metrics, backlog."""

    engine: EngineBridge
    store: StoreBridge
    parser: Parser
    keys: Keyring
    limits: Limits
    metrics: Metrics
    open_book: OpenBookWithRules
    default_book: str
    version: str
    gate: BacklogGate
    read_backlog: ReadBacklog
    read_schema: ReadSchema
    on_kafka: bool = False


Handler = Callable[[Api, Call], Awaitable[Reply]]


def book_of(api: Api, call: Call) -> str:
    """Return the book the call is about, which its key must be good for."""
    given = call.book_id
    book_id = api.default_book if given is None else _book_text(given)
    call.principal.require_book(book_id)
    return book_id


def _book_text(given: bytes) -> str:
    try:
        text = given.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not 1 <= len(text) <= BOOK_CHARS_MAX or not text.isprintable():
        raise InvalidRequest("Daybook-Book cannot name a book", code="invalid_parameter")
    return text


class DaybookApp(FastAPI):
    """FastAPI behind the gate. `api` is set by the lifespan, the others at composition.

    `draining`: the process has been asked to stop and takes work only until it is noticed.
    """

    api: Api | None = None
    draining: bool = False
    hot: Mapping[tuple[str, str], Handler] = MappingProxyType({})
    document: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document: FastAPI's, with the ledger's routes added."""
        if self.openapi_schema is None:
            schema = super().openapi()
            self.openapi_schema = schema if self.document is None else self.document(schema)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on the lifespan."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path: str = scope["path"]
        if path.startswith(OPEN_PATHS):
            await super().__call__(scope, receive, send)
            return
        api = self.api
        assert api is not None, "requests come after the lifespan has started"
        call = Call(scope, receive)
        try:
            principal = api.keys.remembered(call.authorization)
            if principal is None:
                principal = await api.keys.principal(call.authorization)
            call.principal = principal
            hot = self.hot.get((scope["method"], path))
            if hot is not None:
                await send_reply(await hot(api, call), send)
                return
        except LedgerError as error:
            await send_reply(problem_reply(problem_of(error)), send)
            return
        except ClientGone:
            return
        except Exception:  # noqa: BLE001 - a defect of ours is answered, and logged
            _log.exception("api: %s %s failed", scope["method"], path)
            await send_reply(defect_reply(), send)
            return
        scope["state"] = {**scope.get("state", {}), "principal": principal}
        await super().__call__(scope, receive, send)


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a reply as ASGI messages."""
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


class _Sent(Response):
    """A reply in FastAPI's terms."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(status_code=reply.status)
        self._reply = reply

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send_reply(self._reply, send)


def endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler as a FastAPI endpoint."""

    async def answer(request: Request) -> Response:
        app: Any = request.app
        call = Call(request.scope, request.receive)
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is not None:
            call.principal = principal
        try:
            return _Sent(await handler(app.api, call))
        except LedgerError as error:
            return _Sent(problem_reply(problem_of(error)))
        except ClientGone:
            return Response(status_code=400)

    return answer


async def refuse_http(request: Request, error: Exception) -> Response:
    """Turn the router's own refusals (404, 405, …) into problem documents."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    refusal = InvalidRequest(f"{request.method} {request.url.path}", code=code)
    if code != "method_not_allowed":
        return _Sent(problem_reply(problem_of(refusal)))
    allowed = (error.headers or {}).get("Allow", "")
    return _Sent(problem_reply(problem_of(refusal), (b"allow", _methods(request, allowed))))


def _methods(request: Request, allowed: str) -> bytes:
    path = request.url.path
    methods = set(allowed.split(", ")) if allowed else set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            methods |= route.methods or set()
    return ", ".join(sorted(methods)).encode()


async def refuse_parameters(_request: Request, error: Exception) -> Response:
    """Turn FastAPI's parameter errors into a problem document."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    where = [str(part) for part in first.get("loc", ())][1:]
    refusal = InvalidRequest(
        str(first.get("msg", "")), code="invalid_parameter", field=".".join(where) or None
    )
    return _Sent(problem_reply(problem_of(refusal)))


async def refuse_error(_request: Request, error: Exception) -> Response:
    """Turn a ledger error raised in another room's route into a problem document."""
    assert isinstance(error, LedgerError)
    return _Sent(problem_reply(problem_of(error)))


async def admit_defect(_request: Request, _error: Exception) -> Response:
    """Answer a defect as a problem document; the server's log has the traceback."""
    return _Sent(defect_reply())


def defect_reply() -> Reply:
    """Return what a caller hears of a defect: nothing but that it is one."""
    refusal = InvalidRequest("this is a defect; the server's log says where", code="internal_error")
    return problem_reply(problem_of(refusal))
