"""Fixtures: the real application over a real database, behind a real socket."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn

from infra.app import build_app, uvicorn_config
from infra.postgres import EmbeddedPostgres
from infra.settings import Settings
from ledger.books import open_book
from ledger.principals import SCOPES, create_key, ensure_local_key
from tests.fix_postgres import fresh_database
from tests.waiting import wait_until

DAY = dt.date(2026, 1, 31)
BOOK = "main"
NDJSON = "application/x-ndjson"
CONNECTIONS = httpx.Limits(max_connections=60)
SERVER = """
import uvicorn
from infra.app import build_app, uvicorn_config
from infra.settings import load_settings
settings = load_settings()
uvicorn.Server(uvicorn_config(settings, build_app(settings))).run()
"""


class ApiCaller:
    """Calls the API as the local principal unless a case is about another."""

    def __init__(self, http: httpx.Client, key: str, database_url: str, home: Path) -> None:
        self.http = http
        self.key = key
        self.database_url = database_url
        self.home = home

    def get(self, path: str, **query: Any) -> httpx.Response:
        """GET with query parameters."""
        return self.http.get(path, params=query, headers=self._headers())

    def post(
        self,
        path: str,
        body: object,
        *,
        content_type: str = "application/json",
        key: str | None = None,
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        """POST a JSON value, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {**self._headers(key), "Content-Type": content_type, **(headers or {})}
        return self.http.post(path, content=content, headers=given, params=query)

    def post_lines(self, path: str, *lines: object, **query: Any) -> list[dict[str, Any]]:
        """POST values as NDJSON and return the results."""
        body = b"".join(
            (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"
            for line in lines
        )
        answer = self.post(path, body, content_type=NDJSON, **query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == NDJSON
        return [json.loads(line) for line in answer.content.splitlines()]

    def open(self, *numbers: str, **fields: Any) -> None:
        """Open CNY customer accounts."""
        for number in numbers:
            answer = self.post("/v1/accounts", account(number, **fields))
            assert answer.status_code == 201, answer.text

    def credit(self, number: str, amount_minor: int) -> None:
        """Recharge an account."""
        body = operation(f"recharge-{number}-{self.position()}", credit(number, amount_minor))
        assert self.post("/v1/operations", body).status_code == 201

    def balance(self, number: str) -> int:
        """Return an account's balance."""
        return int(self.get(f"/v1/accounts/{number}").json()["balance"])

    def position(self) -> int:
        """Return the log's last position, from the database itself."""
        with psycopg.connect(self.database_url) as conn:
            row = conn.execute("SELECT coalesce(max(last_id), 0) FROM ledger.seals").fetchone()
        assert row is not None
        return int(row[0])

    def make_key(self, *scopes: str, principal: str = "other", book_id: str | None = None) -> str:
        """Return a new key with just these scopes."""
        with psycopg.connect(self.database_url, autocommit=True) as conn:
            return create_key(conn, principal, scopes or SCOPES, book_id)

    def _headers(self, key: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key if key is None else key}"}


def account(number: str, **fields: Any) -> dict[str, Any]:
    """Say the opening of a CNY customer account."""
    opening = {
        "operation_id": f"open-{number}",
        "account": number,
        "owner": "U-1",
        "type": "customer",
        "subject": "2001.01",
        "currency": "CNY",
    }
    return {**opening, **fields}


def leg(kind: str, number: str, amount_minor: int, **more: Any) -> dict[str, Any]:
    """Say a leg in CNY."""
    given = {"kind": kind, "account": number, "amount": amount_minor, "currency": "CNY"}
    return {**given, **more}


def credit(number: str, amount_minor: int, **more: Any) -> dict[str, Any]:
    """Say a credit leg."""
    return leg("credit", number, amount_minor, **more)


def debit(number: str, amount_minor: int, **more: Any) -> dict[str, Any]:
    """Say a debit leg."""
    return leg("debit", number, amount_minor, **more)


def operation(
    operation_id: str | None, *legs: dict[str, Any], business_type: str = "recharge", **more: Any
) -> dict[str, Any]:
    """Say an operation; without an id when the case sends it in the header."""
    named = {} if operation_id is None else {"operation_id": operation_id}
    return {**named, "business_type": business_type, "legs": list(legs), **more}


def prepared(database_url: str, home: Path) -> str:
    """Open the main book and return the local key."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        open_book(conn, BOOK, "Main book", DAY, principal="local")
        return ensure_local_key(conn, home / "local.key")


@contextlib.contextmanager
def api_over(database_url: str, home: Path, **settings: Any) -> Iterator[ApiCaller]:
    """Serve the application from a thread of this process, on a free port."""
    key = prepared(database_url, home)
    given = Settings(
        database_url=database_url, home=home, pool_size_max=4, log_level="warning", **settings
    )
    server = uvicorn.Server(uvicorn_config(given, build_app(given)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listener],), name="api")
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the API to start")
            with httpx.Client(base_url=url, timeout=60, limits=CONNECTIONS) as http:
                yield ApiCaller(http, key, database_url, home)
        finally:
            server.should_exit = True
            thread.join(60)


@contextlib.contextmanager
def server_over(
    database_url: str, home: Path, **settings: Any
) -> Iterator[tuple[ApiCaller, subprocess.Popen[bytes]]]:
    """Run the application in a process of its own, on a free port."""
    key = prepared(database_url, home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"database_url": database_url, "home": home, "port": port, **settings}
    environment = {f"DAYBOOK_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen([sys.executable, "-c", SERVER], env={**os.environ, **environment})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _is_ready(url), "the API to be ready")
        with httpx.Client(base_url=url, timeout=60) as http:
            yield ApiCaller(http, key, database_url, home), process
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url + "/health/ready").status_code == 200
    return False


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[ApiCaller]:
    """The application over a fresh database with the book `main`, open on 2026-01-31."""
    with api_over(database_url, tmp_path) as caller:
        yield caller


@pytest.fixture(scope="module")
def shared_api(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ApiCaller]:
    """One application for all cases of a page that keep out of each other's way."""
    with (
        fresh_database(postgres_server, template_database) as url,
        api_over(url, tmp_path_factory.mktemp("home")) as caller,
    ):
        yield caller


@pytest.fixture
def api_server(
    database_url: str, tmp_path: Path
) -> Iterator[tuple[ApiCaller, subprocess.Popen[bytes]]]:
    """The application behind a real socket, in a process of its own."""
    with server_over(database_url, tmp_path) as served:
        yield served
