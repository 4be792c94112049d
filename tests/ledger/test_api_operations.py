"""Posting one operation over HTTP: answers, repeated answers, and callers at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_api import ApiCaller, api_over, credit, debit, leg, operation

OPERATIONS = "/v1/operations"


def test_a_booked_operation_answers_with_every_touched_account(api: ApiCaller) -> None:
    api.open("C-1", "C-2")
    api.credit("C-1", 1_000)

    answer = api.post(
        OPERATIONS,
        operation("t-1", debit("C-1", 300), credit("C-2", 300), business_type="transfer"),
    )

    assert answer.status_code == 201
    told = answer.json()
    assert (told["status"], told["accounting_status"]) == ("booked", "pending")
    assert [
        (a["account"], a["balance"], a["available"], a["version"]) for a in told["accounts"]
    ] == [
        ("C-1", 700, 700, 3),
        ("C-2", 300, 300, 2),
    ]
    assert told["business_date"] == "2026-01-31"


def test_the_same_operation_again_gets_the_first_answer_byte_for_byte(api: ApiCaller) -> None:
    api.open("C-1")
    body = operation("r-1", credit("C-1", 100))
    first = api.post(OPERATIONS, body)
    api.credit("C-1", 5)

    again = api.post(OPERATIONS, dict(reversed(body.items())))

    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert api.balance("C-1") == 105


def test_a_rejection_is_answered_the_same_again_even_when_the_money_has_come(
    api: ApiCaller,
) -> None:
    api.open("C-1")
    body = operation("w-1", debit("C-1", 100), business_type="withdrawal")
    first = api.post(OPERATIONS, body)
    api.credit("C-1", 1_000)

    again = api.post(OPERATIONS, body)

    assert first.status_code == again.status_code == 422
    assert first.json()["code"] == "insufficient_funds"
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == "application/problem+json"


def test_an_operation_id_with_another_body_is_refused(api: ApiCaller) -> None:
    api.open("C-1")
    api.post(OPERATIONS, operation("r-1", credit("C-1", 100)))
    position = api.position()

    other = api.post(OPERATIONS, operation("r-1", credit("C-1", 101)))

    assert (other.status_code, other.json()["code"]) == (422, "operation_id_reused")
    assert api.position() == position


def test_the_id_in_the_header_is_the_id_in_the_body(api: ApiCaller) -> None:
    api.open("C-1")
    named = {"Idempotency-Key": "r-1"}

    by_header = api.post(OPERATIONS, operation(None, credit("C-1", 100)), headers=named)
    by_body = api.post(OPERATIONS, operation("r-1", credit("C-1", 100)))
    by_both = api.post(OPERATIONS, operation("r-1", credit("C-1", 100)), headers=named)

    assert by_header.content == by_body.content == by_both.content
    assert api.balance("C-1") == 100


def test_a_dry_run_answers_and_records_nothing(api: ApiCaller) -> None:
    api.open("C-1")
    position = api.position()

    booked = api.post(OPERATIONS, operation("r-1", credit("C-1", 100)), dry_run="true")
    rejected = api.post(
        OPERATIONS,
        operation("w-1", debit("C-1", 1), business_type="withdrawal"),
        dry_run="true",
    )

    assert (booked.status_code, booked.json()["dry_run"], booked.json()["position"]) == (
        200,
        True,
        None,
    )
    assert (rejected.status_code, rejected.json()["dry_run"]) == (422, True)
    assert api.position() == position
    assert api.get("/v1/operations/r-1").status_code == 404


def test_history_is_posted_only_with_the_import_permission(api: ApiCaller) -> None:
    api.open("C-1", business_date="2020-01-01")
    entry = operation(
        "h-1", credit("C-1", 100), business_type="history_credit", business_date="2026-01-31"
    )

    refused = api.post(OPERATIONS, entry, key=api.make_key("post"))
    importer = api.make_key("import", principal="importer")
    booked = api.post(OPERATIONS, entry, key=importer)
    live = api.post(OPERATIONS, operation("r-1", credit("C-1", 1)), key=importer)

    assert (refused.status_code, refused.json()["code"]) == (403, "not_permitted")
    assert booked.status_code == 201
    assert live.status_code == 403


def test_the_record_of_an_operation_can_be_read_with_what_followed_it(api: ApiCaller) -> None:
    api.open("C-1")
    api.credit("C-1", 500)
    api.post(OPERATIONS, operation("p/1", debit("C-1", 100, part="card"), business_type="payment"))
    refund = operation(
        "b-1", credit("C-1", 40, part="card"), business_type="refund", original_operation_id="p/1"
    )
    api.post(OPERATIONS, refund)

    told = api.get("/v1/operations/p/1").json()

    assert (told["status"], told["accounting_status"]) == ("booked", "pending")
    assert told["record"]["principal"] == "local"
    assert [follower["fact"]["by_operation_id"] for follower in told["followed_by"]] == ["b-1"]
    assert told["followed_by"][0]["fact"]["refunded"] == {"card": 40}


def test_the_first_answer_is_given_again_after_a_restart(database_url: str, tmp_path: Path) -> None:
    booked = operation("r-1", credit("C-1", 100))
    refused = operation("w-1", debit("C-1", 500), business_type="withdrawal")
    with api_over(database_url, tmp_path) as api:
        api.open("C-1")
        first = [api.post(OPERATIONS, body).content for body in (booked, refused)]
        api.credit("C-1", 10_000)

    with api_over(database_url, tmp_path) as api:
        again = [api.post(OPERATIONS, body) for body in (booked, refused)]

    assert [answer.content for answer in again] == first
    assert {answer.headers["idempotent-replayed"] for answer in again} == {"true"}


def test_two_processes_on_one_database_book_each_operation_once(
    api_server: tuple[ApiCaller, object], tmp_path: Path
) -> None:
    other, _ = api_server
    with api_over(other.database_url, other.home) as api, ThreadPoolExecutor(16) as callers:
        api.open("C-1", "C-2")
        api.credit("C-1", 1_000)

        def post(number: int) -> tuple[int, bytes]:
            body = operation(
                f"t-{number % 100}",
                debit("C-1", 10),
                credit("C-2", 10),
                business_type="transfer",
            )
            answer = (api, other)[number // 100].post(OPERATIONS, body)
            return number % 100, answer.content

        answers = set(callers.map(post, range(200)))

        assert len(answers) == 100  # both processes gave the same answer to the same operation
        assert (api.balance("C-1"), other.balance("C-2")) == (0, 1_000)


def test_fifty_callers_with_one_operation_book_it_once(api: ApiCaller) -> None:
    api.open("C-1")
    body = operation("r-1", credit("C-1", 100))

    with ThreadPoolExecutor(50) as callers:
        answers = list(callers.map(lambda _: api.post(OPERATIONS, body), range(50)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert api.balance("C-1") == 100


def test_fifty_refunds_at_once_never_exceed_the_part(api: ApiCaller) -> None:
    api.open("C-1", "M-1")
    api.credit("C-1", 97)
    api.credit("M-1", 10_000)
    api.post(
        OPERATIONS,
        operation(
            "p-1",
            debit("C-1", 97, part="card"),
            credit("M-1", 97),
            business_type="payment",
        ),
    )

    def refund(number: int) -> int:
        body = operation(
            f"b-{number}",
            debit("M-1", 5),
            credit("C-1", 5, part="card"),
            business_type="refund",
            original_operation_id="p-1",
        )
        answer = api.post(OPERATIONS, body)
        assert answer.status_code == 201 or answer.json()["code"] == "refund_exceeds_part"
        return answer.status_code

    with ThreadPoolExecutor(50) as callers:
        statuses = list(callers.map(refund, range(50)))

    assert statuses.count(201) == 19
    assert api.balance("C-1") == 95


@pytest.mark.parametrize(
    "frozen",
    [
        {"kind": "freeze", "authority": "court", "order": "o-1", "reason": "suit"},
        {"kind": "hold", "hold_id": "h-1"},
    ],
    ids=["frozen", "held"],
)
def test_what_is_frozen_or_held_is_not_available(api: ApiCaller, frozen: dict[str, str]) -> None:
    api.open("C-1")
    api.credit("C-1", 100)
    more = {name: value for name, value in frozen.items() if name != "kind"}
    if frozen["kind"] == "freeze":
        more["freeze_id"] = "f-1"

    api.post(
        OPERATIONS, operation("x-1", leg(frozen["kind"], "C-1", 60, **more), business_type="hold")
    )

    state = api.get("/v1/accounts/C-1").json()
    assert (state["balance"], state["available"]) == (100, 40)
