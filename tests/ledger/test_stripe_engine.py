"""Striping on a real database: two engines, kills, days, closing, reads, the books, the audit."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from accounting.ruleset_files import shipped_ruleset
from infra import audit
from ledger import operation as op
from ledger.account import Striping
from ledger.audit import verify
from ledger.heads import select_accounts_in_tx
from ledger.job import Job
from ledger.reads import AccountState, select_account, select_account_page
from ledger.recall import select_ended_through
from ledger.statuses import AccountingResult, apply_results_in_tx
from projections.gl_balances import select_trial_balance
from projections.tables import connect_to
from tests.audit.story import publish
from tests.consumers.caught_up import consume_log
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.killed import run_until_killed
from tests.ledger.killed_gatherer import EACH_MINOR, INFLOWS, PAID_MINOR, payout

STRIPES = 4


def merchant(ledger: Ledger, stripes: int = STRIPES, **facts: Any) -> None:
    """A merchant whose inflows go over stripes."""
    ledger.open("M-1", **facts)
    assert ledger.answer(change(stripes)).status == "booked"


def change(stripes: int, **more: Any) -> op.Submission:
    return b.command("M-1", op.SetStripes(stripes=stripes), **more)


def inflows(count: int = 12, amount_minor: int = 10, prefix: str = "r") -> list[op.Submission]:
    return [
        b.post("recharge", b.credit("M-1", amount_minor), operation_id=f"{prefix}-{number}")
        for number in range(count)
    ]


def state(ledger: Ledger, number: str = "M-1") -> AccountState:
    with psycopg.connect(ledger.database_url, autocommit=True) as conn:
        return select_account(conn, b.BOOK, number)


def parts(ledger: Ledger) -> dict[str, int]:
    """Where the merchant's balance lies."""
    striped = state(ledger).striped
    assert striped is not None
    return {part.account: part.balance_minor for part in striped.parts}


def audited(ledger: Ledger) -> None:
    with psycopg.connect(ledger.database_url) as conn:
        verdict = audit.verify(conn)
    assert verdict.difference is None, verdict.difference


