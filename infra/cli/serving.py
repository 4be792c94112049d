"""Commands that run processes: serve, and for production api, consume, relay, results.

Invariant: each of them ends by itself on SIGTERM, after finishing what it has accepted.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from consumers.consumer import Counts
from consumers.loop import ConsumerSettings, run_consumer
from consumers.results import ResultsCounts, run_results
from infra.cli.console import say
from infra.cli.context import settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.first_start import Started
from infra.logs import set_up_logs
from infra.process_metrics import metrics_of
from infra.relay import RelayCounts, RelaySettings, run_relay
from infra.schema_check import refuse_schema, require_schema
from infra.serve import serve
from infra.settings import Settings, with_overrides
from infra.supervisor import end_with_parent
from infra.traces import tracing
from ledger.priority import BOOKS, after_postings

PARENT = typer.Option(hidden=True)
ParentPid = Annotated[int | None, PARENT]
MetricsPort = Annotated[
    int | None, typer.Option(min=0, max=65_535, help="DAYBOOK_METRICS_PORT; 0: none.")
]


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.command("serve")(serve_command)
    app.command("api")(api_command)
    app.command("consume")(consume_command)
    app.command("relay")(relay_command)
    app.command("results")(results_command)


def serve_command(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    processes: Annotated[int | None, typer.Option(help="API processes.")] = None,
    bus: Annotated[str | None, typer.Option(help="log (embedded) or kafka.")] = None,
    open_date: Annotated[
        dt.datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="First business date, used only when the first book is opened. Default: today.",
        ),
    ] = None,
    parent_pid: ParentPid = None,
) -> None:
    """Run everything until Ctrl-C or SIGTERM: database, API, relay, consumers.

    The first start makes the database, a book with the shipped posting rules, and this machine's
    API key (in HOME/local.key).

    \b
    Examples:
      daybook serve
      daybook serve --port 9000 --processes 2
      DAYBOOK_DATABASE_URL=postgresql://… daybook serve --bus kafka
    """
    if parent_pid is not None:
        end_with_parent(parent_pid)
    settings = with_overrides(
        settings_in_use(ctx), host=host, port=port, processes=processes, bus=bus
    )

    def on_ready(started: Started) -> None:
        say(f"Daybook serves on http://{settings.host}:{settings.port}")
        say(f"  key   {settings.key_path}")
        for book in started.books:
            say(f"  book  {book.book_id} ({book.name}), open day {book.open_business_date}")
        say("  stop  Ctrl-C")

    date = dt.datetime.now(dt.UTC).date() if open_date is None else open_date.date()
    serve(settings, open_date=date, say=say, on_ready=on_ready)


def api_command(
    ctx: typer.Context,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    metrics_port: MetricsPort = None,
    parent_pid: ParentPid = None,
) -> None:
    """Run one API process (production: as many as wanted behind a balancer).

    Needs a migrated database: DAYBOOK_DATABASE_URL, `daybook migrate`.

    \b
    Example:
      DAYBOOK_DATABASE_URL=postgresql://… daybook api
    """
    # Only this command needs the HTTP application; every other process starts without it.
    from infra.connection_bounds import allow_connections
    from infra.draining import DrainingServer

    settings = begin(ctx, parent_pid, metrics_port=metrics_port)
    refuse_schema(_database_url(settings))
    allow_connections()
    server = DrainingServer(settings)
    exit_on_signals()
    if fd is None:
        server.run()
    else:
        server.run(sockets=[socket.socket(fileno=fd)])
    if not server.started:
        raise typer.Exit(ExitCode.UNAVAILABLE)


def consume_command(
    ctx: typer.Context, metrics_port: MetricsPort = None, parent_pid: ParentPid = None
) -> None:
    """Run one consumer: operations become vouchers and balances.

    On the log bus one consumer works at a time; on Kafka as many as there are partitions.

    \b
    Example:
      DAYBOOK_DATABASE_URL=postgresql://… DAYBOOK_BUS=kafka daybook consume
    """
    settings = begin(ctx, parent_pid, metrics_port=metrics_port)
    counts = Counts()
    with after_postings(BOOKS), working(settings, "consumer", counts) as (url, stop):
        run_consumer(
            ConsumerSettings(
                database_url=url,
                bus=settings.bus,
                bootstrap=settings.kafka_bootstrap,
                operations_topic=settings.operations_topic,
                results_topic=settings.results_topic,
                group=settings.consumer_group,
                operations_max=settings.consumer_poll_operations,
                pause_s=settings.poll_pause_s,
                retry_pause_s_max=settings.retry_pause_s_max,
                silence_s=settings.silence_s,
            ),
            stop,
            counts=counts,
        )


def relay_command(
    ctx: typer.Context, metrics_port: MetricsPort = None, parent_pid: ParentPid = None
) -> None:
    """Run the relay: the log's operations and decisions go to Kafka. One is active at a time.

    \b
    Example:
      DAYBOOK_DATABASE_URL=postgresql://… DAYBOOK_KAFKA_BOOTSTRAP=k:9092 daybook relay
    """
    settings = begin(ctx, parent_pid, metrics_port=metrics_port)
    counts = RelayCounts()
    with working(settings, "relay", counts) as (url, stop):
        run_relay(
            RelaySettings(
                database_url=url,
                bootstrap=settings.kafka_bootstrap,
                topic=settings.operations_topic,
                results_topic=settings.results_topic,
                partitions=settings.kafka_partitions,
                replication=settings.kafka_replication,
                rows_max=settings.relay_poll_rows,
                pause_s=settings.poll_pause_s,
                retry_pause_s_max=settings.retry_pause_s_max,
                silence_s=settings.silence_s,
            ),
            stop,
            counts=counts,
        )


def results_command(
    ctx: typer.Context, metrics_port: MetricsPort = None, parent_pid: ParentPid = None
) -> None:
    """Run the results consumer: accounting statuses go from Kafka back to the ledger.

    \b
    Example:
      DAYBOOK_DATABASE_URL=postgresql://… DAYBOOK_KAFKA_BOOTSTRAP=k:9092 daybook results
    """
    settings = begin(ctx, parent_pid, metrics_port=metrics_port)
    counts = ResultsCounts()
    with working(settings, "results", counts) as (url, stop):
        run_results(
            url,
            settings.kafka_bootstrap,
            topic=settings.results_topic,
            group=f"{settings.consumer_group}.results",
            silence_s=settings.silence_s,
            stop=stop,
            counts=counts,
        )


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM or SIGINT sets."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


def exit_on_signals() -> None:
    """Let SIGTERM and SIGINT end this process with code 0; uvicorn drains, then raises them."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: sys.exit(ExitCode.OK))


def begin(ctx: typer.Context, parent_pid: int | None, **overrides: object) -> Settings:
    """Set up what every long-running process needs; return its settings."""
    if parent_pid is not None:
        end_with_parent(parent_pid)
    settings = with_overrides(settings_in_use(ctx), **overrides)
    set_up_logs(settings)
    return settings


@contextlib.contextmanager
def working(
    settings: Settings, part: str, counts: msgspec.Struct
) -> Iterator[tuple[str, threading.Event]]:
    """Give a process its database, checked, and its end; its metrics are served meanwhile."""
    url = _database_url(settings)
    stop = stop_on_signals()
    with tracing(settings, part), metrics_of(settings, url, part, counts):
        require_schema(settings, url, stop)
        yield url, stop


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        msg = "name the database: DAYBOOK_DATABASE_URL (or run everything with `daybook serve`)"
        raise typer.BadParameter(msg)
    return settings.database_url
