"""The production-like parts on a Docker engine: the oldest PostgreSQL, the broker's image, ours."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from testcontainers.community.postgres import PostgresContainer

from infra.kafka import KafkaBroker, ensure_topics, free_port
from infra.postgres import migrate
from infra.schema import read_migrations
from ledger.books import open_book
from ledger.business_types import load_business_types
from ledger.engine import Engine
from ledger.job import Job
from ledger.operation import Leg, OpenAccount, Operation, Submission, fingerprint_of
from tests.fix_docker import docker

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def container_url(postgres_image: str) -> Iterator[str]:
    with PostgresContainer(postgres_image, driver=None) as container:
        yield container.get_connection_url()


def submission(operation_id: str, body: Operation | OpenAccount) -> Submission:
    return Submission("main", "tester", operation_id, fingerprint_of("main", body), body)


def test_oldest_supported_postgres_takes_every_migration(container_url: str) -> None:
    migrate(container_url)
    assert migrate(container_url) == 0
    with psycopg.connect(container_url) as conn:
        row = conn.execute("SELECT count(*) FROM ledger.schema_migrations").fetchone()
    assert row == (len(read_migrations()),)


def test_oldest_supported_postgres_books_an_operation(container_url: str) -> None:
    # given a book with an account
    migrate(container_url)
    with psycopg.connect(container_url, autocommit=True) as conn:
        open_book(conn, "main", "Main", dt.date(2026, 1, 31), principal="tester")
    engine = Engine(lambda: psycopg.connect(container_url), load_business_types()).start()
    account = OpenAccount(
        account="C-1", owner="Ann", type="customer", subject="2001.01", currency="CNY"
    )
    recharge = Operation("recharge", (Leg("credit", "C-1", 10_000, "CNY"),))
    # when an operation is posted, and posted again
    try:
        engine.post(Job(book_id="main", submissions=(submission("open-1", account),)), 30)
        job = Job(book_id="main", submissions=(submission("op-1", recharge),))
        (first,), (again,) = engine.post(job, 30), engine.post(job, 30)
    finally:
        engine.stop()
    # then it is in the log once
    assert not isinstance(first, Exception)
    assert not isinstance(again, Exception)
    assert (first.status, first.accounts[0].balance_minor) == ("booked", 10_000)
    assert (again.replayed, again.position) == (True, first.position)


def test_brokers_image_starts_carries_topics_and_keeps_them(kafka_image: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="daybook-kafka-"))
    broker = KafkaBroker(folder, free_port(), engines=("docker",), image=kafka_image)
    try:
        with broker.start():
            ensure_topics(broker.bootstrap, 2)
        with broker.start():  # the container is found again, with its data
            ensure_topics(broker.bootstrap, 2)
            assert broker.remove() is True
        assert docker("inspect", f"daybook-kafka-{broker.port}").returncode != 0
    finally:
        broker.remove()
        shutil.rmtree(folder, ignore_errors=True)


def test_our_image_runs_the_command_line_as_an_ordinary_user(daybook_image: str) -> None:
    shown = docker("run", "--rm", daybook_image, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "serve" in shown.stdout
    who = docker("run", "--rm", "--entrypoint", "id", daybook_image, "-u")
    assert int(who.stdout) != os.getuid() or os.getuid() != 0


def test_our_image_carries_every_data_file(daybook_image: str) -> None:
    program = (
        "from infra.schema import read_migrations as m;"
        "from ledger.business_types import load_business_types as b;"
        "b(); print(len(m()))"
    )
    done = docker("run", "--rm", "--entrypoint", "python3", daybook_image, "-c", program)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(read_migrations())
