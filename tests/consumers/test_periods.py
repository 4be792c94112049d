"""Days are cut and periods closed: what is decided later is dated by it, and says so."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest

from accounting import periods
from accounting.decided import DayCut, ParkedAtCut
from accounting.decisions import DecisionRefused, GivenLine
from consumers.consumer import never
from consumers.periods import BooksMoved, CutDay, cut_day, propose_change, write_cut
from consumers.rebuild import rebuild
from consumers.repair import retry
from infra.decision_log import decision_log
from ledger.books import open_book, open_day
from projections import numbering
from projections.audit_numbers import check_numbers
from projections.journal import JournalVoucher, select_vouchers, select_vouchers_of
from projections.parked import ParkedFilter
from projections.periods import select_cuts, select_periods
from projections.positions import select_head
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log, log_consumer, statuses
from tests.consumers.test_order import changed
from tests.consumers.test_outcomes import payment, refund_of, rules_without
from tests.consumers.written_log import BOOK, DAY, WrittenLog

NEXT = "2026-02-02"
CLOSE, REOPEN = "close", "reopen"


def a_day_without_payments(database_url: str) -> WrittenLog:
    """A recharge, a payment that nobody can post yet, and its refund; the next day is open."""
    written = WrittenLog(database_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        open_book(conn, BOOK, "Main", dt.date.fromisoformat(DAY), principal="alice")
    written.publish(rules_without("payment"))
    written.commit(
        written.recharge("r-1"), payment(written, "p-1"), refund_of(written, "f-1", "p-1")
    )
    open_next(database_url)
    consume_log(database_url)
    return written


def open_next(database_url: str, date: str = NEXT) -> None:
    """Open a later day."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        open_day(conn, BOOK, dt.date.fromisoformat(date), principal="alice")


def cut(database_url: str, date: str = DAY, **more: Any) -> CutDay:
    """Cut a day with a live consumer beside it."""
    with (
        log_consumer(database_url) as consumer,
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
    ):
        given = {"maker": "alice", "wait": consumer.step, **more}
        return cut_day(conn, decisions, BOOK, dt.date.fromisoformat(date), **given)


def repaired(database_url: str, *operation_ids: str) -> Any:
    """Retry with a live consumer beside it; give how the operations ended."""
    with (
        log_consumer(database_url) as consumer,
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
    ):
        wanted = ParkedFilter(operation_ids=operation_ids or None)
        report = retry(conn, decisions, BOOK, wanted, maker="alice", wait=consumer.step)
    return {each.operation_id: each for each in report.operations}


def closed_or_reopened(written: WrittenLog, kind: str, date: str) -> None:
    """Close or reopen by two people, and let the books meet it."""
    changed(written, kind, date)
    consume_log(written.database_url)


def vouchers_of(database_url: str, operation_id: str) -> list[JournalVoucher]:
    with connect_to(database_url) as conn:
        return select_vouchers_of(conn, BOOK, operation_id)


def test_what_is_repaired_after_the_cut_is_dated_into_the_open_day_and_says_so(
    database_url: str,
) -> None:
    written = a_day_without_payments(database_url)
    cut(database_url)
    before = books(database_url)["gl_balances"]
    written.publish()

    after = repaired(database_url, "p-1")

    assert after["p-1"].status == "vouchered"
    assert after["p-1"].detail == f"dated into the open day {NEXT}: {DAY} is cut"
    (voucher,) = vouchers_of(database_url, "p-1")
    assert (voucher.accounting_date, voucher.business_date) == (NEXT, DAY)
    assert voucher.dated_into_open_day
    # what waited behind it, in the same way
    (refund,) = vouchers_of(database_url, "f-1")
    assert (refund.accounting_date, refund.dated_into_open_day) == (NEXT, True)
    # and the day that was cut is what it was
    on_the_day = [row for row in books(database_url)["gl_balances"] if str(row[3]) == DAY]
    assert on_the_day == before
    assert rebuild(database_url).difference is None


def test_a_cut_lists_what_was_parked_and_what_waited(database_url: str) -> None:
    a_day_without_payments(database_url)

    found = cut(database_url, note="end of January")

    assert found.is_new
    assert found.cut.performed
    assert found.cut.parked == (
        ParkedAtCut("parked", "no_rule", "CNY", 1, 990),
        ParkedAtCut("waiting", "behind_original", "CNY", 1, 200),
    )
    assert (found.cut.operations, found.cut.operation_ids) == (2, ("p-1", "f-1"))
    assert (found.cut.maker, found.cut.note) == ("alice", "end of January")
    assert found.cut.open_date == NEXT


