"""The HTTP application, wired: pool, engine, keys, routes. Read it top to bottom.

Invariant: the engine starts before the first request and, when the process stops, books what
it has accepted before its connection closes. Books, rules and keys are made by
`infra/first_start.py`, not here.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import psycopg
import uvicorn
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout
from starlette.exceptions import HTTPException

from accounting.decisions import DecisionRefused
from consumers.api import Caller, refuse_decision, repair_router
from consumers.api_documents import add_repair_documents
from consumers.api_periods import periods_router
from consumers.api_set_asides import set_asides_router
from infra.backlog_watch import BacklogWatch
from infra.connection_bounds import FILES_OWN, bounded_connections
from infra.connections import connect, connection_pool
from infra.decision_log import decision_log
from infra.first_start import open_book_with_rules
from infra.process_metrics import limits_of, metrics_port, process_registry, relay_topic
from infra.schema_check import SchemaCheck
from infra.settings import Settings, names_of
from infra.traces import tracing
from ledger.admission import Admission, AdmissionCollector, AdmissionLimits, returning_types
from ledger.api_bridge import EngineBridge, StoreBridge, TakesTickets
from ledger.api_call import Call, Limits
from ledger.api_docs import add_ledger_documents
from ledger.api_gate import (
    Api,
    DaybookApp,
    admit_defect,
    book_of,
    refuse_error,
    refuse_http,
    refuse_parameters,
)
from ledger.api_metrics import Metrics
from ledger.api_parse import Parser
from ledger.api_routes import HOT, add_ledger_routes
from ledger.audit_chain import SELECT_LOG
from ledger.backlog import Backlog, BacklogGate, held_back_types
from ledger.books import select_book
from ledger.business_types import BusinessTypes, load_business_types
from ledger.engine import Engine, EngineSettings
from ledger.errors import LedgerError, StoreUnavailable
from ledger.principals import Keyring, select_principal
from ledger.shared_engine import SharedEngine, SharingCollector
from projections.api import add_books_documents, books_router
from projections.backlog import select_backlog

TITLE = "Daybook"


def build_app(
    settings: Settings,
    database_url: str | None = None,
    *,
    reach: Callable[[str], None] | None = None,
    clock: Callable[[], dt.datetime] | None = None,
) -> DaybookApp:
    """Build the application; it opens nothing before its lifespan starts.

    `reach` is told each step of the engine and `clock` says the UTC time to it: tests of faults
    stop the process there, or set its clock.
    Raises ValueError without a database's address: `daybook serve` knows the embedded one's.
    """
    address = database_url or settings.database_url
    if address is None:
        raise ValueError("name the database: DAYBOOK_DATABASE_URL")

    start_engine = partial(_started_engine, settings, address, reach=reach, clock=clock)

    @asynccontextmanager
    async def lifespan(app: DaybookApp) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.api = await _open_api(settings, address, stack, start_engine)
            app.state.books = await _open_books_pool(settings, address, stack)
            app.state.known_books = set()
            yield

    app = DaybookApp(
        title=TITLE,
        version=version("daybook"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.hot = HOT
    app.document = lambda document: add_repair_documents(
        add_books_documents(add_ledger_documents(document))
    )
    app.add_exception_handler(LedgerError, refuse_error)
    app.add_exception_handler(DecisionRefused, refuse_decision)
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(RequestValidationError, refuse_parameters)
    app.add_exception_handler(Exception, admit_defect)
    add_ledger_routes(app)
    app.include_router(books_router(connect=lend_books_connection, authorize=book_for))
    for router_of in (repair_router, periods_router):
        router = router_of(
            connect=lend_books_connection,
            authorize=caller_for,
            open_decisions=lambda: decision_log(address),
        )
        app.include_router(router)
    on_kafka = settings.bus == "kafka"
    app.include_router(
        set_asides_router(
            connect=lend_books_connection,
            authorize=caller_for,
            open_decisions=lambda: decision_log(address),
            bootstrap=settings.kafka_bootstrap,
            topics=(settings.operations_topic, settings.results_topic) if on_kafka else (),
        )
    )
    return app


async def _open_books_pool(
    settings: Settings, url: str, stack: AsyncExitStack
) -> ConnectionPool[Connection[Any]]:
    """Open a pool of its own: reads that wait for the books never hold up the ledger's."""
    pool = connection_pool(url, settings, "daybook-books")
    pool.open()
    stack.push_async_callback(asyncio.to_thread, pool.close)
    return pool


def lend_books_connection(request: Request) -> AbstractContextManager[Connection[Any]]:
    """Lend a connection for one read of the books."""
    pool: ConnectionPool[Connection[Any]] = request.app.state.books
    return pool.connection()


def book_for(request: Request, scope: str) -> str:
    """Return the book a read of the books is about."""
    return caller_for(request, scope).book_id


def caller_for(request: Request, scope: str) -> Caller:
    """Return who asks about which book; the gate has found the principal."""
    call = Call(request.scope, request.receive)
    call.principal = request.state.principal
    call.principal.require(scope)
    book_id = book_of(request.app.api, call)
    _prove_book(request, book_id)
    return Caller(call.principal, book_id)


