"""Business rejections over HTTP: 422 with the reason as the code, on record, nothing moved."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fix_api import ApiCaller, account, credit, debit, leg, operation

OPERATIONS = "/v1/operations"
FREEZE = {"command": "freeze", "freeze_id": "f", "authority": "c", "order": "o", "reason": "r"}


@pytest.fixture(scope="module")
def api(shared_api: ApiCaller) -> ApiCaller:
    """One application with an account in every standing."""
    prepare(shared_api)
    return shared_api


def prepare(api: ApiCaller) -> None:
    """Open the accounts that the cases name."""
    api.open("rich", "closed", "frozen", "blocked", "receiving", "lost", "limited", "held")
    for number in ("rich", "limited", "held", "lost"):
        api.credit(number, 1_000)
    api.post(
        OPERATIONS, operation("h", leg("hold", "held", 100, hold_id="h"), business_type="hold")
    )
    refused = operation("refused", debit("rich", 5_000), business_type="withdrawal")
    assert api.post(OPERATIONS, refused).status_code == 422
    command(api, "closed", command="close")
    command(api, "frozen", **FREEZE)
    command(api, "blocked", command="payment_status", payment_status="blocked")
    command(api, "receiving", command="payment_status", payment_status="receive_only")
    command(api, "lost", command="report_loss")
    command(api, "limited", command="limit", business_type="withdrawal", per_operation=10)


def command(api: ApiCaller, number: str, **fields: Any) -> None:
    """Change an account's standing; it must succeed."""
    name = fields["command"]
    body = {"operation_id": f"{name}-{number}", **fields}
    answer = api.post(f"/v1/accounts/{number}/commands", body)
    assert answer.status_code == 200, answer.text


def transfer(*legs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Say a transfer."""
    return {"business_type": "transfer", "legs": list(legs), **more}


def withdrawal(*legs: dict[str, Any]) -> dict[str, Any]:
    """Say a withdrawal."""
    return {"business_type": "withdrawal", "legs": list(legs)}


CASES: dict[str, dict[str, Any]] = {
    "unknown_account": transfer(debit("rich", 1), credit("nobody", 1)),
    "currency_mismatch": transfer(debit("rich", 1, currency="EUR")),
    "duplicate_account": transfer(debit("rich", 1), credit("rich", 1)),
    "account_closed": transfer(debit("rich", 1), credit("closed", 1)),
    "account_frozen": transfer(debit("rich", 1), credit("frozen", 1)),
    "account_blocked": transfer(debit("rich", 1), credit("blocked", 1)),
    "account_receive_only": withdrawal(debit("receiving", 1)),
    "account_lost": withdrawal(debit("lost", 1)),
    "insufficient_funds": withdrawal(debit("rich", 1_001)),
    "limit_per_operation": withdrawal(debit("limited", 11)),
    "hold_exceeded": {
        "business_type": "payment_capture",
        "legs": [leg("capture", "held", 101, hold_id="h")],
    },
    "unknown_hold": {"business_type": "release", "legs": [leg("release", "held", 1, hold_id="x")]},
    "hold_exists": {"business_type": "hold", "legs": [leg("hold", "held", 1, hold_id="h")]},
    "unknown_original": {
        "business_type": "refund",
        "legs": [credit("rich", 1)],
        "original_operation_id": "nobody",
    },
    "original_not_booked": {
        "business_type": "refund",
        "legs": [credit("rich", 1)],
        "original_operation_id": "refused",
    },
    "not_history": transfer(credit("rich", 1), business_date="2026-01-31"),
    "history_only": {"business_type": "history_credit", "legs": [credit("rich", 1)]},
}


@pytest.mark.parametrize("code", CASES)
def test_a_rejection_names_its_reason_and_moves_nothing(api: ApiCaller, code: str) -> None:
    body = {"operation_id": f"reject-{code}", **CASES[code]}

    answer = api.post(OPERATIONS, body)

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code), answer.text
    assert problem["operation_id"] == f"reject-{code}"
    record = api.get(f"/v1/operations/reject-{code}").json()
    assert (record["status"], record["position"]) == ("rejected", problem["position"])
    assert [api.balance(number) for number in ("rich", "limited", "held")] == [1_000] * 3


def test_what_is_must_book_goes_to_suspense_instead(api: ApiCaller) -> None:
    answer = api.post(OPERATIONS, operation("must", credit("closed", 70)))

    assert answer.status_code == 201
    issue = answer.json()["issues"][0]
    assert (issue["intended_account"], issue["reason"], issue["amount"]) == (
        "closed",
        "account_closed",
        70,
    )


@pytest.mark.parametrize(
    ("number", "fields", "code"),
    [
        ("rich", {"command": "close"}, "balance_remains"),
        ("nobody", {"command": "close"}, "unknown_account"),
        ("closed", {"command": "report_loss"}, "account_closed"),
        ("frozen", FREEZE, "freeze_exists"),
        (
            "frozen",
            FREEZE | {"command": "unfreeze", "authority": "other"},
            "other_authority",
        ),
        (
            "rich",
            FREEZE | {"command": "unfreeze"},
            "unknown_freeze",
        ),
        ("rich", {"command": "report_found"}, "no_change"),
    ],
)
def test_a_refused_command_names_its_reason(
    api: ApiCaller, number: str, fields: dict[str, str], code: str
) -> None:
    body = {"operation_id": f"{code}-{number}", **fields}

    answer = api.post(f"/v1/accounts/{number}/commands", body)

    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"account": "rich"}, "account_exists"),
        ({"account": "child", "parent": "nobody"}, "unknown_parent"),
        ({"account": "child", "parent": "rich", "currency": "EUR"}, "currency_mismatch"),
    ],
)
def test_a_refused_opening_names_its_reason(
    api: ApiCaller, fields: dict[str, str], code: str
) -> None:
    body = {**account("x"), "operation_id": f"open-{code}", **fields}

    answer = api.post("/v1/accounts", body)

    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
