"""What a database needs before anything serves from it: schema, a book, its rules, a local key.

Every step finds out whether it has been done already. Invariant: running this again changes
nothing; rules of a book that has any are never replaced here.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from eventsourcing.application import AggregateNotFoundError

from accounting.decisions import Rulesets
from accounting.ruleset import Ruleset
from accounting.ruleset_files import shipped_ruleset
from infra.decision_log import decision_log
from infra.postgres import migrate
from ledger.books import Book, open_book, select_books
from ledger.deadlines import DEADLINES
from ledger.failover import ProvenConnection
from ledger.principals import LOCAL_PRINCIPAL, ensure_local_key


@dataclass(frozen=True)
class Started:
    """What the first start made or found."""

    key: str
    books: tuple[Book, ...]
    migrations: int


def first_start(
    database_url: str,
    *,
    key_path: Path,
    book_id: str,
    open_date: dt.date,
    book_name: str = "Main book",
) -> Started:
    """Migrate; open the first book with the shipped rules if there is none; make the key."""
    migrations = migrate(database_url)
    with ProvenConnection.connect(database_url, autocommit=True, **DEADLINES) as conn:
        key = ensure_local_key(conn, key_path)
        books = select_books(conn)
    if not books:
        books = [open_book_with_rules(database_url, book_id, book_name, open_date)]
    else:
        for book in books:  # a start that was cut short between book and rules is made good
            publish_first_rules(database_url, book.book_id, maker=LOCAL_PRINCIPAL)
    return Started(key, tuple(books), migrations)


def open_book_with_rules(
    database_url: str,
    book_id: str,
    name: str,
    open_date: dt.date,
    *,
    principal: str = LOCAL_PRINCIPAL,
) -> Book:
    """Open a book and publish the shipped rules for it, unless it has rules already."""
    with ProvenConnection.connect(database_url, autocommit=True, **DEADLINES) as conn:
        book = open_book(conn, book_id, name, open_date, principal=principal)
    publish_first_rules(database_url, book_id, maker=principal)
    return book


def publish_first_rules(database_url: str, book_id: str, *, maker: str) -> int | None:
    """Publish the shipped ruleset for a book without rules; return its position, else None."""
    with decision_log(database_url) as decisions:
        try:
            decisions.repository.get(Rulesets.create_id(book_id))
        except AggregateNotFoundError:
            pass
        else:
            return None
    return publish_rules(database_url, book_id, shipped_ruleset(), maker=maker)


def publish_rules(
    database_url: str, book_id: str, ruleset: Ruleset, *, maker: str, effective_from: str = ""
) -> int | None:
    """Publish a ruleset for a book; return its position, None when it is the last already."""
    dated = {"effective_from": effective_from} if effective_from else {}
    with decision_log(database_url) as decisions:
        return decisions.publish_ruleset(
            book_id,
            ruleset.to_document(),
            ruleset_hash=ruleset.hash,
            label=ruleset.version,
            maker=maker,
            **dated,
        )
