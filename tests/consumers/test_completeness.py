"""The sweep names each operation that is missing, doubled, differing or unknown."""

from __future__ import annotations

from typing import Any

import pytest

from accounting.decisions import LOG_TOPIC, GivenLine
from consumers.completeness import Selection, SweepReport, sweep
from consumers.messages import partition_of
from consumers.set_aside import read_raw_row, set_message_aside
from infra.decision_log import decision_log
from projections.positions import assign_lanes, select_head
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log
from tests.consumers.written_log import BOOK, DAY, WrittenLog

NEXT_DAY = "2026-02-01"


def swept(database_url: str, **more: Any) -> SweepReport:
    """Compare, vouchers on a connection of their own."""
    with connect_to(database_url) as conn, connect_to(database_url) as beside:
        return sweep(conn, beside=beside, **more)


def broken(database_url: str, *statements: str) -> None:
    """Change the books behind the consumers' back."""
    with connect_to(database_url) as conn:
        for table in ("vouchers", "voucher_lines"):
            conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        for statement in statements:
            conn.execute(statement.encode())


def two_recharges(database_url: str) -> WrittenLog:
    """Operations `one` at position 4 and `two` at position 6, consumed."""
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"), written.recharge("two"))
    consume_log(database_url)
    return written


def passed_over(database_url: str, *, lanes: int = 1, stand: dict[int, int] | None = None) -> None:
    """Move lanes to the head of the log though nobody has handled it (`stand`: elsewhere)."""
    with connect_to(database_url) as conn:
        assign_lanes(conn, lanes)
        conn.execute("UPDATE positions SET position = %s", (select_head(conn),))
        for lane, position in (stand or {}).items():
            conn.execute("UPDATE positions SET position = %s WHERE lane = %s", (position, lane))


def test_complete_books_have_no_difference(database_url: str) -> None:
    two_recharges(database_url)

    report = swept(database_url)

    assert report.is_complete
    assert (report.operations, report.waiting) == (2, 0)


def test_an_operation_below_every_position_that_nobody_handled_is_missing(
    database_url: str,
) -> None:
    written = two_recharges(database_url)
    at = written.commit(written.recharge("three"))
    passed_over(database_url)

    report = swept(database_url)

    (missing,) = report.differences
    assert (missing.kind, missing.position) == ("missing", at)
    assert (missing.book_id, missing.operation_id) == (BOOK, "three")


def test_what_its_lane_has_not_reached_is_not_due_and_what_it_has_passed_is(
    database_url: str,
) -> None:
    """The visible position would hide both: the sweep asks the operation's own lane."""
    written = WrittenLog(database_url)
    accounts = [f"C-{number}" for number in range(8)]
    of_lane = {partition_of(f"{BOOK}/{account}", 2): account for account in accounts}
    assert set(of_lane) == {0, 1}
    written.commit(written.recharge("slow", of_lane[0]), written.recharge("lost", of_lane[1]))
    passed_over(database_url, lanes=2, stand={0: 1})

    report = swept(database_url)

    assert [(each.kind, each.operation_id) for each in report.differences] == [("missing", "lost")]
    assert (report.operations, report.waiting) == (2, 1)


def test_nothing_is_due_before_any_consumer_has_begun(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))

    report = swept(database_url)

    assert (report.found, report.waiting) == (0, 1)


def test_a_decision_that_left_no_row_is_unmet(database_url: str) -> None:
    two_recharges(database_url)
    broken(database_url, "DELETE FROM rulesets")

    (unmet,) = swept(database_url).differences

    assert (unmet.kind, unmet.position) == ("unmet", 2)
    assert unmet.operation_id == "Rulesets.Published"


def test_what_nobody_can_read_is_named_until_it_is_set_aside(database_url: str) -> None:
    written = two_recharges(database_url)
    at = written.commit(written.recharge("three"))
    with connect_to(database_url) as conn:
        conn.execute("ALTER TABLE ledger.stored_events DISABLE TRIGGER USER")
        conn.execute(
            "UPDATE ledger.stored_events SET state = %s WHERE notification_id = %s",
            (b'{"book_id":"main","legs":7}', at),
        )
    passed_over(database_url)

    (unreadable,) = swept(database_url).differences
    assert (unreadable.kind, unreadable.position) == ("differing", at)
    with decision_log(database_url) as decisions, connect_to(database_url) as conn:
        _, raw = read_raw_row(conn, at)
        place = (LOG_TOPIC, 0, at)
        set_message_aside(decisions, raw, place=place, reason="torn", maker="alice")

    assert swept(database_url).is_complete


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("UPDATE outcomes SET amounts = '{\"CNY\":1}'", "differing", "the log says"),
        ("UPDATE outcomes SET operation_id = 'x' WHERE position = 4", "differing", "main/x"),
        ("UPDATE outcomes SET business_date = '2026-02-01'", "differing", "2026-02-01"),
        (
            "UPDATE outcomes SET status = 'parked', reason = 'no_rule'",
            "doubled",
            "parked, and has vouchers",
        ),
        ("DELETE FROM voucher_lines", "unposted", "has no voucher"),
        ("UPDATE voucher_lines SET amount_minor = 3", "differing", "account lines"),
        ("UPDATE voucher_lines SET currency = 'EUR'", "differing", "account lines"),
        ("UPDATE outcomes SET position = 5 WHERE position = 4", "differing", "says position 5"),
        ("UPDATE outcomes SET position = 99 WHERE position = 4", "differing", "says position 99"),
        ("DELETE FROM outcomes WHERE position = 4", "differing", "no outcome, and has vouchers"),
    ],
)
def test_each_way_to_differ_is_named(
    database_url: str, statement: str, kind: str, words: str
) -> None:
    two_recharges(database_url)
    broken(database_url, statement)

    report = swept(database_url)

    first = report.differences[0]
    assert (first.kind, first.position, first.operation_id) == (kind, 4, "one")
    assert words in first.detail
    names = [each.operation_id for each in report.differences]
    assert len(names) == len(set(names)), "each operation is named once"


