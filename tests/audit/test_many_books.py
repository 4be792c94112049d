"""Several books and currencies in one log: totals, identity and heads are kept apart."""

from __future__ import annotations

import datetime as dt

import msgspec
import psycopg

from accounting.ruleset_files import shipped_ruleset
from infra import audit
from infra.decision_log import decision_log
from ledger import operation as op
from ledger.books import open_book
from ledger.job import Job
from tests.consumers.caught_up import consume_log
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger

BOOKS = (b.BOOK, "other", "third")


def in_book(book_id: str, submitted: op.Submission) -> op.Submission:
    """The same request in another book."""
    fingerprint = op.fingerprint_of(book_id, submitted.body, submitted.account)
    return msgspec.structs.replace(submitted, book_id=book_id, fingerprint=fingerprint)


def post(ledger: Ledger, book_id: str, *submissions: op.Submission) -> None:
    """Book in a book; everything must be booked."""
    told = tuple(in_book(book_id, each) for each in submissions)
    for result in ledger.engine.post(Job(book_id=book_id, submissions=told), 20):
        assert isinstance(result, op.Answer), result
        assert result.status == "booked", result


def test_books_and_currencies_are_kept_apart(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        for no, book_id in enumerate(BOOKS):
            with psycopg.connect(database_url) as conn:
                open_book(conn, book_id, book_id, dt.date(2026, 1, 31), principal="x")
            if book_id != "third":  # one book has no rules: all of it is parked
                ruleset = shipped_ruleset()
                with decision_log(database_url) as decisions:
                    decisions.publish_ruleset(
                        book_id,
                        ruleset.to_document(),
                        ruleset_hash=ruleset.hash,
                        label="shipped",
                        maker="alice",
                    )
            post(
                ledger,
                book_id,
                b.open_account("C-1"),
                b.open_account("C-2"),
                b.open_account("D-1", currency="USD"),
                b.open_account("J-1", currency="JPY"),
            )
            # the same account numbers and operation ids, other amounts
            post(
                ledger,
                book_id,
                b.post(
                    "recharge",
                    b.credit("C-1", 100 + no),
                    b.credit("D-1", 7, currency="USD"),
                    b.credit("J-1", 5, currency="JPY"),
                    operation_id="r",
                ),
                b.post("transfer", b.debit("C-1", 50), b.credit("C-2", 50), operation_id="t"),
                b.post("account_note", operation_id="note"),
            )
            consume_log(database_url)
        with psycopg.connect(database_url) as conn:
            verdict = audit.verify(conn)
        assert verdict.difference is None
        totals = ledger.rows(
            "SELECT DISTINCT ON (book_id) book_id, totals FROM ledger.seals "
            "WHERE book_id <> '' ORDER BY book_id, first_id DESC"
        )
    assert dict(totals) == {
        b.BOOK: '{"":[1,0],"CNY":[2,200],"JPY":[1,5],"USD":[1,7]}',
        "other": '{"":[1,0],"CNY":[2,201],"JPY":[1,5],"USD":[1,7]}',
        "third": '{"":[1,0],"CNY":[2,202],"JPY":[1,5],"USD":[1,7]}',
    }
