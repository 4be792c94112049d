"""The snippets of a Markdown page: fenced blocks, and those that are run with their output.

A block opened as `sh run` is run; the block behind it, opened as `text output` or `json output`,
is what it printed (none: it printed nothing). Invariant: writing the outputs back changes nothing
else on the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(?P<words>.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: the words behind the fence, and the lines [first, after) inside it."""

    words: tuple[str, ...]
    first: int
    after: int
    text: str


@dataclass(frozen=True)
class Snippet:
    """A block that is run, and the block of what it printed."""

    command: Block
    output: Block | None

    @property
    def name(self) -> str:
        """Where it is, for a person: the line number in the page."""
        return f"line {self.command.first + 1}"

    @property
    def prints_json(self) -> bool:
        """Whether its output is JSON, folded for reading."""
        return self.output is not None and self.output.words[0] == "json"


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = page.split("\n")
    opened: tuple[tuple[str, ...], int] | None = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = (tuple(fence["words"].split()) or ("",), number + 1)
        else:
            words, first = opened
            found.append(Block(words, first, number, "\n".join(lines[first:number])))
            opened = None
    assert opened is None, f"a fence is not closed: {opened}"
    return found


def snippets_of(page: str) -> list[Snippet]:
    """Return the blocks that are run, each with its output."""
    blocks = blocks_of(page)
    following: Sequence[Block | None] = [*blocks[1:], None]
    return [
        Snippet(block, after if after is not None and "output" in after.words else None)
        for block, after in zip(blocks, following, strict=True)
        if block.words[0] == "sh" and "run" in block.words
    ]


def with_outputs(page: str, texts: Mapping[Block, str]) -> str:
    """Return the page with other texts inside some of its blocks."""
    lines = page.split("\n")
    for block, text in sorted(texts.items(), key=lambda item: -item[0].first):
        lines[block.first : block.after] = text.split("\n") if text else []
    return "\n".join(lines)


def pages_of(root: Path) -> list[Path]:
    """Return the Markdown pages of the repository, without what tools have made."""
    found = [*root.glob("*.md"), *root.glob("*/*.md"), *root.glob("*/*/README.md")]
    return sorted(page for page in found if not page.relative_to(root).parts[0].startswith("."))
