"""Accounts with stripes over HTTP: the command, one balance in every answer, parts in reads."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fix_api import ApiCaller, credit, debit, operation

OPERATIONS = "/v1/operations"


def spread(api: ApiCaller, number: str, stripes: object, **fields: Any) -> Any:
    body = {"operation_id": f"s-{number}-{stripes}", "command": "stripes", "stripes": stripes}
    return api.post(f"/v1/accounts/{number}/commands", {**body, **fields})


@pytest.fixture
def merchant(api: ApiCaller) -> ApiCaller:
    """A merchant with money on stripes and none on its own account."""
    api.open("M-1")
    assert spread(api, "M-1", 4).status_code == 200
    for number in range(8):
        api.credit("M-1", 10 + number)
    return api


def test_answers_and_reads_say_one_balance_and_where_it_lies(merchant: ApiCaller) -> None:
    answer = merchant.post(OPERATIONS, operation("r", credit("M-1", 4))).json()
    state = merchant.get("/v1/accounts/M-1").json()

    assert answer["status"] == "booked"
    leg = answer["legs"][0]
    assert leg["intended_account"] == "M-1"
    assert leg["account"].startswith("STRIPE-")
    assert [(each["account"], each["balance"]) for each in answer["accounts"]] == [("M-1", 112)]
    assert (state["balance"], state["available"], state["day_credits"]) == (112, 112, 112)
    assert state["striped"]["stripes"] == 4
    parts = {part["account"]: part["balance"] for part in state["striped"]["parts"]}
    assert (parts["M-1"], sum(parts.values())) == (0, 112)
    assert "rolled_up" not in state
    listed = merchant.get("/v1/accounts", parent="M-1").json()["items"]
    assert {each["account"]: each["balance"] for each in listed} == {
        name: balance for name, balance in parts.items() if name != "M-1"
    }


def test_a_debit_takes_what_lies_on_stripes_and_no_more(merchant: ApiCaller) -> None:
    refused = merchant.post(OPERATIONS, operation("f1", debit("M-1", 109), business_type="fee"))
    paid = merchant.post(OPERATIONS, operation("f2", debit("M-1", 100), business_type="fee"))

    assert (refused.status_code, refused.json()["code"]) == (422, "insufficient_funds")
    assert refused.json()["detail"].endswith("available 108")
    assert paid.status_code == 201
    assert paid.json()["accounts"][0]["balance"] == 8
    gathered = merchant.get(f"{OPERATIONS}/daybook:gather:M-1:2").json()
    assert gathered["record"]["business_type"] == "stripe_gather"
    assert merchant.balance("M-1") == 8


def test_ending_it_brings_everything_home_and_the_register_says_who(merchant: ApiCaller) -> None:
    ended = spread(merchant, "M-1", 0, reason="the sale is over")

    assert ended.json()["accounts"][0]["balance"] == 108
    striped = merchant.get("/v1/accounts/M-1").json()["striped"]
    assert striped["stripes"] == 0
    assert {"account": "M-1", "balance": 108} in striped["parts"]
    fact = merchant.get("/v1/accounts/M-1/register").json()["items"][-1]["fact"]
    assert (fact["stripes"], fact["reason"]) == (0, "the sale is over")
    more = merchant.post(OPERATIONS, operation("r", credit("M-1", 4))).json()
    assert more["legs"][0]["account"] == "M-1"


def test_the_longest_number_has_stripes_that_can_be_read(api: ApiCaller) -> None:
    number = "M" * 64
    api.open(number)
    spread(api, number, 64)
    for _ in range(3):
        api.credit(number, 1)
    parts = api.get(f"/v1/accounts/{number}").json()["striped"]["parts"]
    longest = max((part["account"] for part in parts), key=len)
    assert api.get(f"/v1/accounts/{longest}/events").status_code == 200


@pytest.mark.parametrize("stripes", [-1, 65, "4", None])
def test_what_is_no_number_of_stripes_is_400(shared_api: ApiCaller, stripes: object) -> None:
    answer = spread(shared_api, "M-1", stripes)
    assert answer.status_code == 400
