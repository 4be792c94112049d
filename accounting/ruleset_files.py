"""Read a ruleset from TOML files: the one place in this room that touches the disk.

Invariant: the files of a ruleset are validated as one whole; how the content is split into
files changes neither the findings nor the hash.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from accounting.ruleset import Ruleset, build_ruleset
from accounting.ruleset_errors import Entry, Place, RuleError
from accounting.toml_lines import line_index

SHIPPED = Path(__file__).parent / "shipped"
SHIPPED_EXAMPLES = SHIPPED / "examples"
TABLES = ("chart", "subject", "rule", "version")


def load_ruleset(
    directory: Path | str, *added: Path | str, version: str | None = None
) -> Ruleset | list[RuleError]:
    """Load the TOML files of a directory, and added files or directories, as one ruleset.

    `version` is the label; by default the files' own, with the names of what was added.
    """
    files: list[Path] = []
    errors: list[RuleError] = []
    for source in (Path(directory), *map(Path, added)):
        found = sorted(source.glob("*.toml")) if source.is_dir() else [source]
        if not found:
            message = "no TOML files in this directory"
            errors.append(RuleError(str(source), "", 0, "no_files", message))
        files += [file for file in found if file not in files]
    content = [_content(file) for file in files]
    errors += [found for found in content if isinstance(found, RuleError)]
    if errors:
        return errors
    entries = [found for found in content if isinstance(found, Entry)]
    own_version, settings, errors = _settings(entries)
    subjects, wrong_subjects = _tables(entries, "subject")
    rules, wrong_rules = _tables(entries, "rule")
    errors += wrong_subjects + wrong_rules
    label = version or "+".join([own_version, *(Path(source).stem for source in added)])
    built = build_ruleset(label, settings, subjects, rules)
    if errors or isinstance(built, list):
        return sorted(
            errors + (built if isinstance(built, list) else []), key=lambda e: (e.file, e.line)
        )
    return built


def shipped_ruleset(*added: Path | str) -> Ruleset:
    """Load the shipped payment company's ruleset, with added files; it must be valid."""
    found = load_ruleset(SHIPPED, *added)
    if isinstance(found, list):
        raise ValueError("\n".join(map(str, found)))
    return found


def _content(file: Path) -> Entry | RuleError:
    """Read one file with its line numbers."""
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return RuleError(str(file), "", 0, "no_files", "no such file")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return RuleError(str(file), "", line, "not_utf8", "the file is not UTF-8 text")
    text = text.replace("\r\n", "\n")
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        return RuleError(str(file), "", line, "not_toml", str(error))
    return Entry(raw, Place(str(file), line_index(text)))


def _settings(entries: list[Entry]) -> tuple[str, Entry, list[RuleError]]:
    """Collect what is said once for the whole: the version label and the `[chart]` table."""
    errors: list[RuleError] = []
    version: Any = None
    settings = Entry({}, Place())
    for raw, place in entries:
        for name in raw:
            if name not in TABLES:
                message = f"unknown field {name!r}"
                errors.append(place.at(name).error("", "unknown_field", message))
        for name, before in (("version", version), ("chart", settings.raw)):
            if name in raw and before:
                message = f"{name} is given in another file too"
                errors.append(place.at(name).error("", "duplicate_setting", message))
        if "version" in raw:
            version = raw["version"]
            if not isinstance(version, str) or not version:
                message = "version: expected str"
                errors.append(place.at("version").error("", "wrong_type", message))
        chart = raw.get("chart")
        if isinstance(chart, dict):
            settings = Entry(chart, place.at("chart"))
        elif chart is not None:
            message = "chart: expected a table"
            errors.append(place.at("chart").error("", "wrong_type", message))
    if version is None:
        where = entries[0].place if entries else Place()
        errors.append(where.error("", "missing_field", "no file gives the `version` label"))
    return str(version), settings, errors


def _tables(entries: list[Entry], name: str) -> tuple[list[Entry], list[RuleError]]:
    """Collect the `[[name]]` tables of all files."""
    found: list[Entry] = []
    errors: list[RuleError] = []
    for raw, place in entries:
        tables = raw.get(name, [])
        if not isinstance(tables, list):
            tables = [tables]
            message = f"write [[{name}]], not [{name}]"
            errors.append(place.at(name).error("", "wrong_type", message))
        for no, table in enumerate(tables):
            at = place.at(name, no)
            if isinstance(table, dict):
                found.append(Entry(table, at))
            else:
                errors.append(at.error("", "wrong_type", f"{name}: expected a table"))
    return found, errors
