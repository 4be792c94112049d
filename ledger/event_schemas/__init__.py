"""JSON schemas of the ledger's events, one file per event and version, generated.

`python -m ledger.event_schemas` writes them; a test compares them with the structs. A schema
is a promise to every reader of the log. Invariant: a file of an older version is never
changed: its rows are there for ever.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from ledger import events

FOLDER = Path(__file__).parent
VERSION = 1  # of every event so far; a struct that moves on gets a `class_version`


def schema_files() -> dict[str, str]:
    """Return file name → content for every event of the ledger, as it should be."""
    return {
        f"{struct.__name__}.{getattr(struct, 'class_version', VERSION)}.json": _text(struct)
        for struct in events.LedgerEvent.__args__
    }


def write_schemas(folder: Path = FOLDER) -> list[str]:
    """Write the files that are missing or differ; return their names."""
    written = []
    for name, text in schema_files().items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            written.append(name)
    return written


def _text(struct: type[msgspec.Struct]) -> str:
    (schema,), parts = msgspec.json.schema_components([struct], ref_template="#/$defs/{name}")
    named = parts.pop(struct.__name__, schema)
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"ledger.recorded:{struct.__name__}",
        **named,
    }
    if parts:
        document["$defs"] = parts
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
