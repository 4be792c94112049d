"""Hot accounts over HTTP: 202 accepted, what is read beside the balance, 503 when it is full."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fix_api import ApiCaller, credit, debit, operation

OPERATIONS = "/v1/operations"
AGREED = {"command": "buffer", "buffer_ms": 60_000, "agreement": "A-7"}


def agree(api: ApiCaller, number: str, **fields: Any) -> Any:
    body = {"operation_id": f"agree-{number}", **AGREED, **fields}
    return api.post(f"/v1/accounts/{number}/commands", body)


def payment(operation_id: str, amount_minor: int, **more: Any) -> dict[str, Any]:
    legs = (debit("C-1", amount_minor), credit("M-1", amount_minor))
    return operation(operation_id, *legs, business_type="payment", **more)


@pytest.fixture
def sale(api: ApiCaller) -> ApiCaller:
    """A customer with money and a merchant under an agreement; nothing is applied by itself."""
    api.open("C-1", "M-1")
    api.credit("C-1", 1_000)
    assert agree(api, "M-1", entries_max=2).status_code == 200
    return api


def test_accepted_is_202_and_202_with_the_same_body_again(sale: ApiCaller) -> None:
    first = sale.post(OPERATIONS, payment("p", 40))
    again = sale.post(OPERATIONS, payment("p", 40))

    assert (first.status_code, first.json()["status"]) == (202, "accepted")
    assert again.status_code == 202
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert sale.get(f"{OPERATIONS}/p").json()["status"] == "accepted"


def test_booked_and_accepted_are_read_apart(sale: ApiCaller) -> None:
    sale.post(OPERATIONS, payment("p", 40))

    state = sale.get("/v1/accounts/M-1").json()

    assert (state["balance"], state["available"]) == (0, 0)
    assert state["buffer"]["accepted"] == 40
    assert (state["buffer"]["entries"], state["buffer"]["buffer_ms"]) == (1, 60_000)
    assert (state["rolled_up"]["balance"], state["rolled_up"]["available"]) == (40, 0)
    listed = sale.get("/v1/accounts", parent="M-1").json()["items"]
    assert [(each["account"], each["balance"]) for each in listed] == [("BUFFER-M-1", 40)]
    events = sale.get("/v1/accounts/BUFFER-M-1/events").json()["items"]
    assert events[-1]["fact"]["intended_account"] == "M-1"
    register = sale.get("/v1/accounts/M-1/register").json()["items"]
    assert register[-1]["fact"]["agreement"] == "A-7"


def test_the_status_and_the_metrics_say_how_deep_and_how_old_the_buffers_are(
    sale: ApiCaller,
) -> None:
    sale.post(OPERATIONS, payment("p", 40))

    buffers = sale.get("/v1/status").json()["backlog"]["facts"]["buffers"]
    metrics = sale.get("/metrics").text

    assert (buffers["accounts"], buffers["entries"], buffers["late"]) == (1, 1, 0)
    assert buffers["amounts"] == [{"currency": "CNY", "debits": 0, "credits": 40}]
    assert "daybook_buffer_entries 1.0" in metrics
    assert 'daybook_postings_total{result="accepted"} 1.0' in metrics


def test_a_full_buffer_is_503_for_payments_and_records_nothing(sale: ApiCaller) -> None:
    for name in ("p1", "p2"):
        assert sale.post(OPERATIONS, payment(name, 10)).status_code == 202
    before = sale.position()

    refused = sale.post(OPERATIONS, payment("p3", 10))

    assert (refused.status_code, refused.json()["code"]) == (503, "buffer_full")
    assert refused.json()["retriable"] is True
    assert refused.headers["retry-after"] == "1"
    assert sale.position() == before


def test_a_full_buffer_is_a_recorded_rejection_for_types_that_fail(sale: ApiCaller) -> None:
    for name in ("p1", "p2"):
        sale.post(OPERATIONS, payment(name, 10))

    refused = sale.post(OPERATIONS, {**payment("t", 10), "business_type": "transfer"})

    assert (refused.status_code, refused.json()["code"]) == (422, "account_busy")
    assert sale.get(f"{OPERATIONS}/t").json()["status"] == "rejected"


def test_a_full_buffer_lets_a_refund_pass(sale: ApiCaller) -> None:
    assert sale.post(OPERATIONS, payment("p1", 10)).status_code == 202
    assert agree(sale, "C-1", entries_max=1).status_code == 200
    recharge = operation("r1", credit("C-1", 5))
    assert sale.post(OPERATIONS, recharge).status_code == 202
    assert sale.post(OPERATIONS, {**recharge, "operation_id": "r2"}).status_code == 503

    legs = (debit("M-1", 10), credit("C-1", 10))
    refund = operation("b", *legs, business_type="refund", original_operation_id="p1")
    refund["legs"][1]["part"] = "C-1"
    returned = sale.post(OPERATIONS, refund)

    assert (returned.status_code, returned.json()["status"]) == (202, "accepted")
    assert sale.get("/v1/accounts/C-1").json()["buffer"]["accepted"] == 15
    assert sale.get("/v1/accounts/M-1").json()["buffer"]["entries"] == 0  # applied to pay it
    assert sale.balance("M-1") == 0


def test_money_leaves_a_hot_account_in_credit_while_its_inflows_wait(sale: ApiCaller) -> None:
    limit = {"operation_id": "l", "command": "credit_limit", "credit_limit": 500, "agreement": "L"}
    assert sale.post("/v1/accounts/M-1/commands", limit).status_code == 200
    assert sale.post(OPERATIONS, payment("p", 40)).status_code == 202

    fee = sale.post(OPERATIONS, operation("f", debit("M-1", 500), business_type="fee"))

    assert (fee.status_code, fee.json()["status"]) == (201, "booked")
    state = sale.get("/v1/accounts/M-1").json()
    assert (state["balance"], state["available"], state["buffer"]["accepted"]) == (-500, 0, 40)


def test_a_dry_run_says_accepted_with_200(sale: ApiCaller) -> None:
    tried = sale.post(OPERATIONS, payment("p", 40), dry_run="true")
    assert (tried.status_code, tried.json()["status"]) == (200, "accepted")
    assert sale.get("/v1/accounts/M-1").json()["buffer"]["entries"] == 0


def test_a_batch_line_says_accepted(sale: ApiCaller) -> None:
    lines = sale.post_lines(f"{OPERATIONS}:batch", payment("p", 40), payment("p", 40))
    assert [line["status"] for line in lines] == ["accepted", "accepted"]
    assert lines[1]["replayed"] is True


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a bound that is too short": ({"buffer_ms": 99}, "invalid_request"),
    "a bound that is too long": ({"buffer_ms": 60_001}, "invalid_request"),
    "inflows without an agreement": ({"agreement": ""}, "missing_field"),
    "dates in the wrong order": (
        {"valid_from": "2026-02-01", "valid_to": "2026-01-31"},
        "invalid_request",
    ),
    "a direction nobody knows": ({"directions": "out"}, "invalid_request"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_agreement_is_400(shared_api: ApiCaller, case: str) -> None:
    fields, code = BAD[case]
    answer = agree(shared_api, "M-1", **fields)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_a_credit_limit_names_its_signed_agreement(api: ApiCaller) -> None:
    api.open("M-1")
    body = {"operation_id": "l", "command": "credit_limit", "credit_limit": 500, "agreement": "L-3"}
    assert api.post("/v1/accounts/M-1/commands", body).status_code == 200
    fee = operation("f", debit("M-1", 500), business_type="fee")
    assert api.post(OPERATIONS, fee).status_code == 201
    register = api.get("/v1/accounts/M-1/register").json()["items"]
    assert register[-1]["fact"]["agreement"] == "L-3"
