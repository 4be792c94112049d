"""Batches over HTTP: one result per line, in order, whatever the neighbours are."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fix_api import NDJSON, ApiCaller, account, api_over, credit, debit, operation

BATCH = "/v1/operations:batch"


def test_results_come_one_per_line_in_order(api: ApiCaller) -> None:
    api.open("C-1")

    results = api.post_lines(
        BATCH,
        operation("r-1", credit("C-1", 100)),
        operation("w-1", debit("C-1", 500), business_type="withdrawal"),
        operation("w-2", debit("C-1", 30), business_type="withdrawal"),
    )

    assert [(r["operation_id"], r["status"]) for r in results] == [
        ("r-1", "booked"),
        ("w-1", "rejected"),
        ("w-2", "booked"),
    ]
    assert results[1]["code"] == "insufficient_funds"
    assert results[2]["accounts"][0]["balance"] == 70


def test_an_array_goes_in_and_comes_out(api: ApiCaller) -> None:
    api.open("C-1")

    answer = api.post(
        BATCH, [operation("r-1", credit("C-1", 1)), operation("r-2", credit("C-1", 2))]
    )

    assert answer.headers["content-type"] == "application/json"
    assert [result["status"] for result in answer.json()] == ["booked", "booked"]


def test_a_line_that_cannot_be_read_disturbs_nobody(api: ApiCaller) -> None:
    api.open("C-1")

    results = api.post_lines(
        BATCH,
        operation("r-1", credit("C-1", 1)),
        b'{"operation_id": nonsense}',
        operation("r-3", credit("C-1", -3)),
        b"",
        operation("r-4", credit("C-1", 4)),
    )

    assert [result["status"] for result in results] == ["booked", "error", "error", "booked"]
    assert [result.get("code") for result in results[1:3]] == ["malformed_json", "invalid_amount"]
    assert (results[2]["operation_id"], results[2]["line"]) == ("r-3", 3)
    assert api.balance("C-1") == 5


def test_lines_answered_from_the_record_say_so(api: ApiCaller) -> None:
    api.open("C-1")
    body = operation("r-1", credit("C-1", 1))

    results = api.post_lines(BATCH, body, body, operation("r-1", credit("C-1", 2)))

    assert [result.get("replayed", False) for result in results] == [False, True, False]
    assert results[2]["code"] == "operation_id_reused"


def test_an_atomic_batch_books_all_or_records_why_not(api: ApiCaller) -> None:
    api.open("C-1")

    refused = api.post_lines(
        BATCH,
        operation("r-1", credit("C-1", 1)),
        operation("w-1", debit("C-1", 9), business_type="withdrawal"),
        atomic="true",
    )
    booked = api.post_lines(
        BATCH,
        operation("r-2", credit("C-1", 9)),
        operation("w-2", debit("C-1", 9), business_type="withdrawal"),
        atomic="true",
    )

    assert [result["code"] for result in refused] == ["atomic_batch_rejected", "insufficient_funds"]
    assert [result["status"] for result in booked] == ["booked", "booked"]
    assert api.balance("C-1") == 0


def test_an_atomic_batch_with_an_unreadable_line_records_nothing(api: ApiCaller) -> None:
    api.open("C-1")
    position = api.position()

    results = api.post_lines(
        BATCH, operation("r-1", credit("C-1", 1)), operation(None, credit("C-1", 1)), atomic="true"
    )

    assert [result["code"] for result in results] == [
        "atomic_batch_refused",
        "operation_id_missing",
    ]
    assert api.position() == position


def test_a_dry_run_of_a_batch_records_nothing(api: ApiCaller) -> None:
    api.open("C-1")
    position = api.position()

    results = api.post_lines(
        BATCH,
        operation("r-1", credit("C-1", 10)),
        operation("w-1", debit("C-1", 10), business_type="withdrawal"),
        dry_run="true",
    )

    assert [(r["status"], r["dry_run"]) for r in results] == [("booked", True), ("booked", True)]
    assert api.position() == position


def test_a_body_cut_in_the_middle_of_a_line_is_refused_whole(api: ApiCaller) -> None:
    api.open("C-1")
    position = api.position()
    whole = json.dumps(operation("r-1", credit("C-1", 1))).encode() + b"\n"

    answer = api.post(BATCH, whole + whole[:40], content_type=NDJSON)

    assert (answer.status_code, answer.json()["code"]) == (400, "ndjson_truncated")
    assert api.position() == position


def test_the_last_line_needs_no_line_feed(api: ApiCaller) -> None:
    api.open("C-1")
    body = json.dumps(operation("r-1", credit("C-1", 1))).encode()

    answer = api.post(BATCH, body, content_type=NDJSON)

    assert answer.status_code == 200
    assert api.balance("C-1") == 1


def test_a_batch_over_the_maximum_is_refused(database_url: str, tmp_path: Path) -> None:
    with api_over(database_url, tmp_path, operations_per_request_max=2) as api:
        api.open("C-1")
        position = api.position()
        lines = [operation(f"r-{number}", credit("C-1", 1)) for number in range(3)]

        answer = api.post(BATCH, lines)

        assert (answer.status_code, answer.json()["code"]) == (413, "batch_too_large")
        assert api.position() == position


def test_an_empty_batch_has_no_results(api: ApiCaller) -> None:
    assert api.post(BATCH, []).json() == []
    assert api.post_lines(BATCH) == []


def test_accounts_are_opened_in_batches(api: ApiCaller) -> None:
    results = api.post_lines(
        "/v1/accounts:batch",
        account("C-1"),
        account("C-1", operation_id="again"),
        account("C-2", parent="C-1"),
        account("C-3", currency="XXQ"),
    )

    assert [(r["status"], r.get("code")) for r in results] == [
        ("booked", None),
        ("rejected", "account_exists"),
        ("booked", None),
        ("error", "unknown_currency"),
    ]


def test_a_large_batch_keeps_its_order(api: ApiCaller) -> None:
    api.open("C-1")
    lines = [operation(f"r-{number}", credit("C-1", 1)) for number in range(1_500)]

    results = api.post_lines(BATCH, *lines)

    assert [result["operation_id"] for result in results] == [
        line["operation_id"] for line in lines
    ]
    assert [result["accounts"][0]["balance"] for result in results] == list(range(1, 1_501))
