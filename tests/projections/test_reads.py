"""Reads of the books: total orders, freshness, waiting, and the figures that must tie."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

import pytest

from accounting.trial_balance import trial_balance_text
from ledger.errors import InvalidRequest, NotFound
from ledger.events import Issue, OrderNumbers
from projections.account_balances import select_account_days
from projections.gl_balances import select_gl_days, select_trial_balance
from projections.identity import select_identity
from projections.journal import select_voucher, select_vouchers
from projections.orders import select_by_order
from projections.pages import Page, read_cursor, write_cursor
from projections.parked import (
    ParkedFilter,
    count_parked,
    select_issues,
    select_originals,
    select_parked,
    select_waiters,
)
from projections.positions import select_freshness, wait_for_position
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log, log_consumer
from tests.consumers.test_outcomes import payment, rules_without
from tests.consumers.written_log import BOOK, CUSTOMER, WrittenLog, leg

NOW = dt.datetime(2026, 1, 31, 8, 0, 30, tzinfo=dt.UTC)


def walked(read: Callable[[str | None], Page[Any]]) -> list[Any]:
    """Follow the cursors to the end."""
    found: list[Any] = []
    cursor: str | None = None
    while True:
        page = read(cursor)
        found += page.items
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


def test_the_trial_balance_of_a_recharge_with_a_fee_ties(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one", fee_minor=60))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        balance = select_trial_balance(conn, BOOK)

    assert balance.ties
    leaves = [line for line in balance.lines if not line.is_total]
    assert [
        (line.subject, line.columns.debit_minor, line.columns.credit_minor) for line in leaves
    ] == [
        ("1131.01", 10_000, 0),
        ("2001.01", 0, 10_000),
        ("2202.01", 0, 60),
        ("6001.01", 60, 0),
    ]
    assert "ties" in trial_balance_text(balance)


def test_what_was_before_the_period_is_its_opening(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("january"), written.recharge("february", day="2026-02-01"))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        balance = select_trial_balance(conn, BOOK, from_date="2026-02-01", at_date="2026-02-28")
        before = select_trial_balance(conn, BOOK, at_date="2026-01-31")

    (deposits,) = [line.columns for line in balance.lines if line.subject == CUSTOMER]
    assert (deposits.opening_credit_minor, deposits.credit_minor) == (10_000, 10_000)
    assert deposits.closing_credit_minor == 20_000
    (deposits,) = [line.columns for line in before.lines if line.subject == CUSTOMER]
    assert deposits.closing_credit_minor == 10_000


def test_a_book_without_rules_has_no_trial_balance(database_url: str) -> None:
    with connect_to(database_url) as conn, pytest.raises(NotFound, match="no ruleset"):
        select_trial_balance(conn, BOOK)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_the_journal_shows_every_voucher_once_also_with_equal_dates(
    database_url: str, limit: int
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    days = ["2026-02-01", "2026-01-31", "2026-02-01", "2026-01-31", "2026-01-31"]
    written.commit(*(written.recharge(f"r-{no}", day=day) for no, day in enumerate(days)))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        found = walked(lambda cursor: select_vouchers(conn, BOOK, cursor=cursor, limit=limit))

    assert [voucher.source_id for voucher in found] == ["r-1", "r-3", "r-4", "r-0", "r-2"]
    assert all(len(voucher.lines) == 2 for voucher in found)


def test_a_voucher_is_found_by_its_id_even_with_slashes_in_the_operation_id(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("a/b/1"))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        voucher = select_voucher(conn, f"{BOOK}/a/b/1/1")
        assert voucher.voucher_id == f"{BOOK}/a/b/1/1"
        for unknown in (f"{BOOK}/a/b/1/2", f"{BOOK}/nobody/1", "", f"{BOOK}/decision:1/1"):
            with pytest.raises(NotFound):
                select_voucher(conn, unknown)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_parked_operations_are_listed_once_oldest_first(database_url: str, limit: int) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(*(payment(written, f"p-{number}") for number in range(5)))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        found = walked(lambda cursor: select_parked(conn, BOOK, cursor=cursor, limit=limit))
        none = select_parked(conn, BOOK, ParkedFilter(reason="unbalanced"))
        (count,) = count_parked(conn, BOOK)

    assert [each.operation_id for each in found] == [f"p-{number}" for number in range(5)]
    assert found[0].amounts == {"CNY": 990}
    assert found[0].booked_at is not None
    assert none.items == ()
    assert (count.business_type, count.count) == ("payment", 5)


def test_parked_operations_are_found_by_status_date_and_account_and_counted_the_same(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment", "recharge"))
    written.commit(
        payment(written, "p-1"),
        written.recharge("r-1", "C-1", day="2026-02-01"),
        written.recharge("r-2", "C-2", 700, day="2026-02-03"),
        written.operation("yen", [leg("credit", "C-J", 7)], currency="JPY"),
        written.operation(
            "redirected", [leg("credit", "S-1", 5, intended_account="C-2")], day="2026-02-02"
        ),
        written.operation("f-1", [leg("debit", "C-1", 1)], business_type="refund", original="p-1"),
    )
    consume_log(database_url)

    def found(**wanted: str) -> list[str]:
        with connect_to(database_url) as conn:
            items = select_parked(conn, BOOK, ParkedFilter(**wanted)).items  # type: ignore[arg-type]
            counts = count_parked(conn, BOOK, ParkedFilter(**wanted))  # type: ignore[arg-type]
        assert sum(count.count for count in counts) == len(items)
        return [each.operation_id for each in items]

    assert found(status="waiting") == ["f-1"]
    assert found(account="C-1") == ["p-1", "r-1", "f-1"]
    assert found(account="C-2") == ["r-2", "redirected"]
    assert found(account="C-2", from_date="2026-02-03") == ["r-2"]
    assert found(from_date="2026-02-01", to_date="2026-02-02") == ["r-1", "redirected"]
    assert found(reason="no_rule", business_type="payment") == ["p-1"]
    assert found(account="nobody") == []


def test_parked_operations_are_counted_with_amounts_and_age(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("recharge"))
    written.commit(
        written.recharge("r-1", amount_minor=100),
        written.recharge("r-2", amount_minor=250),
        written.operation("yen", [leg("credit", "C-J", 7)], currency="JPY"),
    )
    consume_log(database_url)

    with connect_to(database_url) as conn:
        (count,) = count_parked(conn, BOOK, now=NOW)
        (first, *_) = select_parked(conn, BOOK, now=NOW).items
        (unknown_age, *_) = select_parked(conn, BOOK).items

    assert (count.count, count.amounts) == (3, {"CNY": 350, "JPY": 7})
    assert (count.oldest_position, count.oldest_age_s) == (first.position, 30.0)
    assert (first.age_s, unknown_age.age_s) == (30.0, None)
    assert (first.first_attempt_at, first.last_attempt_at) == (first.booked_at, first.booked_at)


def test_what_waits_is_shown_with_the_chain_in_front_of_it_and_behind(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(
        payment(written, "p-1"),
        *(
            written.operation(
                name, [leg("debit", "C-1", 1)], business_type="refund", original=original
            )
            for name, original in (("f-1", "p-1"), ("f-2", "f-1"), ("f-3", "p-1"), ("x", "unseen"))
        ),
    )
    consume_log(database_url)

    with connect_to(database_url) as conn:
        behind = select_waiters(conn, BOOK, "p-1")
        ahead = select_originals(conn, BOOK, "f-2")
        unseen = select_originals(conn, BOOK, "x")

    assert [(each.operation_id, each.waits_for, each.depth) for each in behind] == [
        ("f-1", "p-1", 1),
        ("f-3", "p-1", 1),
        ("f-2", "f-1", 2),
    ]
    assert [(each.operation_id, each.status, each.reason) for each in ahead] == [
        ("f-1", "waiting", "behind_original"),
        ("p-1", "parked", "no_rule"),
    ]
    assert [(each.operation_id, each.status) for each in unseen] == [("unseen", "not in the books")]


def test_an_order_number_leads_to_every_operation_that_carries_it(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(
        written.recharge("one", orders=OrderNumbers("T", "P", ("X", "Y", "X"))),
        written.recharge("two", orders=OrderNumbers("T", None, ("T",))),
        written.recharge("three"),
    )
    consume_log(database_url)

    with connect_to(database_url) as conn:
        found = walked(lambda cursor: select_by_order(conn, BOOK, "T", cursor=cursor, limit=1))
        trade = select_by_order(conn, BOOK, "T", kind="trade").items
        channel = select_by_order(conn, BOOK, "X").items

    assert [(each.operation_id, each.kind) for each in found] == [
        ("one", "trade"),
        ("two", "channel"),
        ("two", "trade"),
    ]
    assert [each.operation_id for each in trade] == ["one", "two"]
    assert [(each.operation_id, each.accounting_status) for each in channel] == [
        ("one", "vouchered")
    ]


def test_account_days_close_at_the_highest_version(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(
        written.recharge("one"),
        written.recharge("two", day="2026-02-01"),
        written.operation(
            "three", [leg("debit", "C-1", 500)], business_type="withdrawal", day="2026-02-01"
        ),
    )
    consume_log(database_url, operations_max=1)

    with connect_to(database_url) as conn:
        days = walked(lambda cursor: select_account_days(conn, BOOK, "C-1", cursor=cursor, limit=1))

    assert [
        (day.business_date, day.debit_minor, day.credit_minor, day.closing_minor) for day in days
    ] == [("2026-01-31", 0, 10_000, 10_000), ("2026-02-01", 500, 10_000, 19_500)]


def test_issues_are_listed_with_where_the_money_was_meant_to_go(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    issues = tuple(
        Issue("redirected", number, "S-1", "C-1", 5, "CNY", "account_closed")
        for number in (1, 2, 3)
    )
    written.commit(written.recharge("one", issues=issues))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        found = walked(lambda cursor: select_issues(conn, BOOK, cursor=cursor, limit=2))

    assert [(issue.issue_no, issue.intended_account) for issue in found] == [
        (1, "C-1"),
        (2, "C-1"),
        (3, "C-1"),
    ]


def test_gl_days_equal_the_sums_of_the_lines(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(*(written.recharge(f"r-{no}", fee_minor=no + 1) for no in range(7)))
    consume_log(database_url, operations_max=2)

    with connect_to(database_url) as conn:
        found = select_gl_days(conn, BOOK)
        lines = conn.execute(
            "SELECT subject, coalesce(sum(amount_minor) FILTER (WHERE side = 'debit'), 0)::bigint, "
            "coalesce(sum(amount_minor) FILTER (WHERE side = 'credit'), 0)::bigint "
            "FROM voucher_lines GROUP BY subject"
        ).fetchall()

    days = {(day.subject, day.debit_minor, day.credit_minor) for day in found}
    assert days == {(subject, int(debit), int(credit)) for subject, debit, credit in lines}


def test_freshness_says_how_many_operations_and_seconds_the_books_are_behind(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    consume_log(database_url)
    head = written.commit(written.recharge("one"), written.recharge("two"))

    with connect_to(database_url) as conn:
        behind = select_freshness(conn, NOW)
        consume_log(database_url)
        caught_up = select_freshness(conn, NOW)

    assert (behind.position, behind.log_position) == (2, head)
    assert (behind.lag_operations, behind.lag_s) == (2, 30.0)
    assert (caught_up.position, caught_up.lag_operations, caught_up.lag_s) == (head, 0, 0.0)


def test_waiting_ends_when_the_write_is_visible(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    head = written.commit(written.recharge("one"))

    with connect_to(database_url) as conn:
        assert not wait_for_position(conn, min_position=head, timeout_s=0)
        assert not wait_for_position(conn, operation=(BOOK, "one"), timeout_s=0)
        with pytest.raises(NotFound, match="has not reached"):
            wait_for_position(conn, min_position=head + 1, timeout_s=0)
        thread = threading.Thread(target=consume_log, args=(database_url,))
        thread.start()
        assert wait_for_position(conn, min_position=head, operation=(BOOK, "one"), timeout_s=60)
        thread.join()


def test_the_identity_shows_a_difference_per_currency(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(
        written.recharge("one"),
        written.operation("yen", [leg("credit", "C-J", 7)], currency="JPY"),
        written.operation(
            "both",
            [
                leg("debit", "C-J", 1, currency="JPY"),
                leg("credit", "C-J", 1, currency="JPY"),
                leg("debit", "C-1", 5),
                leg("credit", "C-2", 5),
            ],
            business_type="transfer",
        ),
    )
    with log_consumer(database_url) as consumer:
        while consumer.step():
            pass
        conn = consumer.conn
        good = select_identity(conn, BOOK)
        conn.execute("UPDATE outcome_totals SET amount_minor = 0 WHERE currency = 'JPY'")
        bad = select_identity(conn, BOOK)

    assert [(line.currency, line.booked.count, line.booked.amount_minor) for line in
            good.currencies] == [("CNY", 2, 10_010), ("JPY", 2, 9)]  # fmt: skip
    assert good.holds
    assert [(line.currency, line.holds) for line in bad.currencies] == [
        ("CNY", True),
        ("JPY", False),
    ]
    assert not bad.holds


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "e30", "W10", write_cursor("a", 1), "é"])
def test_a_cursor_of_another_list_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="not a cursor"):
        read_cursor(cursor, str, int, int)


def test_a_cursor_is_read_back_as_it_was_written() -> None:
    assert read_cursor(write_cursor("2026-01-31", 2**60, 1), str, int, int) == (
        "2026-01-31",
        2**60,
        1,
    )
    assert read_cursor(None, str) is None