def test_a_cut_lists_as_many_ids_as_a_message_has_room_for_and_counts_them_all(
    database_url: str,
) -> None:
    written = a_day_without_payments(database_url)
    ids = [f"{number:04}" + "x" * 120 for number in range(2000)]
    written.commit(*(payment(written, each) for each in ids))
    consume_log(database_url)

    found = cut(database_url).cut

    assert found.operations == 2002
    assert 1000 < len(found.operation_ids) < 2000
    assert list(found.operation_ids[2:]) == ids[: len(found.operation_ids) - 2]


def test_cutting_again_changes_nothing(database_url: str) -> None:
    a_day_without_payments(database_url)
    first = cut(database_url)
    with connect_to(database_url) as conn:
        head = select_head(conn)
        again = cut(database_url)
        assert select_head(conn) == head
        assert len(select_cuts(conn, BOOK).items) == 1
    assert not again.is_new
    assert again.cut == first.cut


def test_a_day_that_is_not_over_cannot_be_cut(database_url: str) -> None:
    a_day_without_payments(database_url)
    with pytest.raises(DecisionRefused, match="the open day is 2026-02-02") as refused:
        cut(database_url, NEXT)
    assert refused.value.code == "day_open"


def test_a_day_cannot_be_cut_while_the_books_are_inside_it(database_url: str) -> None:
    a_day_without_payments(database_url)
    open_next(database_url, "2026-02-03")  # and no consumer comes
    with pytest.raises(DecisionRefused, match="inside the day") as refused:
        cut(database_url, NEXT, timeout_s=0, wait=lambda: None)
    assert refused.value.code == "books_behind"


def test_a_day_cannot_be_cut_while_a_repair_is_on_its_way(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))
    with pytest.raises(DecisionRefused, match="not performed yet"):
        cut(database_url, timeout_s=0, wait=lambda: None)


def test_a_cut_is_not_written_when_a_decision_came_after_the_look(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    with connect_to(database_url) as conn:
        looked_at = select_head(conn)
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))
    given = DayCut(BOOK, DAY, NEXT, (), 0, (), "alice")

    with pytest.raises(BooksMoved):
        written.decide(lambda made: write_cut(made, given, looked_at))
    assert written.decide(lambda made: write_cut(made, given, looked_at + 1))
    # and the same cut by somebody who has not seen it yet is no other one
    assert not written.decide(lambda made: write_cut(made, given, looked_at + 1))


def test_what_was_booked_for_a_day_that_is_cut_is_dated_into_the_open_day(
    database_url: str,
) -> None:
    written = a_day_without_payments(database_url)
    cut(database_url)
    written.commit(written.recharge("late", day="2026-01-30"), written.recharge("new", day=NEXT))
    consume_log(database_url)

    (late,) = vouchers_of(database_url, "late")
    (new,) = vouchers_of(database_url, "new")
    assert (late.accounting_date, late.business_date) == (NEXT, "2026-01-30")
    assert (new.accounting_date, new.business_date, new.dated_into_open_day) == (NEXT, NEXT, False)


def test_the_open_day_is_the_one_at_the_place_in_the_log(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    cut(database_url)
    written.publish()
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))
    open_next(database_url, "2026-02-03")
    consume_log(database_url)

    (voucher,) = vouchers_of(database_url, "p-1")
    assert voucher.accounting_date == NEXT


# --- closed periods -------------------------------------------------------------------------