def test_an_outcome_of_an_operation_that_was_never_booked_is_unknown(database_url: str) -> None:
    two_recharges(database_url)
    broken(
        database_url,
        "INSERT INTO outcomes SELECT book_id, 'ghost', 5, business_type, business_date, 'parked', "
        "'no_rule', detail, rule_id, ruleset_position, 5, depends_on, waits_for, amounts "
        "FROM outcomes WHERE position = 4",
    )

    (unknown,) = swept(database_url).differences

    assert (unknown.kind, unknown.position, unknown.operation_id) == ("unknown", 5, "ghost")


def test_a_second_set_of_vouchers_elsewhere_is_doubled(database_url: str) -> None:
    two_recharges(database_url)
    copied = "ordinal, book_id, source_id, accounting_date, business_type, rule_id, ruleset_hash"
    broken(
        database_url,
        f"INSERT INTO vouchers (position, {copied}) SELECT 5, {copied} FROM vouchers "
        "WHERE position = 4",
    )

    (doubled,) = swept(database_url).differences

    assert (doubled.kind, doubled.position, doubled.operation_id) == ("doubled", 5, "one")


def test_an_override_is_compared_with_the_vouchers_of_its_decision(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.commit(written.recharge("one"))
    lines = (
        GivenLine("debit", "1002.01", "CNY", 10_000, None),
        GivenLine("credit", "2001.01", "CNY", 10_000, "C-1"),
    )
    override_id = written.decide(
        lambda decisions: decisions.propose_override(
            BOOK, "one", lines, accounting_date=DAY, maker="alice", note="by hand"
        )
    )
    written.decide(lambda decisions: decisions.approve_override(override_id, checker="bob"))
    consume_log(database_url)
    assert swept(database_url).is_complete

    broken(database_url, "UPDATE voucher_lines SET amount_minor = 3")

    (differing,) = swept(database_url).differences
    assert (differing.kind, differing.operation_id) == ("differing", "one")
    assert "the override's account lines" in differing.detail


def test_a_business_day_is_found_in_the_log_though_its_outcomes_are_lost(
    database_url: str,
) -> None:
    written = two_recharges(database_url)
    written.commit(written.recharge("next", day=NEXT_DAY), written.recharge("late"))
    passed_over(database_url)

    of_day = swept(database_url, selection=Selection(business_date=DAY))
    of_next = swept(database_url, selection=Selection(business_date=NEXT_DAY))
    of_other = swept(database_url, selection=Selection(business_date=DAY, book_id="other"))

    assert [each.operation_id for each in of_day.differences] == ["late"]
    assert of_day.operations == 3
    assert [each.operation_id for each in of_next.differences] == ["next"]
    assert of_next.operations == 1
    assert (of_other.operations, of_other.found) == (0, 0)


def test_an_outcome_dated_into_the_business_day_differs(database_url: str) -> None:
    written = two_recharges(database_url)
    written.commit(written.recharge("next", day=NEXT_DAY))
    consume_log(database_url)
    broken(database_url, f"UPDATE outcomes SET business_date = '{DAY}' WHERE position = 8")

    (differing,) = swept(database_url, selection=Selection(business_date=DAY)).differences

    assert (differing.kind, differing.operation_id) == ("differing", "next")
    assert "the log another day" in differing.detail


def test_a_range_is_swept_and_nothing_else(database_url: str) -> None:
    two_recharges(database_url)
    broken(database_url, "UPDATE outcomes SET amounts = '{\"CNY\":1}'")

    report = swept(database_url, after=4, through=6)

    assert [each.operation_id for each in report.differences] == ["two"]
    assert (report.after, report.through, report.operations) == (4, 6, 1)


def test_slices_cover_the_range_without_gap_or_overlap(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.completeness.POSITIONS_PER_SLICE", 1)
    two_recharges(database_url)
    covered: list[int] = []

    report = swept(database_url, progress=covered.append)

    assert report.operations == 2
    assert sum(covered) == report.through == len(covered)
