"""The OpenAPI document of the ledger's routes, made from their table and their examples.

Schemas are the structs' own (`msgspec.json.schema_components`), so that document and decoder
cannot differ. Invariant: each example is named the same in its request and in the response it
gets, and a test sends every one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ledger.api import REJECTED_STATUS, STATUS, LineError, Problem
from ledger.api_routes import ROUTES, Route
from ledger.errors import RejectionReason
from ledger.principals import SCOPES

EXAMPLES = Path(__file__).with_name("api_examples.json")
PROBLEM = "application/problem+json"
JSON = "application/json"
NDJSON = "application/x-ndjson"
REF = "#/components/schemas/{name}"

# Each parameter by its name: where it stands, its schema, what it means.
PARAMETERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "Daybook-Book": ("header", {"type": "string"}, "The book; left out: the server's default."),
    "Idempotency-Key": (
        "header",
        {"type": "string", "minLength": 1, "maxLength": 128},
        "The operation id, when the body has none. Send UUIDv7.",
    ),
    "If-Match": (
        "header",
        {"type": "string", "pattern": '^("[0-9]{1,18}"|\\*)$'},
        "The account's ETag; another version is refused with 412.",
    ),
    "cursor": ("query", {"type": "string"}, "`next_cursor` of the page before."),
    "limit": ("query", {"type": "integer", "minimum": 1, "maximum": 1000}, "Items of a page."),
    "dry_run": ("query", {"type": "boolean"}, "Decide and answer, record nothing."),
    "atomic": ("query", {"type": "boolean"}, "Book all lines or none."),
    "owner": ("query", {"type": "string"}, "Only accounts of this owner."),
    "type": ("query", {"type": "string"}, "Only accounts of this type."),
    "subject": ("query", {"type": "string"}, "Only accounts of this subject."),
    "currency": ("query", {"type": "string"}, "Only accounts in this currency."),
    "parent": ("query", {"type": "string"}, "Only accounts directly below this one."),
    "status": ("query", {"enum": ["open", "closed"]}, "Only open or closed accounts."),
    "payment_status": (
        "query",
        {"enum": ["receive_only", "normal", "blocked", "partial_stop"]},
        "Only accounts with this payment status.",
    ),
    "number": ("path", {"type": "string", "pattern": "^[!-.0-~]{1,74}$"}, "Account number."),
    "operation_id": (
        "path",
        {"type": "string", "minLength": 1, "maxLength": 128},
        "Operation or command id.",
    ),
    "book_id": ("path", {"type": "string", "minLength": 1, "maxLength": 64}, "Book id."),
}
RESPONSE_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotent-Replayed": {
        "description": "`true` when this is the first answer, given again.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "Seconds after which asking again makes sense.",
        "schema": {"type": "integer"},
    },
}


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call and its real answer, as `api_examples.json` has it."""

    route: str
    name: str
    summary: str
    status: int
    answer: Any
    params: dict[str, str] = {}
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    content_type: str = JSON
    body: Any = None


ACCEPTED_STATUS = 202
ACCEPTED_WORDS = """\
Booked for good, and a leg of it waits on a hot account's buffer: it is applied to the account
within the bound of the account's agreement (leg: `account` is the buffer account,
`intended_account` the account). The same answer again under the same operation id."""


def load_examples() -> list[Example]:
    """Return the examples in the order in which they run on a fresh book."""
    return msgspec.json.decode(EXAMPLES.read_bytes(), type=list[Example])


def add_ledger_documents(document: dict[str, Any]) -> dict[str, Any]:
    """Add the ledger's paths, schemas and key to an OpenAPI document."""
    examples: dict[str, list[Example]] = {}
    for example in load_examples():
        examples.setdefault(example.route, []).append(example)
    schema_of = _add_schemas(document)
    paths = document.setdefault("paths", {})
    for route in ROUTES:
        path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
        operation = _operation(route, examples.get(route.name, []), schema_of)
        paths.setdefault(path, {})[route.method.lower()] = operation
    document["components"].setdefault("securitySchemes", {})["key"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key. Scopes: "
        + "; ".join(f"{scope} ({words})" for scope, words in SCOPES.items()),
    }
    document["info"]["description"] = _codes()
    return document


def _codes() -> str:
    """Return the table of problem codes, from the one table of HTTP numbers."""
    lines = [
        "Amounts are integers in minor units. Problems are RFC 9457 documents.",
        "",
        "| code | status | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| {code} | {status} | {title} |" for code, (status, title) in STATUS.items()]
    lines += [
        f"| {reason.value} | {REJECTED_STATUS} | rejected, on record, answered the same again |"
        for reason in RejectionReason
    ]
    return "\n".join(lines)


