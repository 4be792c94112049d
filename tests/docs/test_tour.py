"""The README's tour, run as a stranger would: what stands beside each command is what it prints."""

from __future__ import annotations

import pytest

from tests.docs.likeness import says_the_same
from tests.docs.snippets import Snippet, snippets_of, with_outputs
from tests.docs.tour import README, outputs_of

PAGE = README.read_text("utf-8")
SNIPPETS = snippets_of(PAGE)
AGAIN = "`make docs` runs the tour and writes what it prints"


@pytest.fixture(scope="module")
def printed() -> dict[Snippet, str]:
    """What each snippet printed, in one run of the whole page."""
    return outputs_of(PAGE)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_a_command_prints_what_the_page_says(snippet: Snippet, printed: dict[Snippet, str]) -> None:
    written = "" if snippet.output is None else snippet.output.text
    same = says_the_same(printed[snippet], written, is_json=snippet.prints_json)
    assert same, f"{snippet.command.text}\nprints\n{printed[snippet]}\n({AGAIN})"


def test_the_tour_shows_each_thing_a_newcomer_asks_for() -> None:
    shown = "\n".join(snippet.command.text for snippet in SNIPPETS)
    wanted = [
        *("api accounts ", "api operations ", "trial-balance", "vouchers", "identity"),
        *("audit verify", "audit replay", "rules publish", "repair retry", "import csv"),
    ]
    assert [words for words in wanted if words not in shown] == []


def test_outputs_written_back_leave_the_rest_of_the_page_alone() -> None:
    texts = {s.output: s.output.text for s in SNIPPETS if s.output is not None}
    assert with_outputs(PAGE, texts) == PAGE


def test_ids_instants_and_hashes_may_differ_and_figures_may_not() -> None:
    first = '{"booked_at": "2026-01-31T08:00:00.000001Z", "balance": 100}'
    later = '{"booked_at": "2027-12-01T09:10:00.5Z", "balance": 100}'
    other = '{"booked_at": "2026-01-31T08:00:00.000001Z", "balance": 101}'
    assert says_the_same(first, later, is_json=True)
    assert not says_the_same(first, other, is_json=True)
