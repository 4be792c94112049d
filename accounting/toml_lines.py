"""Line numbers for TOML content: tomllib gives none, and an accountant needs the line.

Invariant: `line_index` is only asked about text that tomllib has accepted; a place it does
not find falls back to the nearest one around it, never to a wrong table.
"""

from __future__ import annotations

import re

from accounting.ruleset_errors import Path

TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''.*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}=,\n]"
    r"|[^\s\[\]{}=,\"'\#]+",
    re.DOTALL,
)


def line_index(text: str) -> dict[Path, int]:
    """Map each table, key and array element of TOML text to its line, from 1."""
    return _Scan(text).lines


class _Scan:
    """One walk over the tokens, keeping the path that the walk is at."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        self._tokens = _tokens(text)
        self._at = 0
        self._document()

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at][0] if at < len(self._tokens) else ""

    def _next(self) -> tuple[str, int]:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _document(self) -> None:
        table: Path = ()
        while self._peek():
            if self._peek() == "\n":
                self._next()
            elif self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        """Read `[a.b]` or `[[a.b]]`; an array's last element is meant by its name."""
        _, line = self._next()
        is_array = self._peek() == "["
        if is_array:
            self._next()
        name = ""
        while self._peek() != "]":
            name += self._next()[0]
        while self._peek() == "]":
            self._next()
        path: Path = ()
        keys = _keys(name)
        for key in keys[:-1]:
            path += (key,)
            if path in self._counts:
                path += (self._counts[path] - 1,)
        path += (keys[-1],)
        if is_array:
            number = self._counts.get(path, 0)
            self._counts[path] = number + 1
            path += (number,)
        self.lines[path] = line
        return path

    def _pair(self, table: Path) -> None:
        name, line = "", self._tokens[self._at][1]
        while self._peek() != "=":
            name += self._next()[0]
        self._next()
        path = table + _keys(name)
        self.lines.setdefault(path, line)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._peek() == "[":
            self._array(path)
        elif self._peek() == "{":
            self._inline_table(path)
        else:
            while self._peek() not in ("", "\n", ",", "]", "}"):
                self._next()

    def _array(self, path: Path) -> None:
        self._next()
        number = 0
        while self._peek() != "]":
            if self._peek() in ("\n", ","):
                self._next()
                continue
            self.lines[(*path, number)] = self._tokens[self._at][1]
            self._value((*path, number))
            number += 1
        self._next()

    def _inline_table(self, path: Path) -> None:
        self._next()
        while self._peek() != "}":
            if self._peek() in ("\n", ","):
                self._next()
                continue
            self._pair(path)
        self._next()


def _tokens(text: str) -> list[tuple[str, int]]:
    """Split text into tokens with the line each starts on; comments are dropped."""
    found: list[tuple[str, int]] = []
    line, counted_to = 1, 0
    for match in TOKEN.finditer(text):
        line += text.count("\n", counted_to, match.start())
        counted_to = match.start()
        if not match.group().startswith("#"):
            found.append((match.group(), line))
    return found


def _keys(dotted: str) -> Path:
    """Split a dotted key; quoted parts keep their dots."""
    return tuple(part.strip("\"'") for part in re.findall(r'"[^"]*"|\'[^\']*\'|[^.\s]+', dotted))
