"""How fast the books follow: vouchers a second on the log bus and on Kafka, and how late they are.

In every round operations are posted over HTTP by 32 callers while nobody consumes; then they are
drained. So the rate of drainage stands beside the rate of the very postings it has to follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import psycopg

from bench.books_ceiling import copy_commits, select_book_commits
from bench.documents import Documents
from bench.http_single import POSTINGS
from bench.load import Plan, Report, post_load
from bench.place import BOOK, Run
from bench.processes import Child, api_server, child
from bench.sheet import Aim
from infra.kafka import BrokerUnavailable, KafkaBroker, free_port
from infra.settings import load_settings
from projections.positions import select_head, select_visible
from projections.tables import connect_to

BOOKS = "Books: draining what 32 callers posted (recharge with a fee, four lines each)"
RATE, POSTED, RATIO = "vouchers/s", "posted/s by HTTP", "ratio to HTTP"
CEILING, OF_CEILING = "COPY of its rows/s", "ratio to COPY"
CPU, MEMORY = "consumer CPU %", "consumer MiB"
CALLERS = 32
LOOK_S = 0.004
PATIENCE_S = 180.0
SELECT_RELAY = "SELECT epoch, position FROM ledger.relays"


class Drain:
    """The clock of one drainage, started now."""

    def __init__(self, consumer: Child) -> None:
        self._consumer = consumer
        self._cpu_s = consumer.cpu_s
        self._started = time.perf_counter()

    def figures(self, operations: float) -> tuple[float, dict[str, float]]:
        """Stop the clock; return the seconds, and how fast the operations became vouchers."""
        seconds = time.perf_counter() - self._started
        return seconds, {
            RATE: operations / seconds,
            CPU: (self._consumer.cpu_s - self._cpu_s) / seconds * 100,
            MEMORY: self._consumer.memory_mib,
        }

    def add_to(
        self,
        run: Run,
        subject: str,
        operations: float,
        posted: Report,
        ceiling_per_s: Callable[[], float] | None = None,
    ) -> None:
        """Stop the clock; write the rate down beside that of the postings, and the ceiling's."""
        _, figures = self.figures(operations)
        figures |= {POSTED: posted.per_s, RATIO: figures[RATE] / posted.per_s}
        if ceiling_per_s is not None:
            ceiling = ceiling_per_s()
            figures |= {CEILING: ceiling, OF_CEILING: figures[RATE] / ceiling}
        run.sheet.add(BOOKS, subject, figures)


def run_on_log(run: Run) -> None:
    """Drain over the log bus: one consumer process, started when everything is posted."""
    place, subject = run.place, "log bus, one consumer"
    url, equal_url = (place.caught_up_database(name) for name in ("log_bus", "log_bus_copy"))
    with (
        api_server(url, place.folder) as (api_url, _),
        connect_to(url) as watcher,
        connect_to(equal_url) as equal,
    ):

        def ceiling_per_s(after: int) -> float:
            seconds = copy_commits(equal, select_book_commits(watcher, after))
            return run.scale.drain_operations / seconds

        for number in range(run.scale.rounds):
            before = select_visible(watcher)
            posted = _post(run, api_url, number)
            head = select_head(watcher)
            with daybook_process(run, "consumer", "consume", url, {}) as consumer:
                wait_until_visible(watcher, before + 1)
                drain = Drain(consumer)
                left = head - select_visible(watcher)
                wait_until_visible(watcher, head)
                operations = run.scale.drain_operations * left / (head - before)
                drain.add_to(run, subject, operations, posted, partial(ceiling_per_s, before))
    _aim(run, subject)
    run.sheet.aim(Aim(f"books, {subject}: ratio to COPY", BOOKS, subject, OF_CEILING, at_least=0.5))
    run.sheet.note(BOOKS, "Log bus: from the consumer's first commit to its last.")


