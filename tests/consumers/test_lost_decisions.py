"""Decisions that left no row: kept late they give the books of a rebuild, or they are named."""

from __future__ import annotations

import pytest

from accounting.decisions import GivenLine
from consumers.rebuild import rebuild
from tests.consumers.caught_up import books, consume_log, statuses
from tests.consumers.lossy_books import consume_losing
from tests.consumers.test_completeness import passed_over
from tests.consumers.test_order import changed
from tests.consumers.test_outcomes import refund_of
from tests.consumers.test_periods import NEXT, a_day_without_payments, cut, open_next
from tests.consumers.test_sweeps import healed, told
from tests.consumers.written_log import BOOK, DAY, WrittenLog

LINES = (
    GivenLine("debit", "2001.01", "CNY", 500, "C-1"),
    GivenLine("credit", "2002.01", "CNY", 490, "M-1"),
    GivenLine("credit", "5001.01", "CNY", 10),
)


def ordered(written: WrittenLog) -> None:
    """Rules come, and a retry of the payment; then a second refund of it."""
    written.publish()
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))
    written.commit(refund_of(written, "f-2", "p-1"), written.recharge("r-2", day=NEXT))


def overridden(written: WrittenLog) -> None:
    """Two people give the payment's lines."""
    given = {"accounting_date": DAY, "maker": "alice"}
    override_id = written.decide(lambda made: made.propose_override(BOOK, "p-1", LINES, **given))
    written.decide(lambda made: made.approve_override(override_id, checker="bob"))
    written.commit(written.recharge("r-2", day=NEXT))


@pytest.mark.parametrize("cut_behind", [False, True])
@pytest.mark.parametrize(
    ("lost", "decide"), [("RepairRequested", ordered), ("OverrideApproved", overridden)]
)
def test_an_order_that_was_lost_is_performed_late_as_a_rebuild_would(
    database_url: str, lost: str, decide: object, cut_behind: bool
) -> None:
    """With a cut behind it: the order's vouchers take their numbers, and later ones move."""
    written = a_day_without_payments(database_url)
    decide(written)  # type: ignore[operator]
    consume_log(database_url)
    if cut_behind:
        cut(database_url)
        open_next(database_url, "2026-02-03")
        consume_log(database_url)
        cut(database_url, NEXT)
    whole = books(database_url)
    expected = {name: status for name, (status, _) in statuses(database_url).items()}
    assert expected["p-1"] == "vouchered"
    consume_losing(database_url, (lost,))
    assert statuses(database_url)["p-1"][0] == "parked"

    report = healed(database_url)

    assert [(each.kind, each.healed) for each in report.differences] == [("unmet", True)]
    assert ("later vouchers" in report.differences[0].detail) == cut_behind
    assert books(database_url) == whole
    assert told(database_url) == expected
    assert healed(database_url).found == 0


def test_a_proposal_and_a_message_set_aside_are_kept_late(database_url: str) -> None:
    written = a_day_without_payments(database_url)
    changed(written, "close", "2026-01-01")
    written.decide(
        lambda made: made.set_aside("ledger.operations", 0, 7, b"{}", reason="?", maker="olga")
    )
    consume_log(database_url)
    whole = books(database_url)
    assert len(whole["set_asides"]) == 1, "the books keep what was set aside, also in a rebuild"
    assert rebuild(database_url, swap=False).difference is None
    consume_losing(database_url, ("MessageSetAside", "PeriodChangeProposed"))
    assert books(database_url) != whole

    report = healed(database_url)

    assert [(each.kind, each.healed) for each in report.differences] == [("unmet", True)] * 2
    assert books(database_url) == whole


def test_an_order_that_another_one_has_overtaken_is_left_for_a_rebuild(database_url: str) -> None:
    """The second order tries with rules that the first one had not: to perform that now would give
    other books than the log does."""
    written = a_day_without_payments(database_url)
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))
    consume_losing(database_url, ("RepairRequested",))
    ordered(written)
    consume_log(database_url)
    before = books(database_url)

    report = healed(database_url)

    assert [(each.kind, each.healed) for each in report.differences] == [("unmet", False)]
    assert books(database_url) == before
    assert rebuild(database_url, compare=False).swapped
    assert healed(database_url).found == 0


def test_an_order_is_kept_and_left_to_the_consumers_while_a_lane_has_not_come_so_far(
    database_url: str,
) -> None:
    """Performed before every lane has passed it, it would miss what that lane brings."""
    ordered(a_day_without_payments(database_url))
    consume_losing(database_url, ("RepairRequested",))
    passed_over(database_url, lanes=2, stand={1: 1})

    assert healed(database_url).healed == 1
    assert statuses(database_url)["p-1"] == ("parked", "no_rule")

    passed_over(database_url)
    consume_log(database_url)
    assert statuses(database_url)["p-1"] == ("vouchered", None)
