"""The sheet of figures: every run is kept, medians are shown, aims are judged.

Invariant: a figure is the median of its runs; a ratio is the median of ratios within a round, as
a round's baseline and subject ran side by side and share the machine's noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Aim:
    """What a figure should reach. `column` of `subject` in `section` is compared with the bound."""

    words: str
    section: str
    subject: str
    column: str
    at_least: float | None = None
    at_most: float | None = None

    def is_met_by(self, value: float) -> bool:
        """Tell whether a value is within the bound."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    @property
    def bound(self) -> str:
        """The bound in words."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"< {self.at_most:g}"


@dataclass
class Section:
    """One table: subjects down, columns across, the runs of each."""

    title: str
    runs: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Columns in the order in which they first came."""
        return list(dict.fromkeys(name for cells in self.runs.values() for name in cells))


class Sheet:
    """All sections of one run of the benchmarks."""

    def __init__(self) -> None:
        self.sections: dict[str, Section] = {}
        self.aims: list[Aim] = []

    def add(self, section: str, subject: str, values: Mapping[str, float]) -> None:
        """Add one run's values to a subject."""
        cells = self._section(section).runs.setdefault(subject, {})
        for column, value in values.items():
            cells.setdefault(column, []).append(value)

    def note(self, section: str, words: str) -> None:
        """Say once what limits a section, or why a part of it was skipped."""
        notes = self._section(section).notes
        if words not in notes:
            notes.append(words)

    def aim(self, aim: Aim) -> None:
        """Judge a figure at the end."""
        if aim not in self.aims:
            self.aims.append(aim)

    def value(self, section: str, subject: str, column: str) -> float | None:
        """Return a figure; None when it was not measured."""
        found = self.sections.get(section)
        runs = found.runs.get(subject, {}).get(column) if found else None
        return median(runs) if runs else None

    def last(self, section: str, subject: str, column: str) -> float:
        """Return the latest run of a figure, for a ratio within this round."""
        return self.sections[section].runs[subject][column][-1]

    def sizes(self) -> dict[str, int]:
        """Return how many subjects each section has, to see which ones have grown."""
        return {title: len(section.runs) for title, section in self.sections.items()}

    def document(self) -> dict[str, Any]:
        """Return everything for the JSON file."""
        return {
            "sections": {title: _section_document(s) for title, s in self.sections.items()},
            "aims": [
                {
                    "aim": aim.words,
                    "bound": aim.bound,
                    "value": value,
                    "met": None if value is None else aim.is_met_by(value),
                }
                for aim in self.aims
                for value in (self.value(aim.section, aim.subject, aim.column),)
            ],
        }

    def print(self, console: Console, title: str | None = None) -> None:
        """Print one section, or all."""
        for section in self.sections.values():
            if title is None or section.title == title:
                _print_section(console, section)

    def print_aims(self, console: Console) -> None:
        """Print what was aimed at and what was reached."""
        table = Table(title="Aims", title_justify="left", title_style="bold")
        for name in ("aim", "bound", "reached", ""):
            table.add_column(name, justify="left" if name in ("aim", "") else "right")
        for aim in self.aims:
            value = self.value(aim.section, aim.subject, aim.column)
            if value is not None:
                verdict = "met" if aim.is_met_by(value) else "missed"
                table.add_row(aim.words, aim.bound, shown(value), verdict)
        if table.row_count:
            console.print(table)

    def _section(self, title: str) -> Section:
        return self.sections.setdefault(title, Section(title))


def shown(value: float | None) -> str:
    """Write a figure with as many digits as it deserves."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _print_section(console: Console, section: Section) -> None:
    table = Table(title=section.title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in section.columns:
        table.add_column(column, justify="right")
    for subject, cells in section.runs.items():
        values = (median(cells[c]) if c in cells else None for c in section.columns)
        table.add_row(subject, *(shown(value) for value in values))
    if table.row_count:
        console.print(table)
    else:
        console.print(section.title, style="bold")
    for note in section.notes:
        console.print(f"  {note}", style="dim", highlight=False)
    console.print()


def _section_document(section: Section) -> dict[str, Any]:
    return {
        "subjects": {
            subject: {
                column: {"median": median(runs), "runs": runs} for column, runs in cells.items()
            }
            for subject, cells in section.runs.items()
        },
        "notes": section.notes,
    }
