"""The page of figures: what of a run, whole or in parts, comes to stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.report import BEGIN, END, joined, put_into_page


def part(title: str, commit: str = "c1", subject: str = "one") -> dict[str, Any]:
    """A part of a run with one figure and one aim."""
    return {
        "scale": "full",
        "rounds": 5,
        "elapsed_s": 60.0,
        "machine": {"processor": "2 x P", "Python": "3.11", "commit": commit, "load before": "0.1"},
        "sections": {
            title: {"subjects": {subject: {"a second": {"median": 12.5}}}, "notes": ["so it is"]}
        },
        "aims": [{"aim": f"{title}: fast", "bound": "> 1", "value": 12.5, "met": True}],
    }


def test_parts_of_one_run_stand_on_the_page_together_and_nothing_else_changes(
    tmp_path: Path,
) -> None:
    page = tmp_path / "figures.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into_page(joined([part("write"), part("read")]), page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "A full run: 5 rounds, 2 minutes." in text
    for words in ("#### write", "#### read", "| one | 12.5 |", "| read: fast | > 1 | 12.5 | met |"):
        assert words in text


def test_a_table_may_have_rows_of_two_parts() -> None:
    section = joined([part("write"), part("write", subject="two")])["sections"]["write"]
    assert list(section["subjects"]) == ["one", "two"]
    assert section["notes"] == ["so it is"]


@pytest.mark.parametrize(
    ("other", "why"),
    [(part("read", "c2"), "are not one run"), (part("write"), "measured in two parts: write")],
)
def test_what_is_not_one_run_is_not_joined(other: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        joined([part("write"), other])
