"""What the pages name exists: commands, options, make targets, settings, files, scopes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from accounting.ruleset_files import SHIPPED_EXAMPLES
from infra.cli import app
from infra.settings import Settings
from ledger.principals import SCOPES
from tests.docs.snippets import blocks_of, pages_of
from tests.docs.tour import README, ROOT

PAGES = pages_of(ROOT)
ROOMS = ("ledger", "accounting", "projections", "consumers", "infra", "bench", "infra/csv_import")
README_LINES_MAX = 120
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
SETTING = re.compile(r"\bDAYBOOK_[A-Z0-9_]*[A-Z0-9]\b")
TARGET = re.compile(r"^make ([a-z][a-z-]*)\b", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
NOT_SHELL = re.compile(r"\s[|>].*$|\s#.*$|[“”]")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def shell_lines(page: Path) -> Iterator[str]:
    """Every command line of a page's shell blocks, continuation lines joined."""
    for block in blocks_of(page.read_text("utf-8")):
        if block.words[0] in {"sh", "", "bash", "shell"}:
            yield from block.text.replace("\\\n", " ").split("\n")


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words of every `daybook …` line, and of every such piece of code in the text."""
    text = page.read_text("utf-8")
    for line in [*shell_lines(page), *CODE.findall(text)]:
        found = re.search(r"(?:^|\s)daybook (?P<rest>[a-z-].*)$", NOT_SHELL.sub("", line))
        if found is not None and " " not in line[: found.start()].strip():
            yield shlex.split(found["rest"])


def unknown_in(words: list[str]) -> list[str]:
    """What a `daybook` line names that the command line does not have."""
    command: Any = typer.main.get_command(app)
    unknown: list[str] = []
    options = {"-h", "--help"}
    for word in words:
        subcommands = getattr(command, "commands", None)
        options |= {option for param in command.params for option in param.opts}
        if word.startswith("--"):
            unknown += [word] if word.partition("=")[0] not in options else []
        elif subcommands is not None and re.fullmatch(r"[a-z-]+", word):
            if word not in subcommands:
                return [*unknown, word]
            command = subcommands[word]
    return unknown


@every_page
def test_every_command_and_option_a_page_names_exists(page: Path) -> None:
    found = {" ".join(words): unknown_in(words) for words in commands_of(page)}
    assert {line: unknown for line, unknown in found.items() if unknown} == {}


@every_page
def test_every_make_target_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join([*shell_lines(page), *CODE.findall(page.read_text("utf-8"))])
    assert sorted(set(TARGET.findall(text)) - targets) == []


@every_page
def test_every_setting_a_page_names_exists(page: Path) -> None:
    settings = {f"DAYBOOK_{name.upper()}" for name in Settings.model_fields}
    elsewhere = set(SETTING.findall((ROOT / "infra" / "compose.yaml").read_text()))
    named = set(SETTING.findall(page.read_text("utf-8")))
    assert sorted(named - settings - elsewhere) == []


@every_page
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text("utf-8"))]
    near = [target for target in targets if target and "://" not in target]
    assert [target for target in near if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_one_page_that_says_what_it_promises(room: str) -> None:
    text = (ROOT / room / "README.md").read_text("utf-8")
    assert text.count("\n") <= README_LINES_MAX
    assert f"({room}/README.md)" in README.read_text("utf-8")


def test_the_readme_shows_the_example_rule_as_it_is() -> None:
    shown = [block.text for block in blocks_of(README.read_text("utf-8")) if "toml" in block.words]
    example = (SHIPPED_EXAMPLES / "voucher_sale.toml").read_text("utf-8")
    assert shown
    assert [text for text in shown if text not in example] == []


def test_the_readme_names_every_scope_of_a_key() -> None:
    text = README.read_text("utf-8")
    assert [scope for scope in SCOPES if f"`{scope}`" not in text] == []
