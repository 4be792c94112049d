"""Batches with holds that are decided ahead: one trip to the server, and holds as one at a time.

The deciding batch is always sent while another one was written just before, so that it is ahead.
"""

from __future__ import annotations

import random

import psycopg
import pytest

from ledger import statement
from ledger.audit import verify
from ledger.booking import Booker, Clocks, Superseded
from ledger.business_types import load_business_types
from ledger.engine import EngineSettings
from ledger.errors import StoreUnavailable
from ledger.job import Job
from ledger.operation import Answer, Submission
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.builders import (
    BOOK,
    credit,
    freeze,
    hold,
    open_account,
    post,
    release,
    unfreeze,
)
from tests.ledger.cut_wire import ledger_on_wire
from tests.ledger.killed_engine import seek_company

ACCOUNTS = [f"A-{number}" for number in range(6)]
SELECT_HOLDS = """
    SELECT a.number, h.hold_id, h.amount, h.operation_id, h.payout, h.expires_at
    FROM ledger.holds AS h JOIN ledger.accounts AS a USING (account_id) ORDER BY 1, 2
"""
SELECT_COUNTS = "SELECT number, holds_open FROM ledger.accounts WHERE holds_open > 0 ORDER BY 1"
REFUSE_AT_COMMIT = """
    CREATE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'serialization_failure'; END $$;
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ledger.seals
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_commit()
"""
SENT = "engine.sent"  # a batch that is one trip; what is copied never comes there


def filled(ledger: Ledger) -> None:
    """Open the accounts, fill them, and let the engine see that it is alone."""
    ledger.open(*ACCOUNTS)
    for number in ACCOUNTS:
        ledger.answer(post("recharge", credit(number, 1_000)))