def run_on_kafka(run: Run) -> None:
    """Drain over a real broker: the relay starts when everything is posted, consumers wait."""
    settings = load_settings()
    broker = KafkaBroker(
        run.place.folder / "kafka",
        free_port(),
        engines=("java", "docker"),
        jars=settings.kafka_dir.absolute() / "libs",
        image=settings.kafka_image,
    )
    try:
        broker.start()
    except BrokerUnavailable as error:
        run.sheet.note(BOOKS, f"Kafka skipped: {error}")
        return
    try:
        for consumers in (1, 2) if run.scale.name == "full" else (1,):
            _drain_kafka(run, broker.bootstrap, consumers)
    finally:
        broker.stop()
    run.sheet.note(
        BOOKS,
        "Kafka: from the relay's taking over to the last commit; relay, broker, consumers and "
        "PostgreSQL share the processors.",
    )


def _drain_kafka(run: Run, bootstrap: str, consumers: int) -> None:
    place = run.place
    url = place.caught_up_database("kafka")
    subject = f"Kafka, relay and {'one consumer' if consumers == 1 else f'{consumers} consumers'}"
    environment = {
        "DAYBOOK_BUS": "kafka",
        "DAYBOOK_KAFKA_BOOTSTRAP": bootstrap,
        "DAYBOOK_OPERATIONS_TOPIC": f"bench.operations.{consumers}",
        "DAYBOOK_RESULTS_TOPIC": f"bench.results.{consumers}",
    }
    with ExitStack() as stack:
        api_url, _ = stack.enter_context(api_server(url, place.folder))
        watcher = stack.enter_context(connect_to(url))
        with daybook_process(run, "relay", "relay", url, environment):
            _wait(partial(_relay_is_through, watcher))
        children = [
            stack.enter_context(daybook_process(run, f"consumer-{n}", "consume", url, environment))
            for n in range(consumers)
        ]
        stack.enter_context(daybook_process(run, "results", "results", url, environment))
        wait_until_visible(watcher, select_head(watcher))
        for number in range(run.scale.rounds):
            posted = _post(run, api_url, 100 * consumers + number)
            epoch = _relay(watcher)[0]
            with daybook_process(run, "relay", "relay", url, environment):
                _wait(partial(_relay_is_beyond, watcher, epoch))
                drain = Drain(children[0])
                wait_until_visible(watcher, select_head(watcher))
                drain.add_to(run, subject, run.scale.drain_operations, posted)
    _aim(run, subject)


def _post(run: Run, api_url: str, seed: int) -> Report:
    bodies = Documents(seed=4_000 + seed).recharges_with_fee(run.scale.drain_operations)
    key = run.place.key
    return post_load(Plan(api_url, POSTINGS, key, BOOK, CALLERS, "application/json", bodies))


def daybook_process(
    run: Run, name: str, command: str, url: str, environment: Mapping[str, str]
) -> AbstractContextManager[Child]:
    """Run one of the product's long-running commands on a database."""
    return child(
        name,
        "infra",
        command,
        folder=run.place.folder,
        environment={
            "DAYBOOK_HOME": str(run.place.folder),
            "DAYBOOK_DATABASE_URL": url,
            "DAYBOOK_LOG_LEVEL": "warning",
            **environment,
        },
    )


def wait_until_visible(conn: psycopg.Connection[Any], position: int) -> None:
    _wait(lambda: select_visible(conn) >= position)


def _relay_is_through(conn: psycopg.Connection[Any]) -> bool:
    return _relay(conn)[1] >= select_head(conn)


def _relay_is_beyond(conn: psycopg.Connection[Any], epoch: int) -> bool:
    return _relay(conn)[0] > epoch


def _relay(conn: psycopg.Connection[Any]) -> tuple[int, int]:
    row = conn.execute(SELECT_RELAY).fetchone()
    return (row[0], row[1]) if row else (0, -1)


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the books did not follow within {PATIENCE_S:.0f} s")
        time.sleep(LOOK_S)


def _aim(run: Run, subject: str) -> None:
    run.sheet.aim(Aim(f"books, {subject}: ratio to HTTP", BOOKS, subject, RATIO, at_least=1.0))
