"""The event schemas in the repository are those of the structs, and the events keep to them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from ledger import events as ev
from ledger.codec import encode_state
from ledger.event_schemas import FOLDER, schema_files, write_schemas
from tests.ledger.samples import sample_of

NAMES = sorted(schema_files())


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_in_the_repository_is_the_structs(name: str) -> None:
    said = (FOLDER / name).read_text("utf-8")
    assert said == schema_files()[name], "run: python -m ledger.event_schemas"


def test_there_is_a_schema_for_every_event_and_none_for_anything_else() -> None:
    events = {name.split(".")[0] for name in NAMES}
    assert events == {struct.__name__ for struct in ev.LedgerEvent.__args__}
    there = {path.name for path in FOLDER.glob("*.json")}
    assert {name.split(".")[0] for name in there} == events


@pytest.mark.parametrize("struct", ev.LedgerEvent.__args__, ids=lambda struct: struct.__name__)
def test_an_event_with_every_field_keeps_to_its_schema(struct: type) -> None:
    schema = json.loads(schema_files()[f"{struct.__name__}.1.json"])
    jsonschema.validate(json.loads(encode_state(sample_of(struct))), schema)


def test_schemas_are_written_once(tmp_path: Path) -> None:
    assert sorted(write_schemas(tmp_path)) == NAMES
    assert write_schemas(tmp_path) == []