def _prove_book(request: Request, book_id: str) -> None:
    """Raise `NotFound` for a book nobody opened: its empty sheets would look right."""
    known: set[str] = request.app.state.known_books
    if book_id in known:
        return
    try:
        with lend_books_connection(request) as conn:
            select_book(conn, book_id)
    except (psycopg.Error, PoolTimeout) as error:
        raise StoreUnavailable(str(error).partition("\n")[0]) from error
    known.add(book_id)


def _started_engine(
    settings: Settings,
    url: str,
    types: BusinessTypes,
    *,
    reach: Callable[[str], None] | None,
    clock: Callable[[], dt.datetime] | None,
) -> Engine:
    return Engine(
        lambda: connect(url, settings, "daybook-engine"),
        types,
        EngineSettings(
            batch_size_max=settings.batch_size_max,
            queue_size_max=settings.queue_size_max,
            clock_jump_s_max=settings.clock_jump_s_max,
            sweep_interval_s=settings.hold_sweep_s,
        ),
        reach=reach,
        clock=clock,
    ).start()


async def _open_api(
    settings: Settings,
    url: str,
    stack: AsyncExitStack,
    start_engine: Callable[[BusinessTypes], Engine],
) -> Api:
    stack.enter_context(tracing(settings, "api"))
    pool = connection_pool(url, settings, "daybook-api")
    pool.open()
    stack.push_async_callback(asyncio.to_thread, pool.close)
    store = StoreBridge(pool, settings.pool_size_max)
    stack.callback(store.close)
    types = load_business_types()
    engine = start_engine(types)
    stack.push_async_callback(asyncio.to_thread, engine.stop, settings.drain_timeout_s)
    admission = Admission(admission_limits(settings), returning_types(types), time.monotonic)
    registry = process_registry()
    shared = _shared(settings, url, engine, registry, stack)
    bridge = EngineBridge(shared, admission, patience_s=settings.request_timeout_s)
    bridge.start()
    stack.callback(bridge.close)
    gate = _open_gate(settings, url, stack)
    registry.register(AdmissionCollector(admission))
    stack.enter_context(metrics_port(settings, registry))

    def read_backlog(conn: Connection[Any], book_id: str | None) -> Backlog:
        now = dt.datetime.now(dt.UTC)
        return select_backlog(conn, now, book_id=book_id, topic=relay_topic(settings))

    def backlog_or_none() -> Backlog | None:
        try:
            with pool.connection() as conn:
                return read_backlog(conn, None)
        except (psycopg.Error, PoolTimeout, LedgerError):
            return None  # the metrics say so: daybook_backlog_readable is 0

    return Api(
        engine=bridge,
        store=store,
        parser=Parser(types, settings.operation_bytes_max),
        keys=Keyring(lambda hashed: store.call(select_principal, hashed)),
        limits=Limits(
            settings.body_bytes_max,
            settings.operations_per_request_max,
            settings.reading_timeout_s,
        ),
        metrics=Metrics(
            lambda: engine.queued,
            lambda: engine.stopped_by is None,
            gate,
            backlog_or_none,
            registry,
        ),
        open_book=lambda book_id, name, date, principal: open_book_with_rules(
            url, book_id, name, date, principal=principal
        ),
        default_book=settings.book,
        version=version("daybook"),
        gate=gate,
        read_backlog=read_backlog,
        read_schema=SchemaCheck().state,
        on_kafka=settings.bus == "kafka",
    )


def _shared(
    settings: Settings,
    url: str,
    engine: Engine,
    registry: CollectorRegistry,
    stack: AsyncExitStack,
) -> TakesTickets:
    """Return the engine, shared with the other processes where one command starts several."""
    if settings.processes == 1:
        return engine
    shared = SharedEngine(engine, settings.home / "run", lambda: _log_at(settings, url))
    shared.start()
    stack.push_async_callback(shared.stop, settings.drain_timeout_s)
    registry.register(SharingCollector(shared))
    return shared


def _log_at(settings: Settings, url: str) -> str:
    """Say which log is booked, where, and by which release. Raises OSError without a database."""
    try:
        with connect(url, settings, "daybook-engine") as conn:
            log = conn.execute(SELECT_LOG).fetchone()
    except psycopg.Error as error:
        raise OSError(str(error).strip()) from error
    return hashlib.sha256(repr((url, log, version("daybook"))).encode()).hexdigest()[:32]


def admission_limits(settings: Settings) -> AdmissionLimits:
    """Return when the API pushes back."""
    return AdmissionLimits(settings.queue_wait_ms_max / 1_000, settings.queue_requests_free)


def _open_gate(settings: Settings, url: str, stack: AsyncExitStack) -> BacklogGate:
    """Start looking at the backlog; the settings have refused a type that cannot be held back."""
    held_back = held_back_types(load_business_types(), names_of(settings.backlog_types))
    gate = BacklogGate(limits_of(settings), held_back)
    watch = BacklogWatch(
        gate, lambda: connect(url, settings, "daybook-backlog"), look_s=settings.backlog_look_s
    )
    watch.start()
    stack.push_async_callback(asyncio.to_thread, watch.stop)
    return gate


def uvicorn_config(settings: Settings, app: DaybookApp) -> uvicorn.Config:
    """Return how uvicorn serves the application, on its own address or sockets it is given."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=bounded_connections(
            app, settings.reading_timeout_s, FILES_OWN + 2 * settings.pool_size_max
        ),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,  # infra/logs.py has configured the loggers of this process
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.drain_timeout_s) + 1,
    )
