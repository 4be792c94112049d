"""When two outputs say the same: instants, ids and hashes differ from run to run, nothing else.

Also how JSON is folded for reading: filled lines, nested objects on lines of their own.
"""

from __future__ import annotations

import json
import re
from typing import Any

WIDTH = 120
VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"), "<instant>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b(?=[0-9a-f]*[a-f])[0-9a-f]{12,64}\b"), "<hash>"),
    (re.compile(r'"(\w*(?:lag|age)_s)":\d+(\.\d+)?(e-\d+)?'), r'"\1":0.0'),
)


def says_the_same(printed: str, written: str, *, is_json: bool) -> bool:
    """Compare what a snippet printed with what the page says; JSON by its meaning."""
    if is_json:
        return varied(_in_one_line(json.loads(printed))) == varied(
            _in_one_line(json.loads(written))
        )
    return varied(printed) == varied(written)


def varied(text: str) -> str:
    """Return an output with a word in place of what differs from run to run."""
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return trimmed(text)


def _in_one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def trimmed(text: str) -> str:
    """Return text without blanks at line ends and without empty lines around it."""
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def folded(value: Any, indent: int = 0, used: int = 0) -> str:
    """Return JSON on lines of at most `WIDTH`, as many members on a line as fit.

    What the server sent, with line breaks and indentation between members and nothing else.

    `indent` is that of the line it begins on, `used` how much of that line is taken already.
    """
    whole = _in_one_line(value)
    if not isinstance(value, dict | list) or max(indent, used) + len(whole) <= WIDTH:
        return whole
    members = _members(value, indent + 1)
    commas = [","] * (len(members) - 1) + ["}" if isinstance(value, dict) else "]"]
    lines: list[str] = []
    for member, comma in zip(members, commas, strict=True):
        first, *others = (member + comma).split("\n")
        if lines and not others and len(lines[-1]) + len(first) <= WIDTH:
            lines[-1] += first
        else:
            lines.append(" " * (indent + 1) + first)
        lines.extend(others)
    opening = "{" if isinstance(value, dict) else "["
    hugging = used == indent  # at the start of its line: the first member goes on behind it
    return opening + ("\n".join(lines).lstrip() if hugging else "\n" + "\n".join(lines))


def _members(value: Any, indent: int) -> list[str]:
    if isinstance(value, list):
        return [folded(item, indent, indent) for item in value]
    return [
        f"{json.dumps(name)}:{folded(item, indent, indent + len(name) + 3)}"
        for name, item in value.items()
    ]
