"""Put the figures of a run into `bench/figures.md`: `python -m bench.report FILE.json …`.

Several files are a run in parts (`--only`), which must be of one scale, machine and commit.
Invariant: only what stands between the two marks is replaced, and all of it comes from the files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return parts of a run as one. Raises ValueError when they are not of one run."""
    whole = {**parts[0], "sections": {}, "aims": [], "elapsed_s": 0.0}
    for part in parts:
        if _same_in(part) != _same_in(whole):
            raise ValueError(f"{_same_in(part)} and {_same_in(whole)} are not one run")
        for title, section in part["sections"].items():
            _join_section(title, whole["sections"].setdefault(title, _empty_section()), section)
        whole["aims"] += part["aims"]
        whole["elapsed_s"] += part["elapsed_s"]
    return whole


def _empty_section() -> dict[str, Any]:
    return {"subjects": {}, "notes": []}


def _join_section(title: str, whole: dict[str, Any], section: dict[str, Any]) -> None:
    again = section["subjects"].keys() & whole["subjects"].keys()
    if again:
        raise ValueError(f"measured in two parts: {title}: {', '.join(sorted(again))}")
    whole["subjects"] |= section["subjects"]
    whole["notes"] += [note for note in section["notes"] if note not in whole["notes"]]


def _same_in(part: dict[str, Any]) -> dict[str, Any]:
    machine = {name: part["machine"].get(name) for name in ("processor", "Python", "commit")}
    return {"scale": part["scale"], "rounds": part["rounds"], **machine}


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
    put_into_page(joined([json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:]]))
