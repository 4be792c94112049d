"""Published rulesets: the chart and rules that were in force at each position of the log.

Rule (pure books): the rule of an operation is chosen by business date among the rulesets
of its book published at a lower position; of several in force on a date, the one effective
latest wins, then the one published last. Invariant: a choice never changes afterwards.
"""

from __future__ import annotations

from typing import Any

import msgspec
from psycopg import Connection

from accounting.dating import Calendar
from accounting.decisions import RulesetPublished
from accounting.rules import Ruleset
from ledger.errors import NotFound
from projections.periods import load_calendar
from projections.tables import json_rows

INSERT = """
    INSERT INTO rulesets (position, book_id, ruleset_hash, label, effective_from, maker, document)
    SELECT position, book_id, ruleset_hash, label, effective_from, maker, document
    FROM json_to_recordset(%s::json) AS fresh(position bigint, book_id text, ruleset_hash text,
        label text, effective_from text, maker text, document text)
    ORDER BY position
    ON CONFLICT ON CONSTRAINT rulesets_pkey DO NOTHING
"""
SELECT_ALL = """
    SELECT position, book_id, ruleset_hash, label, effective_from, maker, document
    FROM rulesets WHERE position <> ALL(%s) ORDER BY position
"""
SELECT_LATEST = """
    SELECT document FROM rulesets WHERE book_id = %s ORDER BY position DESC LIMIT 1
"""
SELECT_PUBLICATIONS = """
    SELECT position, book_id, ruleset_hash, label, effective_from, maker
    FROM rulesets WHERE book_id = %s ORDER BY position
"""


class Publication(msgspec.Struct, frozen=True):
    """A published ruleset without its content."""

    position: int
    book_id: str
    ruleset_hash: str
    label: str
    effective_from: str
    maker: str


class _Row(msgspec.Struct, frozen=True, gc=False):
    position: int
    book_id: str
    ruleset_hash: str
    label: str
    effective_from: str
    maker: str
    document: str


class Chosen(msgspec.Struct, frozen=True, gc=False):
    """A ruleset with the position at which it was published."""

    position: int
    ruleset: Ruleset


class PublishedRulesets:
    """Every ruleset met so far, compiled. A cache of facts of the log: never wrong, but behind
    when another process has met one first: `load_rulesets` catches up. Whatever lane an
    operation came by, the rulesets below it were in the table before its outcome. With them
    goes the `calendar` of opened days, cuts and closes, which is met in the same way.
    """

    def __init__(self) -> None:
        self.calendar = Calendar()
        self._of_book: dict[str, list[tuple[str, int, Ruleset]]] = {}
        self._positions: set[int] = set()

    def add(self, position: int, book_id: str, effective_from: str, ruleset: Ruleset) -> None:
        """Remember a publication; adding it again changes nothing."""
        if position in self._positions:
            return
        self._positions.add(position)
        found = [*self._of_book.get(book_id, ()), (effective_from, position, ruleset)]
        found.sort(key=lambda entry: entry[:2], reverse=True)
        self._of_book[book_id] = found  # whole at any time: another thread may be choosing

    def add_published(self, position: int, decision: RulesetPublished) -> None:
        """Compile and remember a publication that has just arrived."""
        if position not in self._positions:
            ruleset = Ruleset.from_document(decision.document)
            self.add(position, decision.book_id, decision.effective_from, ruleset)

    def choose(self, book_id: str, business_date: str, *, below: int) -> Chosen | None:
        """Choose by business date among those published below a position."""
        for effective_from, position, ruleset in self._of_book.get(book_id, ()):
            if position < below and effective_from <= business_date:
                return Chosen(position, ruleset)
        return None

    def positions(self) -> list[int]:
        """List what is known."""
        return sorted(self._positions)

    def named(self, book_id: str, ruleset_hash: str, *, below: int) -> Chosen | None:
        """Find the version that a decision names, if it was published before."""
        for _, position, ruleset in self._of_book.get(book_id, ()):
            if position < below and ruleset.hash == ruleset_hash:
                return Chosen(position, ruleset)
        return None


def insert_rulesets_in_tx(
    conn: Connection[Any], published: list[tuple[int, RulesetPublished]]
) -> None:
    """Keep publications as they arrived; one that is there already stays as it is."""
    rows = [
        _Row(
            position,
            decision.book_id,
            decision.ruleset_hash,
            decision.label,
            decision.effective_from,
            decision.maker,
            msgspec.json.encode(decision.document, order="deterministic").decode(),
        )
        for position, decision in published
    ]
    if rows:
        conn.execute(INSERT, (json_rows(rows),))


def load_rulesets(conn: Connection[Any], into: PublishedRulesets) -> None:
    """Read every publication, and every fact of the calendar, that `into` has not met."""
    load_calendar(conn, into.calendar)
    for position, book_id, _hash, _label, effective_from, _maker, document in conn.execute(
        SELECT_ALL, (into.positions(),)
    ):
        ruleset = Ruleset.from_document(msgspec.json.decode(document))
        into.add(position, book_id, effective_from, ruleset)


def select_publications(conn: Connection[Any], book_id: str) -> list[Publication]:
    """List what was published for a book."""
    return [Publication(*row) for row in conn.execute(SELECT_PUBLICATIONS, (book_id,))]


def select_latest_ruleset(conn: Connection[Any], book_id: str) -> Ruleset:
    """Read the book's latest published ruleset; raises NotFound without any."""
    row = conn.execute(SELECT_LATEST, (book_id,)).fetchone()
    if row is None:
        raise NotFound(f"no ruleset is published for book {book_id}")
    return Ruleset.from_document(msgspec.json.decode(row[0]))
