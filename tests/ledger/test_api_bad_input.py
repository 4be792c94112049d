"""Every kind of bad input gets a problem document with a stable code, and records nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from infra.postgres import EmbeddedPostgres
from tests.fix_api import NDJSON, ApiCaller, account, api_over, credit, debit, leg, operation
from tests.fix_postgres import fresh_database

OPERATIONS = "/v1/operations"
BATCH = "/v1/operations:batch"
BODY_BYTES_MAX = 300_000


@pytest.fixture(scope="module")
def api(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ApiCaller]:
    """One application for all cases: none of them may leave a trace."""
    with (
        fresh_database(postgres_server, template_database) as url,
        api_over(
            url,
            tmp_path_factory.mktemp("home"),
            body_bytes_max=BODY_BYTES_MAX,
            operations_per_request_max=10,
        ) as caller,
    ):
        caller.open("C-1")
        caller.credit("C-1", 1_000)
        yield caller


@pytest.fixture(autouse=True)
def nothing_is_recorded(api: ApiCaller) -> Iterator[None]:
    """Hold every case of this page to its promise."""
    before = api.position()
    yield
    assert api.position() == before


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a complete problem document; return it."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:daybook:problem:{code}"
    assert problem["title"]
    return problem


def raw_amount(text: str) -> bytes:
    """Say a recharge whose amount is these characters."""
    body = json.dumps(operation("bad", credit("C-1", 4711)))
    return body.replace("4711", text).encode()


@pytest.mark.parametrize(
    "amount",
    ["1.5", "1.0", "1e3", "true", '"100"', "-1", "0", "9223372036854775808", "null", "[1]"],
)
def test_an_amount_that_is_no_positive_integer_is_refused(api: ApiCaller, amount: str) -> None:
    problem = assert_problem(api.post(OPERATIONS, raw_amount(amount)), 400, "invalid_amount")
    assert problem["field"] == "legs[0].amount"


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "01", "+1", "1_000"])
def test_an_amount_that_is_no_json_is_refused(api: ApiCaller, amount: str) -> None:
    assert_problem(api.post(OPERATIONS, raw_amount(amount)), 400, "malformed_json")


@pytest.mark.parametrize("amount", [0, -1, 1.5, True, "1", 2**63, {"amount": 0, "currency": "CNY"}])
def test_a_named_amount_that_is_no_positive_integer_is_refused(
    api: ApiCaller, amount: object
) -> None:
    body = operation("bad", credit("C-1", 1), amounts={"fee": amount})
    assert_problem(api.post(OPERATIONS, body), 400, "invalid_amount")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"colour": "red"}, "unknown_field"),
        ({"legs": [{**credit("C-1", 1), "colour": "red"}]}, "unknown_field"),
        ({"orders": {"trade": "T", "colour": "red"}}, "unknown_field"),
        ({"legs": [{"kind": "credit", "account": "C-1", "amount": 1}]}, "missing_field"),
        ({"legs": [leg("steal", "C-1", 1)]}, "invalid_request"),
        ({"legs": [credit("", 1)]}, "invalid_request"),
        ({"legs": [credit("C" * 65, 1)]}, "invalid_request"),
        ({"legs": [credit("C-1", 1, currency="XQZ")]}, "unknown_currency"),
        ({"legs": [credit("C-1", 1, currency="RMBX")]}, "invalid_request"),
        ({"amounts": {"fee": {"amount": 1, "currency": "XQZ"}}}, "unknown_currency"),
        ({"legs": [], "amounts": {"fee": 1}}, "amount_without_currency"),
        ({"business_type": "gift"}, "unknown_business_type"),
        ({"business_type": "hold_expiry"}, "unknown_business_type"),
        ({"legs": [leg("hold", "C-1", 1)]}, "invalid_request"),
        ({"legs": [credit("C-1", 1, hold_id="h")]}, "invalid_request"),
        ({"legs": [leg("hold", "C-1", 1, hold_id="h", expires_at="noon")]}, "invalid_request"),
        (
            {"legs": [leg("hold", "C-1", 1, hold_id="h", expires_at="2026-02-01T00:00:00")]},
            "invalid_request",
        ),
        (
            {"legs": [leg("hold", "C-1", 1, hold_id="h", expires_at="9999-12-31T23:59:59-10:00")]},
            "invalid_request",
        ),
        ({"legs": [leg("freeze", "C-1", 1, freeze_id="f", authority="court")]}, "invalid_request"),
        ({"value_date": "2026-02-30"}, "invalid_request"),
        ({"operation_id": ""}, "invalid_operation_id"),
        ({"operation_id": "x" * 129}, "invalid_operation_id"),
        ({"operation_id": "expire:C-1:h"}, "invalid_operation_id"),
        ({"operation_id": "daybook:x"}, "invalid_operation_id"),
        ({"operation_id": 7}, "invalid_operation_id"),
        ({"description": "x" * 501}, "invalid_request"),
        ({"legs": [credit("C-1", 1)] * 501}, "invalid_request"),
    ],
)
def test_a_request_that_breaks_its_schema_is_refused(
    api: ApiCaller, change: dict[str, Any], code: str
) -> None:
    body = {**operation("bad", credit("C-1", 1)), **change}
    assert_problem(api.post(OPERATIONS, body), 400, code)


@pytest.mark.parametrize("field", ["operation_id", "description"])
@pytest.mark.parametrize("text", ["a\x00b", "\x00", "a\\\x00"])
def test_a_nul_character_is_refused(api: ApiCaller, field: str, text: str) -> None:
    body = {**operation("bad", credit("C-1", 1)), field: text}
    assert_problem(api.post(OPERATIONS, body), 400, "nul_character")


def test_a_raw_nul_byte_is_refused(api: ApiCaller) -> None:
    body = json.dumps(operation("bad", credit("C-1", 1))).encode().replace(b"C-1", b"C\x001")
    assert_problem(api.post(OPERATIONS, body), 400, "nul_character")


def test_an_escaped_backslash_before_u0000_is_no_nul(api: ApiCaller) -> None:
    body = operation("fine", credit("C-1", 1), description="a\\u0000b")
    assert api.post(OPERATIONS, body, dry_run="true").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"operation_id": "x"',
        b"\xff\xfe",
        b'{"operation_id": "\xff"}',
        b'{"operation_id": "\\ud800"}',
        b"[" * 100_000,
        b'{"legs": ' * 10_000,
        b"\xef\xbb\xbf{}",
        b'{"colour": "red"',
        b'{"operation_id": 7,',
        b'{"colour": "\xff"}',
    ],
    ids=[
        *("empty", "open", "word", "cut", "utf16", "latin1", "surrogate", "deep", "deep2", "bom"),
        *("cut_behind_unknown", "cut_behind_wrong", "latin1_in_unknown"),
    ],
)
def test_a_body_that_is_no_json_is_refused_as_such_whatever_else_it_breaks(
    api: ApiCaller, body: bytes
) -> None:
    assert_problem(api.post(OPERATIONS, body), 400, "malformed_json")


@pytest.mark.parametrize("body", [[], 7, "x", None, True])
def test_json_that_is_no_object_is_refused(api: ApiCaller, body: object) -> None:
    assert_problem(api.post(OPERATIONS, body), 400, "invalid_request")


def test_a_missing_operation_id_is_refused(api: ApiCaller) -> None:
    body = operation(None, credit("C-1", 1))
    assert_problem(api.post(OPERATIONS, body), 400, "operation_id_missing")


def test_two_different_operation_ids_are_refused(api: ApiCaller) -> None:
    body = operation("one", credit("C-1", 1))
    answer = api.post(OPERATIONS, body, headers={"Idempotency-Key": "two"})
    assert_problem(answer, 400, "operation_id_mismatch")


@pytest.mark.parametrize("given", ["x" * 129, "daybook:x", ""])
def test_an_idempotency_key_that_cannot_be_an_id_is_refused(api: ApiCaller, given: str) -> None:
    answer = api.post(
        OPERATIONS, operation(None, credit("C-1", 1)), headers={"Idempotency-Key": given}
    )
    assert_problem(answer, 400, "invalid_operation_id")


def test_a_body_over_the_limit_is_refused(api: ApiCaller) -> None:
    body = b" " * BODY_BYTES_MAX + json.dumps(operation("bad", credit("C-1", 1))).encode()
    assert_problem(api.post(OPERATIONS, body), 413, "body_too_large")


def test_an_operation_over_the_message_limit_is_refused(api: ApiCaller) -> None:
    body = operation("bad", *[credit("C-1", 1) for _ in range(450)])
    assert_problem(api.post(OPERATIONS, body), 413, "operation_too_large")


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "", NDJSON])
def test_a_wrong_content_type_is_refused(api: ApiCaller, content_type: str) -> None:
    answer = api.post(OPERATIONS, operation("bad", credit("C-1", 1)), content_type=content_type)
    assert_problem(answer, 415, "unsupported_media_type")


def test_another_charset_is_refused(api: ApiCaller) -> None:
    body = operation("bad", credit("C-1", 1))
    answer = api.post(OPERATIONS, body, content_type="application/json; charset=latin-1")
    assert_problem(answer, 415, "unsupported_media_type")


def test_a_batch_of_another_content_type_is_refused(api: ApiCaller) -> None:
    answer = api.post(BATCH, [], content_type="text/csv")
    assert_problem(answer, 415, "unsupported_media_type")


def test_a_batch_over_the_maximum_is_refused(api: ApiCaller) -> None:
    lines = [operation(f"bad-{number}", credit("C-1", 1)) for number in range(11)]
    assert_problem(api.post(BATCH, lines), 413, "batch_too_large")


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{}", "invalid_request"), (b"[{}", "malformed_json"), (b"7", "invalid_request")],
)
def test_a_batch_that_is_no_array_is_refused(api: ApiCaller, body: bytes, code: str) -> None:
    assert_problem(api.post(BATCH, body), 400, code)


def test_a_batch_cut_in_the_middle_of_a_line_is_refused(api: ApiCaller) -> None:
    line = json.dumps(operation("bad", credit("C-1", 1))).encode()
    answer = api.post(BATCH, line + b"\n" + line[:-5], content_type=NDJSON)
    assert_problem(answer, 400, "ndjson_truncated")


def test_a_batch_takes_no_idempotency_key(api: ApiCaller) -> None:
    answer = api.post(BATCH, [], headers={"Idempotency-Key": "one"})
    assert_problem(answer, 400, "invalid_parameter")


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (OPERATIONS, {"dryrun": "true"}),
        (OPERATIONS, {"dry_run": "yes"}),
        (BATCH, {"atomic": "1"}),
        ("/v1/accounts", {"colour": "red"}),
    ],
)
def test_a_query_parameter_nobody_declared_is_refused(
    api: ApiCaller, path: str, query: dict[str, str]
) -> None:
    assert_problem(api.post(path, account("X"), **query), 400, "invalid_parameter")


@pytest.mark.parametrize("book", ["nowhere", "x" * 64])
def test_an_unknown_book_is_refused(api: ApiCaller, book: str) -> None:
    answer = api.post(
        OPERATIONS, operation("bad", credit("C-1", 1)), headers={"Daybook-Book": book}
    )
    assert_problem(answer, 404, "unknown_book")


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/v1/accounts", {"limit": "0"}, "invalid_parameter"),
        ("/v1/accounts", {"limit": "1001"}, "invalid_parameter"),
        ("/v1/accounts", {"limit": "١"}, "invalid_parameter"),
        ("/v1/accounts", {"cursor": "!"}, "invalid_cursor"),
        ("/v1/accounts", {"cursor": "MQ"}, "invalid_cursor"),
        ("/v1/accounts", {"cursor": "IlwiAAAiIg"}, "invalid_cursor"),
        ("/v1/accounts", {"owner": "a\x00b"}, "invalid_parameter"),
        ("/v1/accounts", {"colour": "red"}, "invalid_parameter"),
        ("/v1/accounts/C-1/events", {"cursor": "Ii0xIg"}, "invalid_cursor"),
        ("/v1/accounts/C-1/events", {"cursor": "LTE"}, "invalid_cursor"),
    ],
)
def test_a_read_that_cannot_be_understood_is_refused(
    api: ApiCaller, path: str, query: dict[str, str], code: str
) -> None:
    assert_problem(api.get(path, **query), 400, code)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/accounts/nobody",
        "/v1/accounts/a%00b",
        "/v1/accounts/nobody/events",
        "/v1/accounts/nobody/holds",
        "/v1/operations/nobody",
        "/v1/operations/a%00b",
        "/v1/books/nowhere",
        "/v1/books/a%00b",
        "/v1/nothing",
        "/v1/",
        "/",
    ],
)
def test_what_is_not_there_is_not_found(api: ApiCaller, path: str) -> None:
    assert_problem(api.get(path), 404, "not_found")


def test_a_method_the_path_does_not_take_names_those_it_takes(api: ApiCaller) -> None:
    answer = api.http.put(
        "/v1/accounts", content=b"{}", headers={"Authorization": f"Bearer {api.key}"}
    )
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"account": "a b"}, "invalid_request"),
        ({"account": "a/b"}, "invalid_request"),
        ({"account": "x" * 65}, "invalid_request"),
        ({"currency": "XQZ"}, "unknown_currency"),
        ({"normal_side": "left"}, "invalid_request"),
        ({"credit_limit": -1}, "invalid_amount"),
        ({"credit_limit": 5, "overdraft_floor": -5}, "invalid_request"),
        ({"overdraft_floor": 5}, "invalid_amount"),
        ({"payment_status": "gone"}, "invalid_request"),
        ({"colour": "red"}, "unknown_field"),
        ({"owner": "a\x00b"}, "nul_character"),
    ],
)
def test_an_account_that_breaks_its_schema_is_refused(
    api: ApiCaller, change: dict[str, Any], code: str
) -> None:
    assert_problem(api.post("/v1/accounts", {**account("X-1"), **change}), 400, code)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"command": "steal"}, "invalid_request"),
        ({}, "missing_field"),
        ({"command": "freeze", "freeze_id": "f", "authority": "c", "order": "o"}, "missing_field"),
        ({"command": "freeze", "freeze_id": "f", "authority": "c", "reason": "r"}, "missing_field"),
        ({"command": "freeze", "freeze_id": "f", "order": "o", "reason": "r"}, "missing_field"),
        ({"command": "freeze", "authority": "c", "order": "o", "reason": "r"}, "missing_field"),
        (
            {"command": "unfreeze", "freeze_id": "f", "authority": "c", "order": "o"},
            "missing_field",
        ),
        ({"command": "court_inquiry"}, "missing_field"),
        ({"command": "limit", "business_type": "gift"}, "unknown_business_type"),
        (
            {"command": "payment_status", "payment_status": "partial_stop", "partial_types": ["g"]},
            "unknown_business_type",
        ),
        (
            {"command": "payment_status", "payment_status": "normal", "partial_types": ["fee"]},
            "invalid_request",
        ),
        (
            {"command": "payment_status", "payment_status": "blocked", "partial_amount": 0},
            "invalid_request",
        ),
        ({"command": "reserve", "reserve": -1}, "invalid_amount"),
        ({"command": "reserve", "reserve": 1, "colour": "red"}, "unknown_field"),
    ],
)
def test_a_command_that_breaks_its_schema_is_refused(
    api: ApiCaller, command: dict[str, Any], code: str
) -> None:
    body = {"operation_id": "bad", **command}
    assert_problem(api.post("/v1/accounts/C-1/commands", body), 400, code)


def test_an_if_match_that_is_no_etag_is_refused(api: ApiCaller) -> None:
    body = {"operation_id": "bad", "command": "reserve", "reserve": 1}
    answer = api.post("/v1/accounts/C-1/commands", body, headers={"If-Match": "seven"})
    assert_problem(answer, 400, "invalid_parameter")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/books", {"book_id": "b", "name": "B"}, 400, "missing_field"),
        (
            "/v1/books",
            {"book_id": "a/b", "name": "B", "open_business_date": "2026-01-01"},
            400,
            "invalid_request",
        ),
        ("/v1/books/main/day", {"business_date": "tomorrow"}, 400, "invalid_request"),
        ("/v1/books/main/day", {"business_date": "2026-01-30"}, 409, "day_refused"),
        ("/v1/books/nowhere/day", {"business_date": "2026-01-31"}, 404, "not_found"),
    ],
)
def test_a_book_or_day_that_cannot_be_is_refused(
    api: ApiCaller, path: str, body: dict[str, str], status: int, code: str
) -> None:
    assert_problem(api.post(path, body), status, code)


def test_a_debit_over_the_balance_in_a_dry_run_names_leg_and_account(api: ApiCaller) -> None:
    body = operation("bad", debit("C-1", 10**9), business_type="withdrawal")
    problem = assert_problem(api.post(OPERATIONS, body, dry_run="true"), 422, "insufficient_funds")
    assert (problem["leg_no"], problem["account"]) == (1, "C-1")
