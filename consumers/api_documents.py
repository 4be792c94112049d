"""The OpenAPI words of the routes in `api.py`: bodies taken and given, and every refusal.

Invariant: schemas are the structs' own, so that document and decoder cannot differ.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ledger.api import STATUS, Problem

REF = "#/components/schemas/{name}"
PROBLEM = "application/problem+json"
REFUSED = (400, 401, 403, 404, 408, 409, 413, 415, 422, 503)

_documented: list[Any] = [Problem]


def takes(kind: Any, **examples: Any) -> dict[str, Any]:
    """Document the body that a route takes."""
    named = {name: {"value": value} for name, value in examples.items()}
    content = {"schema": _schema_of(kind), "examples": named}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def answers(kinds: dict[int, Any]) -> dict[int | str, dict[str, Any]]:
    """Document what a route that decides something answers, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    for status, kind in kinds.items():
        content = {"application/json": {"schema": _schema_of(kind)}}
        found[status] = {"description": (kind.__doc__ or "").split("\n")[0], "content": content}
    return found | REFUSALS


def add_repair_documents(document: dict[str, Any]) -> dict[str, Any]:
    """Put the schemas of these bodies into an OpenAPI document."""
    _, components = msgspec.json.schema_components(_documented, ref_template=REF)
    document.setdefault("components", {}).setdefault("schemas", {}).update(components)
    return document


def _schema_of(kind: Any) -> dict[str, Any]:
    if kind not in _documented:
        _documented.append(kind)
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REF)
    return schema


def _refusals() -> dict[int | str, dict[str, Any]]:
    content = {PROBLEM: {"schema": _schema_of(Problem)}}
    found: dict[int | str, dict[str, Any]] = {}
    for status in REFUSED:
        codes = [code for code, (number, _) in STATUS.items() if number == status]
        found[status] = {"description": ", ".join(codes), "content": content}
    return found


REFUSALS = _refusals()
