"""The OpenAPI document: complete, valid, its examples run, and no input makes the server fail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from infra.postgres import EmbeddedPostgres
from ledger.api_docs import load_examples
from ledger.api_routes import ROUTES, Route
from ledger.business_types import load_business_types
from tests.fix_api import ApiCaller, api_over
from tests.fix_postgres import fresh_database

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES_MAX = 15
REACHED = {"Daybook-Book": ["main"], "number": ["C-1"], "book_id": ["main"]}
# What differs from run to run: instants and ages, the log's own id, positions in it.
VOLATILE = re.compile(
    r'"(?:booked_at|opened_at|log_id|fingerprint|next_cursor)": ?"[^"]*"'
    r'|"(?:log_)?position": ?\d+|"(?:lag|age)_s": ?[\d.]+'
)


@pytest.fixture(scope="module")
def document(shared_api: ApiCaller) -> dict[str, Any]:
    """The document as the server gives it."""
    answer = shared_api.get("/openapi.json")
    assert answer.status_code == 200
    told: dict[str, Any] = answer.json()
    return told


def ledger_operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation of the ledger's own routes."""
    names = {route.name for route in ROUTES}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation["operationId"] in names:
                yield path, method.upper(), operation


def test_every_route_is_in_the_document_with_schemas_and_refusals(
    document: dict[str, Any],
) -> None:
    described = {
        operation["operationId"]: operation for _, _, operation in ledger_operations(document)
    }

    assert set(described) == {route.name for route in ROUTES}
    for operation in described.values():
        for response in operation["responses"].values():
            assert all("schema" in content for content in response["content"].values())
        health = operation["tags"] == ["health"]
        assert ("401" in operation["responses"]) == ("security" in operation)
        assert health or operation["security"] == [{"key": []}]


def test_every_schema_is_valid_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_route_with_a_body_has_an_example(document: dict[str, Any]) -> None:
    for path, method, operation in ledger_operations(document):
        if method == "POST":
            contents = operation["requestBody"]["content"].values()
            assert any(content.get("examples") for content in contents), path


def test_every_example_runs_and_answers_as_documented(
    document: dict[str, Any], database_url: str, tmp_path: Path
) -> None:
    paths = {operation["operationId"]: path for path, _, operation in ledger_operations(document)}
    with api_over(database_url, tmp_path) as api:
        for example in load_examples():
            method = next(route.method for route in ROUTES if route.name == example.route)
            body = example.body
            content = body if isinstance(body, str) else json.dumps(body)
            answer = api.http.request(
                method,
                paths[example.route].format(**example.params),
                params=example.query,
                headers={
                    "Authorization": f"Bearer {api.key}",
                    "Content-Type": example.content_type,
                    **example.headers,
                },
                content=None if body is None else content,
            )

            where = f"{example.route} {example.name}: {answer.text}"
            assert answer.status_code == example.status, where
            assert _steady(_told(answer)) == _steady(example.answer), where
            _assert_documented(document, example.route, answer)


def _told(answer: httpx.Response) -> Any:
    return answer.text if "ndjson" in answer.headers["content-type"] else answer.json()


def _steady(value: Any) -> str:
    """Return an answer with what differs from run to run left out."""
    text = value if isinstance(value, str) else json.dumps(value)
    return VOLATILE.sub("…", text)


def _assert_documented(document: dict[str, Any], route: str, answer: httpx.Response) -> None:
    operation = next(op for _, _, op in ledger_operations(document) if op["operationId"] == route)
    media_type = answer.headers["content-type"].split(";")[0]
    schema = operation["responses"][str(answer.status_code)]["content"][media_type]["schema"]
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole).validate(_told(answer))


@pytest.fixture(scope="module")
def fuzzed(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ApiCaller]:
    """An application that may be sent anything."""
    with (
        fresh_database(postgres_server, template_database) as url,
        api_over(url, tmp_path_factory.mktemp("home")) as caller,
    ):
        caller.open("C-1")
        yield caller


def reaching(document: dict[str, Any]) -> dict[str, Any]:
    """Name what exists where any text would do, so that requests get as far as the engine."""
    told: dict[str, Any] = json.loads(json.dumps(document))
    schemas = told["components"]["schemas"]
    schemas["Operation"]["properties"]["business_type"] = {
        "enum": sorted(load_business_types().types)
    }
    schemas["Leg"]["properties"]["account"] = {"enum": ["C-1", "nobody"]}
    for name in ("Leg", "OpenAccount", "RequestedAmount"):
        schemas[name]["properties"]["currency"] = {"enum": ["CNY", "JPY"]}
    for path in told["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in REACHED:
                    parameter["schema"] = {"enum": REACHED[parameter["name"]]}
    return told


@pytest.mark.parametrize("reach", [False, True], ids=["any", "known"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_no_generated_request_makes_the_server_fail(
    fuzzed: ApiCaller, document: dict[str, Any], route: Route, *, reach: bool
) -> None:
    schema = schemathesis.openapi.from_dict(reaching(document) if reach else document)
    path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
    operation = schema[path][route.method]
    key = {"Authorization": f"Bearer {fuzzed.key}"}

    @settings(
        max_examples=EXAMPLES_MAX,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def sends_anything(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy())
        answer = case.call(base_url=str(fuzzed.http.base_url), headers=key)
        case.validate_response(answer, checks=CHECKS)

    sends_anything()