def passes_audit(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        verdict = verify(conn)
    assert verdict.passed, verdict


def test_holds_come_shrink_and_go_in_one_trip_each(database_url: str) -> None:
    steps: list[str] = []
    with running_ledger(database_url, reach=steps.append) as ledger:
        filled(ledger)
        del steps[:]
        booked = [
            post("hold", hold("A-0", 100, "h-1"), operation_id="held-1"),
            post("hold", hold("A-0", 50, "h-2"), operation_id="held-2"),
            post("hold", hold("A-1", 70, "h-1"), operation_id="held-3"),
            post("release", release("A-0", 40, "h-1")),
            post("release", release("A-1", 70, "h-1")),
            post("recharge", credit("A-2", 1)),
        ]
        for each in booked:
            assert ledger.answer(each).status == "booked"

        assert steps.count(SENT) == len(booked)
        assert ledger.rows(SELECT_HOLDS) == [
            ("A-0", "h-1", 60, "held-1", False, None),
            ("A-0", "h-2", 50, "held-2", False, None),
        ]
        assert ledger.rows(SELECT_COUNTS) == [("A-0", 2)]
    passes_audit(database_url)


@pytest.mark.parametrize("opened", [False, True])  # in one trip; step by step, as heads are new
def test_an_id_that_is_let_go_and_taken_anew_in_one_batch_is_the_new_one(
    database_url: str, opened: bool
) -> None:
    with running_ledger(database_url) as ledger:
        filled(ledger)
        ledger.answer(post("hold", hold("A-0", 100)))
        ledger.answer(post("freeze", freeze("A-1", 50)))
        anew = [
            *([open_account("A-new")] if opened else []),
            post("release", release("A-0", 100)),
            post("hold", hold("A-0", 100, expires_at="2099-01-01T00:00:00Z")),
            post("unfreeze", unfreeze("A-1", 50)),
            post("freeze", freeze("A-1", 50, authority="court")),
            post("unfreeze", unfreeze("A-1", 50)),
            post("freeze", freeze("A-1", 50, authority="customs")),
        ]
        answers = ledger.post(*anew)
        assert {str(getattr(answer, "status", answer)) for answer in answers} == {"booked"}
        authority = "SELECT authority FROM ledger.freezes"
        assert ledger.rows(authority) == [("customs",)]
        assert ledger.rows("SELECT expires_at FROM ledger.holds") == [
            ("2099-01-01T00:00:00.000000Z",)
        ]
    passes_audit(database_url)


def test_any_history_of_holds_passes_the_audit(database_url: str) -> None:
    chosen = random.Random(7)
    steps: list[str] = []
    settings = EngineSettings(batch_size_max=8)  # each job is a batch of its own
    with running_ledger(database_url, settings=settings, reach=steps.append) as ledger:
        filled(ledger)
        del steps[:]
        tickets = []
        open_holds: list[tuple[str, str]] = []
        for number in range(40):
            jobs: list[Submission] = []
            for part in range(4):
                account, name = chosen.choice(ACCOUNTS), f"h-{number}-{part}"
                jobs.append(post("hold", hold(account, 6, name)))
                open_holds.append((account, name))
                old_account, old = chosen.choice(open_holds)
                jobs.append(post("release", release(old_account, 2, old)))
            tickets.append(ledger.engine.submit(Job(book_id=BOOK, submissions=tuple(jobs))))
        answers = [answer for ticket in tickets for answer in ticket.results(60)]
        assert all(isinstance(answer, Answer) for answer in answers)
        assert steps.count(SENT) > 20
    passes_audit(database_url)


@pytest.mark.parametrize("known", [False, True])
def test_what_is_superseded_or_on_record_leaves_the_holds_alone(
    database_url: str, known: bool
) -> None:
    with running_ledger(database_url) as other:
        filled(other)
        other.answer(post("hold", hold("A-0", 100, "h-1"), operation_id="held-1"))
        before = other.rows(SELECT_HOLDS)
        booker = Booker(
            lambda: psycopg.connect(database_url, autocommit=True),
            load_business_types(),
            Clocks(),
            2.0,
        )
        first = post("recharge", credit("A-5", 1), operation_id="known")
        booker.book([Job(book_id=BOOK, submissions=(first,))])
        late = [post("release", release("A-0", 100, "h-1")), post("hold", hold("A-1", 1, "h-2"))]
        if known:
            late.append(first)
        with psycopg.connect(database_url, autocommit=True) as conn, conn.cursor() as cursor:
            prepared = booker.prepare(cursor, [Job(book_id=BOOK, submissions=tuple(late))])
        assert prepared is not None
        assert isinstance(prepared.packed, statement.Stated)
        assert prepared.packed.holds
        if not known:
            other.answer(post("recharge", credit("A-2", 1)))

        booker.send(prepared.packed)
        with pytest.raises(Superseded):
            booker.receive()

        assert other.rows(SELECT_HOLDS) == before
        assert other.rows(SELECT_COUNTS) == [("A-0", 1)]
        booker.drop_connection()
    passes_audit(database_url)


def test_two_engines_in_turns_keep_holds_in_one_trip_each(database_url: str) -> None:
    steps: list[str] = []
    with running_ledger(database_url, reach=steps.append) as ours:
        filled(ours)
        with running_ledger(database_url) as theirs:
            theirs.answer(post("recharge", credit("A-5", 1)))
            ours.answer(post("recharge", credit("A-5", 1)))  # notices that it has company
            del steps[:]
            known = post("hold", hold("A-0", 10, "h-0"), operation_id="held-0")
            for number, ledger in enumerate([ours, theirs, ours, theirs], start=1):
                held = post("hold", hold("A-0", 10, f"h-{number}"))
                ended = post("release", release("A-0", 10, f"h-{number - 1}"))
                answers = ledger.post(known, held, *([ended] if number > 1 else []))
                assert {str(getattr(each, "status", each)) for each in answers} == {"booked"}
                assert getattr(answers[0], "replayed", None) is (number > 1)
            assert "engine.sent" in steps
            assert ours.rows(SELECT_COUNTS) == [("A-0", 2)]
            assert [row[1] for row in ours.rows(SELECT_HOLDS)] == ["h-0", "h-4"]
    passes_audit(database_url)


def test_a_commit_that_fails_after_both_statements_leaves_nothing(database_url: str) -> None:
    steps: list[str] = []
    with running_ledger(database_url, reach=steps.append) as ledger:
        filled(ledger)
        with psycopg.connect(database_url) as conn:
            conn.execute(REFUSE_AT_COMMIT)
        del steps[:]
        held = post("hold", hold("A-0", 100, "h-1"), operation_id="held")
        with pytest.raises(StoreUnavailable):
            ledger.answer(held)
        assert SENT in steps
        assert ledger.rows(SELECT_HOLDS) == []
        with psycopg.connect(database_url) as conn:
            conn.execute("DROP TRIGGER at_commit ON ledger.seals")
        assert not ledger.answer(held).replayed
        assert ledger.answer(post("release", release("A-0", 100, "h-1"))).status == "booked"
        assert ledger.rows(SELECT_COUNTS) == []
    passes_audit(database_url)


@pytest.mark.parametrize("company", [False, True])  # ended by the sync; by a COMMIT sent along
def test_a_lost_reply_to_both_statements_books_them_once(database_url: str, company: bool) -> None:
    with ledger_on_wire(database_url) as (wire, ledger):
        filled(ledger)
        ledger.answer(post("hold", hold("A-0", 100, "h-1"), operation_id="held-1"))
        if company:
            seek_company(ledger, database_url)
        wire.cut_next_commit()
        released = ledger.answer(post("release", release("A-0", 40, "h-1")))
        assert wire.cuts == 1
        assert (released.status, released.replayed) == ("booked", True)
        assert ledger.rows(SELECT_HOLDS) == [("A-0", "h-1", 60, "held-1", False, None)]
    passes_audit(database_url)
