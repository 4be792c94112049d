"""Put the figures of a run into `bench/figures.md`: `python -m bench.report FILE.json`.

Invariant: only what stands between the two marks is replaced, and all of it comes from the file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.sheet import shown

FIGURES = Path(__file__).with_name("figures.md")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def markdown_of(document: dict[str, Any]) -> str:
    """Return a run as Markdown: the machine, a table for each section, the aims."""
    minutes = document["elapsed_s"] / 60
    parts = [
        f"A {document['scale']} run: {document['rounds']} rounds, {minutes:.0f} minutes.",
        _table(["machine", ""], [[name, value] for name, value in document["machine"].items()]),
    ]
    for title, section in document["sections"].items():
        parts.append(f"#### {title}")
        if section["subjects"]:
            parts.append(_section_table(section["subjects"]))
        parts.extend(section["notes"])
    rows = [
        [aim["aim"], aim["bound"], shown(aim["value"]), "met" if aim["met"] else "missed"]
        for aim in document["aims"]
        if aim["value"] is not None
    ]
    parts += ["#### Aims", _table(["aim", "bound", "reached", ""], rows)]
    return "\n\n".join(parts)


def put_into_page(document: dict[str, Any], page: Path = FIGURES) -> None:
    """Replace the figures between the marks. Raises ValueError when a mark is missing."""
    text = page.read_text("utf-8")
    before, rest = text[: text.index(BEGIN)], text[text.index(END) :]
    page.write_text(f"{before}{BEGIN}\n\n{markdown_of(document)}\n\n{rest}", "utf-8")


def _section_table(subjects: dict[str, dict[str, dict[str, Any]]]) -> str:
    columns = list(dict.fromkeys(name for cells in subjects.values() for name in cells))
    rows = [
        [subject, *(shown(cells[c]["median"]) if c in cells else "" for c in columns)]
        for subject, cells in subjects.items()
    ]
    return _table(["", *columns], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("---:" if index else "---" for index in range(1, len(header)))]
    lines = [header, rule[: len(header)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    put_into_page(json.loads(Path(sys.argv[1]).read_text("utf-8")))