def _add_schemas(document: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    """Put the schemas of every body into the document; return the way to refer to one."""
    types = {route.takes for route in ROUTES} | {route.gives for route in ROUTES}
    wanted = [*sorted(types - {None}, key=str), Problem, LineError]
    schemas, components = msgspec.json.schema_components(wanted, ref_template=REF)
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    by_type = dict(zip(wanted, schemas, strict=True))
    return lambda kind: by_type[kind]


def _operation(
    route: Route, examples: list[Example], schema_of: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": (route.handler.__doc__ or "").strip(),
        "tags": [route.path.split("/")[2].split(":")[0] if "/v1/" in route.path else "health"],
        "parameters": _parameters(route, examples),
        "responses": _responses(route, examples, schema_of),
    }
    if route.scope is not None:
        operation["security"] = [{"key": []}]
        operation["description"] += f" Needs scope `{route.scope}`."
    if route.takes is not None:
        operation["requestBody"] = {
            "required": True,
            "content": _request_content(route, examples, schema_of(route.takes)),
        }
    return operation


def _parameters(route: Route, examples: list[Example]) -> list[dict[str, Any]]:
    in_path = re.findall(r"\{(\w+)", route.path)
    found: list[dict[str, Any]] = []
    for name in (*in_path, *route.query, *route.headers):
        where, schema, description = PARAMETERS[name]
        parameter: dict[str, Any] = {
            "name": name,
            "in": where,
            "description": description,
            "schema": schema,
        }
        if where == "path":
            parameter["required"] = True
        given = {
            example.name: {"value": value}
            for example in examples
            if (value := _given(example, name)) is not None
        }
        if given:
            parameter["examples"] = given
        found.append(parameter)
    return found


def _given(example: Example, name: str) -> str | None:
    return example.params.get(name) or example.query.get(name) or example.headers.get(name)


def _request_content(
    route: Route, examples: list[Example], schema: dict[str, Any]
) -> dict[str, Any]:
    schemas = {JSON: schema}
    if route.lines:
        schemas = {
            JSON: {"type": "array", "items": schema},
            NDJSON: {"type": "string", "description": "One JSON object per line."},
        }
    return {
        media_type: {
            "schema": one,
            "examples": {
                example.name: {"summary": example.summary, "value": example.body}
                for example in examples
                if example.content_type == media_type
            },
        }
        for media_type, one in schemas.items()
    }


def _responses(
    route: Route, examples: list[Example], schema_of: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    responses = {str(route.status): _success(route, examples, schema_of)}
    if "dry_run" in route.query and route.status != 200:
        dry = _success(route, [], schema_of)
        responses["200"] = {**dry, "description": "What a dry run would have answered."}
    if route.name == "post_operation":
        accepted = _success(route, [], schema_of)
        if shown := _answers(examples, ACCEPTED_STATUS):
            accepted["content"][JSON]["examples"] = shown
        responses[str(ACCEPTED_STATUS)] = {**accepted, "description": ACCEPTED_WORDS}
    if route.name == "get_readiness":
        responses["503"] = {**responses["200"], "description": "A part is not ready."}
    for status in route.refuses:
        codes = [code for code, (number, _) in STATUS.items() if number == status]
        if status == REJECTED_STATUS:
            codes.append("every rejection")
        content: dict[str, Any] = {"schema": schema_of(Problem)}
        if shown := _answers(examples, status):
            content["examples"] = shown
        responses[str(status)] = {
            "description": ", ".join(codes),
            "content": {PROBLEM: content},
            **_headers(route, status),
        }
    return responses


def _success(
    route: Route, examples: list[Example], schema_of: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    if route.gives is None:
        return {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    schema = schema_of(route.gives)
    contents = {JSON: {"schema": schema}}
    if route.lines:
        line = {"anyOf": [schema, schema_of(LineError)]}
        contents = {
            JSON: {"schema": {"type": "array", "items": line}},
            NDJSON: {"schema": {"type": "string", "description": "One result per line."}},
        }
    for media_type, content in contents.items():
        same = [example for example in examples if example.content_type == media_type]
        if shown := _answers(same, route.status):
            content["examples"] = shown
    return {"description": route.summary, "content": contents, **_headers(route, route.status)}


def _answers(examples: list[Example], status: int) -> dict[str, Any]:
    return {
        example.name: {"summary": example.summary, "value": example.answer}
        for example in examples
        if example.status == status
    }


def _headers(route: Route, status: int) -> dict[str, Any]:
    if status == 503:
        return {"headers": {"Retry-After": RESPONSE_HEADERS["Retry-After"]}}
    if "Idempotency-Key" in route.headers and status in (route.status, REJECTED_STATUS):
        return {"headers": {"Idempotent-Replayed": RESPONSE_HEADERS["Idempotent-Replayed"]}}
    return {}