def test_a_closed_period_parks_and_a_retry_after_it_is_reopened_posts(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    written.publish()
    closed_or_reopened(written, CLOSE, DAY)

    parked = repaired(database_url, "p-1")["p-1"]
    assert (parked.status, parked.reason) == ("parked", "closed_period")
    assert parked.detail == f"{DAY} is closed through {DAY}"
    closed_or_reopened(written, REOPEN, DAY)
    posted = repaired(database_url, "p-1")["p-1"]

    assert (posted.status, posted.detail) == ("vouchered", None)
    assert vouchers_of(database_url, "p-1")[0].accounting_date == DAY
    assert rebuild(database_url).difference is None


def test_a_retry_after_the_day_was_cut_posts_into_an_open_period(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    written.publish()
    closed_or_reopened(written, CLOSE, DAY)
    assert repaired(database_url, "p-1")["p-1"].reason == "closed_period"

    cut(database_url)

    assert repaired(database_url, "p-1")["p-1"].status == "vouchered"
    assert vouchers_of(database_url, "p-1")[0].accounting_date == NEXT


def test_reopening_gives_back_the_dates_from_the_named_one_on(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    closed_or_reopened(written, CLOSE, DAY)
    closed_or_reopened(written, REOPEN, "2026-01-30")
    with connect_to(database_url) as conn:
        assert select_periods(conn, BOOK).closed_through == "2026-01-29"
    written.commit(
        written.recharge("before", day="2026-01-29"), written.recharge("after", day="2026-01-30")
    )
    consume_log(database_url)

    found = statuses(database_url)
    assert found["before"] == ("parked", "closed_period")
    assert found["after"] == ("vouchered", None)


def test_a_period_that_reaches_the_open_day_cannot_be_closed(database_url: str) -> None:
    a_day_without_payments(database_url)
    date = dt.date.fromisoformat(NEXT)
    with (
        connect_to(database_url) as conn,
        decision_log(database_url) as decisions,
        pytest.raises(DecisionRefused, match="not over"),
    ):
        propose_change(conn, decisions, BOOK, CLOSE, date, maker="alice")


def test_a_close_needs_two_people_and_keeps_both_names(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    change = written.decide(
        lambda made: periods.propose_change(made, BOOK, CLOSE, DAY, maker="alice", note="January")
    )

    def refused(decide: Callable[[Any], object]) -> str:
        with pytest.raises(DecisionRefused) as found:
            written.decide(decide)
        return found.value.code

    assert (
        refused(lambda made: periods.approve_change(made, BOOK, change, checker="alice"))
        == "same_principal"
    )
    consume_log(database_url)
    with connect_to(database_url) as conn:
        (proposal,) = select_periods(conn, BOOK).changes
        assert (proposal.step, proposal.is_open) == ("close_proposed", True)
    written.decide(lambda made: periods.approve_change(made, BOOK, change, checker="bob"))
    consume_log(database_url)
    with connect_to(database_url) as conn:
        closed, proposal = select_periods(conn, BOOK).changes
    assert (closed.step, closed.period_date, closed.maker, closed.checker, closed.note) == (
        ("closed", DAY, "alice", "bob", "January")
    )
    assert not proposal.is_open
    again = refused(lambda made: periods.approve_change(made, BOOK, change, checker="carol"))
    assert again == "already_decided"


@pytest.mark.parametrize(
    ("kind", "date", "code"),
    [(CLOSE, DAY, "already_closed"), (REOPEN, NEXT, "not_closed")],
)
def test_a_change_that_would_change_nothing_is_refused(
    database_url: str, kind: str, date: str, code: str
) -> None:
    written = a_day_without_payments(database_url)
    closed_or_reopened(written, CLOSE, DAY)
    with pytest.raises(DecisionRefused) as refused:
        closed_or_reopened(written, kind, date)
    assert refused.value.code == code


def test_a_rejected_change_has_no_effect(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    written.publish()
    change = written.decide(
        lambda made: periods.propose_change(made, BOOK, CLOSE, DAY, maker="alice")
    )
    written.decide(lambda made: periods.reject_change(made, BOOK, change, checker="bob"))
    with pytest.raises(DecisionRefused, match="bob has rejected"):
        written.decide(lambda made: periods.approve_change(made, BOOK, change, checker="bob"))
    assert repaired(database_url, "p-1")["p-1"].status == "vouchered"


# --- overrides ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "closed"])
def test_an_override_approved_before_but_standing_after_a_cut_or_close_is_refused(
    database_url: str, how: str
) -> None:
    written = a_day_without_payments(database_url)
    lines = [
        GivenLine("debit", "2001.01", "CNY", 500, "C-1"),
        GivenLine("credit", "2002.01", "CNY", 490, "M-1"),
        GivenLine("credit", "5001.01", "CNY", 10),
    ]

    def proposed(date: str) -> Any:
        return written.decide(
            lambda made: made.propose_override(
                BOOK, "p-1", lines, accounting_date=date, maker="alice"
            )
        )

    early, late = proposed(DAY), proposed(NEXT)
    if how == "cut":
        cut(database_url)
    else:
        closed_or_reopened(written, CLOSE, DAY)
    written.decide(lambda made: made.approve_override(early, checker="bob"))
    consume_log(database_url)
    assert statuses(database_url)["p-1"] == ("parked", "override_refused")
    with connect_to(database_url) as conn:
        row = conn.execute("SELECT detail FROM outcomes WHERE operation_id = 'p-1'").fetchone()
        assert row is not None
        assert f"{DAY} is {how}" in row[0]

    written.decide(lambda made: made.approve_override(late, checker="bob"))
    consume_log(database_url)

    (voucher,) = vouchers_of(database_url, "p-1")
    assert (voucher.accounting_date, voucher.business_date) == (NEXT, DAY)
    assert not voucher.dated_into_open_day
    assert rebuild(database_url).difference is None


# --- legal numbers --------------------------------------------------------------------------


def numbers(database_url: str) -> list[tuple[str, str, int | None]]:
    with connect_to(database_url) as conn:
        found = select_vouchers(conn, BOOK).items
    return [(each.accounting_date, each.source_id, each.number) for each in found]


def test_a_cut_numbers_its_vouchers_in_the_order_of_the_journal_year_by_year(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        open_book(conn, BOOK, "Main", dt.date(2025, 12, 30), principal="alice")
    written.publish()
    for number, day in enumerate(("2025-12-31", "2025-12-30", "2026-01-01", "2025-12-31")):
        written.commit(written.recharge(f"r-{number}", day=day))
    open_next(database_url, "2026-01-01")
    consume_log(database_url)
    assert all(number is None for _, _, number in numbers(database_url))

    cut(database_url, "2025-12-31")
    first = [
        ("2025-12-30", "r-1", 1),
        ("2025-12-31", "r-0", 2),
        ("2025-12-31", "r-3", 3),
        ("2026-01-01", "r-2", None),
    ]
    assert numbers(database_url) == first

    written.commit(written.recharge("late", day="2025-12-31"))
    open_next(database_url, "2026-01-02")
    consume_log(database_url)
    cut(database_url, "2026-01-01")
    assert numbers(database_url) == [
        *first[:3],
        ("2026-01-01", "r-2", 1),
        ("2026-01-01", "late", 2),
    ]
    assert rebuild(database_url).difference is None


def test_a_cut_is_performed_only_when_every_lane_and_every_order_below_have_been(
    database_url: str,
) -> None:
    written = a_day_without_payments(database_url)
    written.publish()
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))
    given = DayCut(BOOK, DAY, NEXT, (), 0, (), "alice")
    with log_consumer(database_url) as consumer:
        consumer.conn.execute(
            "INSERT INTO positions (lane, log_id, log_incarnation, position, incarnation) "
            "SELECT 1, log_id, log_incarnation, position, incarnation FROM positions"
        )  # a slower lane
        written.decide(lambda made: periods.cut_day(made, given, lambda _cursor: None))

        consumer.step()
        assert {number for _, _, number in numbers(database_url)} == {None}

        consumer.conn.execute("UPDATE positions SET position = 1000 WHERE lane = 1")
        consumer.perform_due()

    assert numbers(database_url) == [
        (DAY, "r-1", 1),
        (DAY, "p-1", 2),
        (DAY, "f-1", 3),
    ]


def test_a_long_cut_is_numbered_chunk_by_chunk_and_goes_on_after_a_kill_while_postings_arrive(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbering, "CHUNK_VOUCHERS", 2)
    written = WrittenLog(database_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        open_book(conn, BOOK, "Main", dt.date.fromisoformat("2025-12-31"), principal="alice")
    written.publish()
    for number in range(3):
        written.commit(written.recharge(f"a-{number}", day="2025-12-31"))
    open_next(database_url, "2026-01-01")
    for number in range(4):
        written.commit(written.recharge(f"b-{number}", day="2026-01-01"))
    open_next(database_url, "2026-01-02")
    consume_log(database_url)
    given = DayCut(BOOK, "2026-01-01", "2026-01-02", (), 0, (), "alice")
    written.decide(lambda made: periods.cut_day(made, given, lambda _cursor: None))

    seen: list[tuple[int, int]] = []  # vouchers, numbers
    for step in range(7):
        written.commit(written.recharge(f"c-{step}", day="2026-01-02"))
        failpoint = killed_inside_a_change if step == 2 else never
        killed = pytest.raises(Killed) if step == 2 else nullcontext()
        with log_consumer(database_url, failpoint=failpoint) as consumer, killed:
            consumer.step()
        with connect_to(database_url) as conn:
            check_numbers(conn)  # the audit knows a cut that is being numbered
        found = numbers(database_url)
        seen.append((len(found), sum(number is not None for _, _, number in found)))

    assert seen == [(8, 2), (9, 4), (10, 4), (11, 6), (12, 7), (13, 7), (14, 7)]
    assert [(each[1], each[2]) for each in numbers(database_url)[:8]] == [
        ("a-0", 1),
        ("a-1", 2),
        ("a-2", 3),
        ("b-0", 1),
        ("b-1", 2),
        ("b-2", 3),
        ("b-3", 4),
        ("c-0", None),
    ]
    assert rebuild(database_url).difference is None


class Killed(Exception):
    """The consumer dies inside its transaction."""


def killed_inside_a_change(point: str) -> None:
    """Die in the transaction that numbers a chunk."""
    if point == "changed":
        raise Killed
