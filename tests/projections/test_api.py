"""The books over HTTP: every route answers with its freshness; bad input changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from psycopg import Connection

from ledger.errors import LedgerError, NotPermitted
from projections.api import add_books_documents, books_router
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log
from tests.consumers.test_outcomes import payment, rules_without
from tests.consumers.written_log import BOOK, WrittenLog


@pytest.fixture
def written(database_url: str) -> WrittenLog:
    """A log with one vouchered and one parked operation, consumed."""
    log = WrittenLog(database_url)
    log.publish(rules_without("payment"))
    log.commit(log.recharge("one", fee_minor=60), payment(log, "two"))
    consume_log(database_url)
    return log


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    """An application with the routes of the books only; the key is a header."""

    @contextmanager
    def connect(request: Request) -> Iterator[Connection[Any]]:
        with connect_to(database_url) as conn:
            yield conn

    def authorize(request: Request, scope: str) -> str:
        if request.headers.get("key") != scope:
            raise NotPermitted(f"needs {scope}")
        return BOOK

    app = FastAPI()
    app.include_router(books_router(connect=connect, authorize=authorize))

    @app.exception_handler(LedgerError)
    def refuse(request: Request, error: LedgerError) -> JSONResponse:
        return JSONResponse({"code": error.code}, status_code=418)

    with TestClient(app, headers={"key": "read"}) as made:
        yield made


@pytest.mark.parametrize(
    "path",
    [
        "/v1/trial-balance",
        "/v1/trial-balance?from=2026-01-01&at=2026-01-31&level=1",
        "/v1/gl-balances?subject=2001.01",
        "/v1/accounts/C-1/days",
        "/v1/vouchers?from=2026-01-01&to=2026-12-31&business_type=recharge",
        "/v1/vouchers?operation=one",
        "/v1/vouchers/main/one/1",
        "/v1/vouchers/one/1",
        "/v1/orders/T-1?kind=trade",
        "/v1/parked?reason=no_rule",
        "/v1/issues",
        "/v1/identity",
        "/v1/positions",
        "/v1/rulesets",
    ],
)
def test_every_route_answers_with_its_freshness(
    client: TestClient, written: WrittenLog, path: str
) -> None:
    answer = client.get(path)

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["book_id"] == BOOK
    assert body["freshness"]["position"] == body["freshness"]["log_position"]
    assert body["freshness"]["lag_operations"] == 0
    assert "data" in body


def test_figures_arrive_in_minor_units_with_their_currency(
    client: TestClient, written: WrittenLog
) -> None:
    voucher = client.get("/v1/vouchers/one/1").json()["data"]
    parked = client.get("/v1/parked").json()["data"]

    assert voucher["lines"][0] == {
        "line_no": 1,
        "side": "debit",
        "subject": "1131.01",
        "currency": "CNY",
        "amount": 10_000,
        "account": None,
        "off_balance": False,
    }
    assert parked["items"][0]["amounts"] == {"CNY": 990}
    assert parked["counts"][0]["count"] == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/vouchers?cursor=nonsense", "invalid_cursor"),
        ("/v1/vouchers/nobody/1", "not_found"),
        ("/v1/vouchers?operation=%00", "invalid_parameter"),
        ("/v1/gl-balances?subject=%00", "invalid_parameter"),
        ("/v1/identity?min_position=999999", "not_found"),
        ("/v1/identity?operation_id=never&wait_s=0", "not_visible_yet"),
    ],
)
def test_what_cannot_be_answered_has_a_code(
    client: TestClient, written: WrittenLog, path: str, code: str
) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()) == (418, {"code": code})


@pytest.mark.parametrize(
    "path",
    [
        "/v1/vouchers?limit=0",
        "/v1/vouchers?limit=1001",
        "/v1/vouchers?from=yesterday",
        "/v1/identity?min_position=-1",
        "/v1/identity?wait_s=3600",
        "/v1/trial-balance?level=0",
        "/v1/orders/x?kind=other",
    ],
)
def test_parameters_outside_their_range_are_refused(
    client: TestClient, written: WrittenLog, path: str
) -> None:
    assert client.get(path).status_code == 422


def test_a_caller_without_the_scope_reads_nothing(client: TestClient, written: WrittenLog) -> None:
    answer = client.get("/v1/identity", headers={"key": "post"})

    assert answer.json() == {"code": "not_permitted"}


def test_a_read_waits_for_the_operation_it_names(
    client: TestClient, written: WrittenLog, database_url: str
) -> None:
    head = written.commit(written.recharge("three"))
    assert client.get("/v1/identity?operation_id=three&wait_s=0").status_code == 418
    consume_log(database_url)

    answer = client.get(f"/v1/identity?operation_id=three&min_position={head}")

    assert answer.json()["data"]["position"] == head


def test_the_openapi_document_resolves_every_schema(client: TestClient) -> None:
    document = add_books_documents(client.get("/openapi.json").json())

    known = document["components"]["schemas"]
    text = str(document)
    for reference in {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in known
