"""House style, checked: sizes, names, docstrings, words, and what must never be committed."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("ledger", "accounting", "projections", "consumers", "infra")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
README_LINES_MAX = 120
BANNED_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "manager",
    "service",
    "base",
    "common",
    "misc",
}
BANNED_WORDS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.:])/(work|root|home/\w+|Users/\w+)/")
REGISTRY_HOSTS = re.compile(
    r"(pypi\.org|pythonhosted\.org|artifactregistry|pkg\.dev|\bmaven\.org|apache\.org/maven2)"
)
MERGE_MARKS = re.compile(r"^(<{7}|>{7}|\|{7})( |$)|^={7}$", re.MULTILINE)
LOCK_FILES = ("requirements.txt", "requirements-dev.txt")
TEXT_SUFFIXES = {
    *(".py", ".md", ".toml", ".txt", ".sql", ".sh", ".yaml", ".yml", ".json", ".xml"),
    *(".properties", ".html", ".css", ".csv", ""),
}
THIS_FILE = Path(__file__).relative_to(ROOT)


@cache
def committed_files() -> tuple[Path, ...]:
    """What git tracks or would track; relative to the root."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = (Path(line) for line in listed.splitlines())
    return tuple(sorted(path for path in paths if (ROOT / path).is_file()))


def python_files() -> Iterator[Path]:
    return (path for path in committed_files() if path.suffix == ".py")


def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def text_files() -> Iterator[tuple[Path, str]]:
    for path in committed_files():
        if path.suffix in TEXT_SUFFIXES and path != THIS_FILE:
            yield path, text_of(path)


def test_no_file_is_longer_than_500_lines() -> None:
    sizes = {path: text_of(path).count("\n") for path in python_files()}
    assert {path: size for path, size in sizes.items() if size > FILE_LINES_MAX} == {}


def test_no_function_is_longer_than_70_lines() -> None:
    found = {}
    for path in python_files():
        for function in functions_of(path):
            size = (function.end_lineno or function.lineno) - function.lineno + 1
            if size > FUNCTION_LINES_MAX:
                found[f"{path}:{function.lineno} {function.name}"] = size
    assert found == {}


def test_every_module_opens_with_a_docstring() -> None:
    silent = [
        path
        for path in python_files()
        if text_of(path).strip() and ast.get_docstring(ast.parse(text_of(path))) is None
    ]
    assert silent == []


def test_files_are_named_by_nouns_that_say_something() -> None:
    assert [path for path in committed_files() if path.stem in BANNED_NAMES] == []


def test_no_mark_of_a_merge_conflict_is_left() -> None:
    conflict = "<" * 7 + " main\nours\n" + "=" * 7 + "\ntheirs\n" + ">" * 7 + " branch\n"
    assert len(MERGE_MARKS.findall(conflict)) == 3
    assert [path for path, text in text_files() if MERGE_MARKS.search(text)] == []


def test_no_note_is_left_for_later() -> None:
    found = [
        f"{path}:{number}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if BANNED_WORDS.search(line)
    ]
    assert found == []


def test_nothing_committed_names_a_folder_of_one_machine() -> None:
    found = [
        f"{path}: {match.group()}"
        for path, text in text_files()
        for match in MACHINE_PATHS.finditer(text)
    ]
    assert found == []


def test_nothing_committed_names_a_package_registry() -> None:
    found = [
        f"{path}: {match.group()}"
        for path, text in text_files()
        for match in REGISTRY_HOSTS.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("name", LOCK_FILES)
def test_lock_pins_every_library_by_version_and_hash_and_names_no_address(name: str) -> None:
    text = text_of(Path(name))
    assert "://" not in text
    assert "index-url" not in text
    entries = text.replace("\\\n", " ").splitlines()
    loose = [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry]
    assert loose == []


def test_runtime_lock_is_part_of_the_development_lock() -> None:
    runtime, development = (
        set(re.findall(r"^\S+==\S+", text_of(Path(name)), re.MULTILINE)) for name in LOCK_FILES
    )
    assert runtime - development == set()


def test_functions_in_an_open_transaction_take_the_connection_first() -> None:
    found = []
    for path in python_files():
        for function in functions_of(path):
            if not function.name.endswith("_in_tx"):
                continue
            arguments = [argument for argument in function.args.args if argument.arg != "self"]
            first = ast.unparse(arguments[0]) if arguments else ""
            owns_one = "self.conn" in ast.unparse(function)
            if not owns_one and not re.match(r"conn|cursor|\w+: (Connection|Cursor)\b", first):
                found.append(f"{path}:{function.lineno} {function.name}")
    assert found == []


def test_sql_lists_its_columns() -> None:
    # `SELECT * FROM (…)` is no loss: the columns are listed inside.
    pattern = re.compile(r"\bSELECT\s+(\w+\.)?\*\s+FROM\s+[^(\s]", re.IGNORECASE)
    found = [
        path
        for path in python_files()
        if path != THIS_FILE and path.parts[0] in ROOMS and pattern.search(text_of(path))
    ]
    assert found == []


def test_amounts_are_never_floats() -> None:
    found = []
    for path in python_files():
        for node in ast.walk(ast.parse(text_of(path))):
            if not isinstance(node, ast.AnnAssign | ast.arg) or node.annotation is None:
                continue
            name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
            if "float" in ast.unparse(node.annotation) and re.search(
                r"(amount|minor|balance)(?!.*_s$)", name
            ):
                found.append(f"{path}:{node.lineno} {name}")
    assert found == []


def test_every_test_is_named_by_a_sentence() -> None:
    # Methods are left out: the event store's own test cases name them.
    found = [
        f"{path}:{node.lineno} {node.name}"
        for path in python_files()
        if path.parts[0] == "tests"
        for node in ast.parse(text_of(path)).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and node.name.count("_") < 3
    ]
    assert found == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_readme_of_one_page(room: str) -> None:
    readme = ROOT / room / "README.md"
    assert readme.is_file()
    assert readme.read_text(encoding="utf-8").count("\n") <= README_LINES_MAX


def test_repository_has_what_a_newcomer_looks_for() -> None:
    wanted = ["README.md", "CHANGELOG.md", "LICENSE", "Makefile", ".ci/run", "infra/decisions.md"]
    assert [name for name in wanted if not (ROOT / name).is_file()] == []


def test_make_help_names_every_target_a_person_runs() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = ["setup", "demo", "serve", "test", "check", "kafka", "bench", "clean"]
    assert [name for name in targets if f"make {name} " not in shown] == []
