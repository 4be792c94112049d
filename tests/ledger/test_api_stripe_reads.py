"""Reads by account over HTTP: an account with stripes is one account, with one history."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fix_api import ApiCaller, credit, debit, leg, operation
from tests.ledger.test_api_stripes import OPERATIONS, spread


def events(api: ApiCaller, number: str, limit: int = 100, cursor: str | None = None) -> Any:
    """Walk the events of an account to their end."""
    found = []
    while True:
        query: dict[str, Any] = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
        answer = api.get(f"/v1/accounts/{number}/events", **query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= limit
        found += page["items"]
        assert len(found) < 100, "the pages have no end"
        if (cursor := page["next_cursor"]) is None:
            return found


@pytest.fixture
def merchant(api: ApiCaller) -> ApiCaller:
    """A merchant with a history before, with, with fewer and with more stripes."""
    api.open("M-1")
    api.credit("M-1", 100)
    spread(api, "M-1", 4)
    for number in range(8):
        api.credit("M-1", 10 + number)
    paid = operation("fee", debit("M-1", 180), business_type="fee")
    assert api.post(OPERATIONS, paid).status_code == 201
    held = leg("hold", "M-1", 20, hold_id="h")
    assert api.post(OPERATIONS, operation("held", held, business_type="hold")).status_code == 201
    spread(api, "M-1", 1)
    api.credit("M-1", 7)
    spread(api, "M-1", 8)
    for number in range(4):
        api.credit("M-1", 20 + number)
    return api


def test_events_of_all_parts_come_in_the_order_of_the_log(merchant: ApiCaller) -> None:
    found = events(merchant, "M-1")

    positions = [item["position"] for item in found]
    assert positions == sorted(set(positions))
    parts = merchant.get("/v1/accounts/M-1").json()["striped"]["parts"]
    one_by_one = [
        (item["position"], part["account"], item["version"], item["fact"])
        for part in parts[1:]
        for item in events(merchant, part["account"])
    ]
    on_stripes = [
        (item["position"], item["account"], item["version"], item["fact"])
        for item in found
        if item["account"] != "M-1"
    ]
    assert on_stripes == sorted(one_by_one)
    home = [item["version"] for item in found if item["account"] == "M-1"]
    state = merchant.get("/v1/accounts/M-1").json()
    assert home == list(range(1, state["version"] + 1))


def test_the_balance_beside_an_event_is_that_of_the_whole(merchant: ApiCaller) -> None:
    found = events(merchant, "M-1")

    inward = [100, *range(10, 18), 7, *range(20, 24)]
    expected, balance = [], 0
    for amount in inward:
        balance += amount - (180 if amount == 7 else 0)
        expected.append(balance)
    recharges = [item for item in found if item["fact"].get("business_type") == "recharge"]
    assert [item["balance"] for item in recharges] == expected
    before_and_after = {
        item["balance"] for item in found if item["fact"].get("business_type") == "stripe_gather"
    }
    assert before_and_after == {208, 28}, "gathering changes nothing of the whole"
    assert [item["balance"] for item in found if item["event"] == "AmountHeld"] == [28]
    assert all("balance" in item for item in found if item["event"] != "AccountOpened")
    assert found[-1]["balance"] == merchant.balance("M-1")


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_events_walked_page_by_page_are_those_read_whole(merchant: ApiCaller, limit: int) -> None:
    assert events(merchant, "M-1", limit) == events(merchant, "M-1")


def test_a_page_goes_on_though_the_account_has_got_stripes_meanwhile(api: ApiCaller) -> None:
    api.open("M-1")
    for _ in range(3):
        api.credit("M-1", 5)
    plain = api.get("/v1/accounts/M-1/events", limit=2).json()
    assert all("account" not in item and "balance" not in item for item in plain["items"])
    spread(api, "M-1", 8)
    for _ in range(6):
        api.credit("M-1", 5)

    rest = events(api, "M-1", 2, plain["next_cursor"])

    whole = [item["position"] for item in events(api, "M-1")]
    assert [item["position"] for item in [*plain["items"], *rest]] == whole


def test_a_cursor_of_more_parts_than_there_are_is_refused(merchant: ApiCaller) -> None:
    cursor = merchant.get("/v1/accounts/M-1/events", limit=2).json()["next_cursor"]
    merchant.open("C-1")
    for number in ("C-1", "STRIPE-1-M-1"):
        answer = merchant.get(f"/v1/accounts/{number}/events", cursor=cursor)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")


def test_a_list_counts_what_lies_on_stripes_once(merchant: ApiCaller) -> None:
    merchant.post(OPERATIONS, operation("r", credit("M-1", 4)))
    listed = merchant.get("/v1/accounts").json()["items"]
    assert [(each["account"], each["balance"]) for each in listed] == [
        ("M-1", merchant.balance("M-1"))
    ]
    owned = merchant.get("/v1/accounts", owner="U-1", limit=1).json()
    assert ([each["account"] for each in owned["items"]], owned["next_cursor"]) == (["M-1"], None)
    assert merchant.get("/v1/accounts", type="stripe").json()["items"]
    assert merchant.get("/v1/accounts", parent="M-1", owner="U-1").json()["items"]
