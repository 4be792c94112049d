"""Where the benchmarks run: one PostgreSQL server of their own, a fresh database for each subject.

Invariant: every database of a run is a copy of one template (schema, one book, 10,000 funded
accounts, made by the engine), so that subject and baseline start from the same bytes on the
same server; what was made is removed at the end.
"""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bench.documents import CURRENCY, FUNDING_MINOR, account_number, batches
from bench.scale import ACCOUNTS, Scale
from bench.sheet import Sheet
from consumers.loop import ConsumerSettings, run_consumer
from infra.first_start import open_book_with_rules
from infra.postgres import embedded_postgres, migrate
from ledger.api_parse import Parser
from ledger.business_types import load_business_types
from ledger.engine import Engine, EngineSettings
from ledger.job import Job
from ledger.operation import OPERATION_BYTES_MAX, Answer, Result, Submission
from ledger.principals import SCOPES, Principal, create_key
from projections.positions import select_head, select_visible
from projections.tables import connect_to

BOOK = "main"
PRINCIPAL = Principal("bench", frozenset(SCOPES))
OPEN_DATE = dt.date(2026, 1, 1)
SUBJECT = "2001.01"
TEMPLATE = "bench_template"
SETUP_BATCH = 1_000
END_WAL_FILE = "SELECT pg_logical_emit_message(false, 'bench', 'in this file'), pg_switch_wal()"
KEPT_WAL_FILES = """
    SELECT pg_size_bytes(current_setting('min_wal_size'))
           / pg_size_bytes(current_setting('wal_segment_size'))
"""
CATCH_UP_S = 120.0


class Place:
    """The server, the folder beside it, the databases on it; `key` opens the API of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir=_made(folder)))
        self._server = embedded_postgres(self.folder / "postgres")
        self._names = 0
        self._caught_up = ""
        self.key = ""

    def __enter__(self) -> Self:
        self._server.start()
        self._make_template()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """A database of the server that no benchmark uses."""
        return self._server.url_of("postgres")

    def make_wal_files(self) -> int:
        """Let the server have all WAL files that it keeps; return how many.

        One that has run for a day writes over old files. A fresh one makes each as it comes to it,
        and whoever posts then waits: at half of the maximum that doubles the p99.
        """
        with psycopg.connect(self.url, autocommit=True) as conn:
            files = scalar(conn, KEPT_WAL_FILES)
            for _ in range(files):
                conn.execute(END_WAL_FILE)
            conn.execute("CHECKPOINT")
            return scalar(conn, "SELECT count(*) FROM pg_ls_waldir()")

    def database(self, purpose: str) -> str:
        """Return the URL of a fresh copy of the template."""
        return self._create(purpose, TEMPLATE)

    def caught_up_database(self, purpose: str) -> str:
        """Return the URL of a copy whose books have followed the log to its end."""
        if not self._caught_up:
            url = self._create("caught_up", TEMPLATE)
            catch_up(url)
            self._caught_up = str(conninfo_to_dict(url)["dbname"])
        return self._create(purpose, self._caught_up)

    def bare_database(self, purpose: str) -> str:
        """Return the URL of an empty database, for what others do."""
        return self._create(purpose, "template0")

    def migrated_database(self, purpose: str) -> str:
        """Return the URL of a database with the schema and nothing in it."""
        url = self._create(purpose, "template0")
        migrate(url)
        return url

    def _create(self, purpose: str, template: str) -> str:
        self._names += 1
        name = f"bench_{self._names}_{purpose}"
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return self._server.url_of(name)

    def _make_template(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {TEMPLATE}")
        url = self._server.url_of(TEMPLATE)
        migrate(url)
        open_funded_accounts(url)
        with psycopg.connect(url, autocommit=True) as conn:
            self.key = create_key(conn, PRINCIPAL.name, SCOPES)
            conn.execute("VACUUM (ANALYZE)")


@dataclass
class Run:
    """What every benchmark is given."""

    place: Place
    scale: Scale
    sheet: Sheet


@contextmanager
def engine_on(url: str, batch_size_max: int = 8_000) -> Iterator[Engine]:
    """A started engine of the product on a database."""
    engine = Engine(
        lambda: psycopg.connect(url, autocommit=True),
        load_business_types(),
        EngineSettings(batch_size_max=batch_size_max),
    ).start()
    try:
        yield engine
    finally:
        engine.stop()


def catch_up(url: str) -> None:
    """Let a consumer of the product post everything that the log holds."""
    stop = threading.Event()
    consumer = threading.Thread(
        target=run_consumer, args=(ConsumerSettings(database_url=url), stop), daemon=True
    )
    with connect_to(url) as watcher:
        head = select_head(watcher)
        consumer.start()
        deadline = time.monotonic() + CATCH_UP_S
        while select_visible(watcher) < head:
            if time.monotonic() > deadline:
                raise RuntimeError("the books did not follow the log")
            time.sleep(0.05)
    stop.set()
    consumer.join()


def parser() -> Parser:
    """The product's parser, as the API uses it."""
    return Parser(load_business_types(), OPERATION_BYTES_MAX)


def open_funded_accounts(url: str) -> None:
    """Open the book with the shipped rules, its accounts, and give each its opening balance."""
    open_book_with_rules(url, BOOK, "Benchmarks", OPEN_DATE, principal=PRINCIPAL.name)
    reads = parser()
    numbers = [account_number(index) for index in range(ACCOUNTS)]
    with engine_on(url) as engine:
        for part in batches([_opening(number) for number in numbers], SETUP_BATCH):
            post(engine, [reads.open_account(raw, None, BOOK, PRINCIPAL) for raw in part])
        for part in batches([_funding(number) for number in numbers], SETUP_BATCH):
            post(engine, [reads.operation(raw, None, BOOK, PRINCIPAL) for raw in part])


def post(engine: Engine, submissions: Sequence[Submission]) -> None:
    """Post a job, all of which must be booked."""
    check_booked(engine.post(Job(book_id=BOOK, submissions=tuple(submissions))))


def check_booked(results: Sequence[Result]) -> None:
    """Raise unless all of a job was booked: a figure of refusals would mean nothing."""
    for result in results:
        if not isinstance(result, Answer) or result.status != "booked":
            raise RuntimeError(f"a benchmark posts what can be booked, but: {result}")


def scalar(conn: psycopg.Connection[Any], statement: str, *parameters: object) -> int:
    """Return the one integer that a query gives; 0 for NULL."""
    row = conn.execute(statement.encode(), parameters).fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


def _opening(number: str) -> bytes:
    return (
        f'{{"operation_id":"open-{number}","account":"{number}","owner":"owner of {number}",'
        f'"type":"customer","subject":"{SUBJECT}","currency":"{CURRENCY}"}}'
    ).encode()


def _funding(number: str) -> bytes:
    return (
        f'{{"operation_id":"fund-{number}","business_type":"opening_balance","legs":'
        f'[{{"kind":"credit","account":"{number}","amount":{FUNDING_MINOR},'
        f'"currency":"{CURRENCY}"}}]}}'
    ).encode()