def test_one_account_is_read_as_the_sum_of_its_parts(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("GROUP")
        merchant(ledger, parent="GROUP")
        ledger.open("M-1.1", parent="M-1")
        ledger.post(*inflows(), b.post("fee", b.debit("M-1", 15)))
        ledger.answer(b.post("recharge", b.credit("M-1.1", 7)))
        found = state(ledger)
        assert (found.balance_minor, found.available_minor) == (105, 105)
        assert (found.day_debits_minor, found.day_credits_minor) == (15, 120)
        assert sum(parts(ledger).values()) == 105
        assert list(parts(ledger)) == ["M-1", *(f"STRIPE-{n}-M-1" for n in (1, 2, 3, 4))]
        # rolled up, nothing counts twice
        assert found.rolled_up is not None
        assert (found.rolled_up.accounts, found.rolled_up.balance_minor) == (2, 112)
        group = state(ledger, "GROUP").rolled_up
        assert group is not None
        assert (group.accounts, group.balance_minor, group.available_minor) == (3, 112, 112)
        with psycopg.connect(database_url, autocommit=True) as conn:
            page = select_account_page(conn, b.BOOK, {}, after="", limit=20)
            below = select_account_page(conn, b.BOOK, {"parent": "M-1"}, after="", limit=20)
        listed = {each.account: each for each in page.items}
        assert sorted(listed) == ["GROUP", "M-1", "M-1.1"]
        parts_listed = {each.account: each for each in below.items}
        assert listed["M-1"].balance_minor == 105
        assert listed["M-1"].striped == found.striped
        assert parts_listed["STRIPE-1-M-1"].striped is None
        audited(ledger)


def test_an_account_without_a_floor_has_none_on_its_stripes(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        merchant(ledger)
        ledger.post(*inflows())
        limit = op.SetCreditLimit(credit_limit_minor=None)
        ledger.open("M-1.1", parent="M-1", credit_limit_minor=None)
        ledger.answer(b.command("M-1", limit))
        found = state(ledger)
        assert found.available_minor is None
        assert found.rolled_up is not None
        assert (found.rolled_up.balance_minor, found.rolled_up.available_minor) == (120, None)


def test_stripes_are_read_back_as_they_were_set(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        merchant(ledger, 9)
        ledger.answer(change(3))
        with psycopg.connect(database_url) as conn, conn.cursor() as cursor:
            head = select_accounts_in_tx(cursor, b.BOOK, ["M-1"])["M-1"]
        assert head is not None
        assert head.striping == Striping(3, 9)
        audited(ledger)


def test_the_same_operation_again_lies_where_it_lay(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        merchant(ledger)
        first = ledger.answer(inflows()[0])
        ledger.answer(change(2))
        again = ledger.answer(inflows()[0])
        assert (again.replayed, again.legs, again.accounts) == (True, first.legs, first.accounts)
        assert sum(parts(ledger).values()) == 10


def test_stripes_change_on_a_live_account_while_two_engines_post(database_url: str) -> None:
    with running_ledger(database_url) as one, running_ledger(database_url) as other:
        merchant(one)
        tickets = []
        for place, (mine, theirs) in enumerate(zip(inflows(40), inflows(40, 1, "o"), strict=True)):
            paid = b.post("fee", b.debit("M-1", 6), operation_id=f"fee-{place}")
            for engine, posted in ((one, mine), (other, theirs), (one, paid)):
                job = Job(book_id=b.BOOK, submissions=(posted,))
                tickets.append(engine.engine.submit(job))
            if place % 10 == 0:
                job = Job(book_id=b.BOOK, submissions=(change(place // 10),))
                tickets.append(other.engine.submit(job))
        answers = [ticket.results(60)[0] for ticket in tickets]
        booked = {each.operation_id for each in answers if getattr(each, "status", "") == "booked"}
        fees = len([each for each in booked if each.startswith("fee-")])
        assert {f"r-{n}" for n in range(40)} | {f"o-{n}" for n in range(40)} <= booked
        assert state(one).balance_minor == 40 * 11 - fees * 6
        assert min(parts(one).values()) >= 0
        audited(one)


def test_days_roll_for_all_parts_as_for_one_account(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        merchant(ledger)
        ledger.post(*inflows())
        ledger.open_day("2026-02-01")
        paid = ledger.answer(b.post("fee", b.debit("M-1", 100)))
        said = paid.accounts[0]
        assert (said.balance_minor, said.previous_balance_minor) == (20, 120)
        assert (said.day_debits_minor, said.day_credits_minor) == (100, 0)
        ledger.answer(inflows(1, 3, "next")[0])
        found = state(ledger)
        assert (found.balance_minor, found.previous_balance_minor) == (23, 120)
        assert (found.day_debits_minor, found.day_credits_minor) == (100, 3)
        audited(ledger)


def test_the_books_tie_and_a_gathering_moves_no_subject(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        publish(database_url, shipped_ruleset())
        merchant(ledger, type="merchant", subject="2002.01")
        ledger.open("C-1")
        ledger.answer(b.post("recharge", b.credit("C-1", 1_000)))
        sales = [
            b.post("payment", b.debit("C-1", 50), b.credit("M-1", 50), operation_id=f"p-{n}")
            for n in range(8)
        ]
        refund = b.post(
            "refund", b.debit("M-1", 50), b.credit("C-1", 50), original_operation_id="p-0"
        )
        ledger.post(*sales, refund)
        consume_log(database_url)
        with connect_to(database_url) as conn:
            assert select_trial_balance(conn, b.BOOK).ties
            ways = conn.execute(
                "SELECT status, rule_id FROM outcomes WHERE operation_id LIKE 'daybook:gather:%'"
            ).fetchall()
        assert ways == [("non_posting", "engine.gather")]
        audited(ledger)


def end_all(ledger: Ledger, unless: str = "") -> None:
    """Say that accounting has ended every operation, unless it is of this business type."""
    booked = ledger.rows(
        "SELECT fact ->> 'operation_id' FROM ledger.stored_events,"
        " LATERAL (SELECT convert_from(state, 'UTF8')::jsonb) AS its (fact)"
        " WHERE topic = 'ledger.recorded:OperationBooked' AND fact ->> 'business_type' <> %s",
        [unless],
    )
    results = [AccountingResult(b.BOOK, found, "vouchered", None, 1) for (found,) in booked]
    with psycopg.connect(ledger.database_url) as conn:
        apply_results_in_tx(conn, results)


def test_an_account_is_closed_when_every_stripe_is_empty_and_vouchered(database_url: str) -> None:
    close = [b.command("M-1", op.CloseAccount()) for _ in range(3)]
    with running_ledger(database_url) as ledger:
        merchant(ledger)
        ledger.post(*inflows())
        assert ledger.answer(close[0]).code == "balance_remains"
        ledger.answer(b.post("fee", b.debit("M-1", 120)))
        end_all(ledger, unless="recharge")  # those lie on stripes only
        assert ledger.answer(close[1]).code == "unvouchered_remains"
        end_all(ledger)
        with psycopg.connect(database_url, autocommit=True) as conn:
            ended = select_ended_through(conn, b.BOOK, "M-1")
        stripes = [f"STRIPE-{place}-M-1" for place in range(1, STRIPES + 1)]
        assert list(ended) == ["M-1", "BUFFER-M-1", *stripes]
        assert sum(ended[each] for each in stripes) == STRIPES * 2 + 12
        assert ledger.answer(close[2]).status == "booked"
    with psycopg.connect(database_url) as conn:
        assert verify(conn).difference is None  # of the log: there are no books here


@pytest.mark.parametrize(
    "step",
    ["engine.before_insert", "engine.after_insert", "engine.before_commit", "engine.after_commit"],
)
def test_a_kill_at_any_step_gathers_and_pays_once(database_url: str, step: str) -> None:
    assert run_until_killed("tests.ledger.killed_gatherer", database_url, step) == ["ready"]
    with running_ledger(database_url) as ledger:
        ledger.answer(payout())
        assert ledger.answer(payout()).replayed
        found = parts(ledger)
        assert (found["STRIPE-1-M-1"], found["M-1"] >= 0) == (0, True)
        assert sum(found.values()) == INFLOWS * EACH_MINOR - PAID_MINOR
        gathered = "SELECT count(*) FROM ledger.stored_events WHERE topic = %s"
        gathered += " AND strpos(convert_from(state, 'UTF8'), 'stripe_gather') > 0"
        assert ledger.rows(gathered, ["ledger.recorded:OperationBooked"]) == [(1,)]
        audited(ledger)
