"""Day cuts and periods over HTTP: who decides is the key's principal; repeating is safe."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from consumers.loop import ConsumerSettings, run_consumer
from infra.postgres import EmbeddedPostgres
from ledger.principals import SCOPES
from tests.consumers.test_outcomes import payment, rules_without
from tests.consumers.written_log import DAY, WrittenLog
from tests.fix_api import ApiCaller, api_over
from tests.fix_postgres import fresh_database

NEXT = "2026-02-02"
NOBODYS = UUID(int=7)  # a fixed one: the tests of a page have the same names in every process


class Closing:
    """The API with a running consumer; one payment is parked, and the next day is open."""

    def __init__(self, api: ApiCaller) -> None:
        self.api = api

    def cut(self, date: str, key: str | None = None) -> httpx.Response:
        """Cut a day."""
        return self.api.post("/v1/day-cuts", {"cut_date": date}, key=key, wait_s=30)

    def propose(self, kind: str, date: str, key: str | None = None) -> httpx.Response:
        """Propose a change of the periods."""
        body = {"kind": kind, "period_date": date, "note": "January"}
        return self.api.post("/v1/period-changes", body, key=key, wait_s=30)

    def decide(self, change_id: str, verb: str, key: str | None = None) -> httpx.Response:
        """Approve or reject."""
        path = f"/v1/period-changes/{change_id}:{verb}"
        return self.api.post(path, {}, key=key, wait_s=30)


@pytest.fixture(scope="module")
def closing(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Closing]:
    """One application with a live consumer for all cases of this page."""
    stop = threading.Event()
    with fresh_database(postgres_server, template_database) as url:
        settings = ConsumerSettings(database_url=url)
        thread = threading.Thread(target=run_consumer, args=(settings, stop))
        try:
            with api_over(url, tmp_path_factory.mktemp("home")) as api:
                written = WrittenLog(url)
                written.publish(rules_without("payment"))
                written.commit(payment(written, "p-1"), written.recharge("r-1"))
                opened = api.post("/v1/books/main/day", {"business_date": NEXT})
                assert opened.status_code == 200, opened.text
                thread.start()
                yield Closing(api)
        finally:
            stop.set()
            thread.join(60)


def test_a_cut_is_made_once_and_says_who_cut_and_what_was_parked(closing: Closing) -> None:
    key = closing.api.make_key("day", principal="olga")

    first, again = closing.cut(DAY, key), closing.cut(DAY)

    assert (first.status_code, again.status_code) == (201, 200), first.text
    cut = first.json()
    assert (cut["cut_date"], cut["open_date"], cut["maker"]) == (DAY, NEXT, "olga")
    assert cut["parked"] == [
        {"status": "parked", "reason": "no_rule", "currency": "CNY", "count": 1, "amount": 990}
    ]
    assert (cut["operation_ids"], cut["performed"]) == (["p-1"], True)
    assert again.json() == cut
    assert closing.api.get("/v1/day-cuts").json()["data"]["items"] == [cut]
    vouchers = closing.api.get("/v1/vouchers").json()["data"]["items"]
    assert [(each["source_id"], each["number"]) for each in vouchers] == [("r-1", 1)]


def test_a_day_that_is_open_is_not_cut(closing: Closing) -> None:
    refused = closing.cut(NEXT)
    assert (refused.status_code, refused.json()["code"]) == (409, "day_open")


def test_a_period_is_closed_and_reopened_by_two_principals(closing: Closing) -> None:
    api = closing.api
    alice, bob = api.make_key("day", principal="alice"), api.make_key("approve", principal="bob")
    same = api.make_key("approve", principal="alice")

    proposed = closing.propose("close", DAY, alice)
    assert (proposed.status_code, proposed.json()["is_open"]) == (201, True), proposed.text
    change_id = proposed.json()["change_id"]
    refused = closing.decide(change_id, "approve", same)
    assert (refused.status_code, refused.json()["code"]) == (409, "same_principal")
    closed = closing.decide(change_id, "approve", bob).json()
    assert (closed["step"], closed["maker"], closed["checker"]) == ("closed", "alice", "bob")
    assert api.get("/v1/period-changes").json()["data"]["closed_through"] == DAY
    late = closing.decide(change_id, "reject", bob)
    assert (late.status_code, late.json()["code"]) == (409, "already_decided")

    reopening = closing.propose("reopen", DAY, alice).json()["change_id"]
    assert closing.decide(reopening, "approve", bob).json()["step"] == "reopened"
    standing = api.get("/v1/period-changes").json()["data"]
    assert (standing["closed_through"], standing["cut_through"]) == ("2026-01-30", DAY)


def test_the_maker_may_take_the_own_proposal_back_and_no_other_maker(closing: Closing) -> None:
    alice = closing.api.make_key("day", principal="alice")
    dan = closing.api.make_key("day", principal="dan")
    change_id = closing.propose("close", "2026-02-01", alice).json()["change_id"]

    assert closing.decide(change_id, "reject", dan).json()["code"] == "not_permitted"
    taken_back = closing.decide(change_id, "reject", alice).json()

    assert (taken_back["step"], taken_back["checker"]) == ("rejected", "alice")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"kind": "close", "period_date": NEXT}, 409, "period_open"),
        ({"kind": "reopen", "period_date": NEXT}, 409, "not_closed"),
        ({"kind": "shut", "period_date": DAY}, 400, "invalid_request"),
        ({"kind": "close", "period_date": "yesterday"}, 400, "invalid_request"),
        ({"kind": "close"}, 400, "missing_field"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_nothing_is_written(
    closing: Closing, body: dict[str, Any], status: int, code: str
) -> None:
    position = closing.api.position()
    refused = closing.api.post("/v1/period-changes", body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert closing.api.position() == position


def test_an_unknown_proposal_is_not_found(closing: Closing) -> None:
    answer = closing.decide(str(uuid4()), "approve")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_change")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/day-cuts", "day"),
        ("POST", "/v1/period-changes", "day"),
        ("POST", f"/v1/period-changes/{NOBODYS}:approve", "approve"),
        ("GET", "/v1/day-cuts", "read"),
        ("GET", "/v1/period-changes", "read"),
    ],
)
def test_a_key_without_the_scope_decides_and_reads_nothing(
    closing: Closing, method: str, path: str, scope: str
) -> None:
    api = closing.api
    key = api.make_key(*(set(SCOPES) - {scope, "rules"}))  # `rules` includes `approve`
    position = api.position()

    headers = {"Authorization": f"Bearer {key}"}
    answer = api.http.request(method, path, headers=headers, json={} if method == "POST" else None)

    assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted")
    assert api.position() == position


def test_the_document_describes_each_route_and_its_bodies(closing: Closing) -> None:
    document = closing.api.get("/openapi.json").json()
    for path in ("/v1/day-cuts", "/v1/period-changes"):
        made = document["paths"][path]["post"]
        assert made["requestBody"]["content"]["application/json"]["examples"]
        assert {"201", "403", "409"} <= set(made["responses"])
    for name in ("RequestedCut", "CutRow", "RequestedChange", "PeriodChange", "PeriodList"):
        assert name in document["components"]["schemas"]
