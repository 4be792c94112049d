"""The one table of HTTP numbers: every error has its number, and a defect is a problem too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest

from ledger.api import STATUS, Reply, problem_of, status_of
from ledger.api_call import Call
from ledger.api_gate import Api, DaybookApp
from ledger.errors import LedgerError, RejectionReason
from ledger.principals import Keyring, Principal


def walk(root: type[LedgerError]) -> Iterator[type[LedgerError]]:
    """The ledger's own errors."""
    yield root
    for child in root.__subclasses__():
        if child.__module__.startswith(("ledger.", "projections.")):
            yield from walk(child)


ERRORS = sorted(set(walk(LedgerError)), key=lambda error: error.code)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_of_the_tree_has_its_number(error: type[LedgerError]) -> None:
    assert error.code in STATUS


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_an_error_is_retriable_exactly_when_its_number_says_so(error: type[LedgerError]) -> None:
    status, _ = status_of(error.code)

    assert error.retriable == (status == 503 or error.code == "operation_running")
    assert problem_of(error("why")).retriable == error.retriable


@pytest.mark.parametrize("reason", RejectionReason)
def test_every_rejection_is_422_and_no_error_shares_its_code(reason: RejectionReason) -> None:
    assert status_of(reason)[0] == 422
    assert reason not in STATUS


def test_a_code_nobody_listed_is_a_defect_not_a_rejection() -> None:
    assert status_of("surprise")[0] == 500


def test_a_defect_in_a_hot_route_is_a_problem_document() -> None:
    async def somebody(_: bytes) -> Principal:
        return Principal("p", frozenset())

    async def fails(_: Api, __: Call) -> Reply:
        raise ZeroDivisionError

    class Keys:
        keys = Keyring(somebody)

    app = DaybookApp()
    app.api = cast("Any", Keys())
    app.hot = {("POST", "/hot"): fails}

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post("/hot", headers={"Authorization": "Bearer key"})

    answer = asyncio.run(post())

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Zero" not in answer.text
