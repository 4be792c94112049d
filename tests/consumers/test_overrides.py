"""An override needs two people, keeps both names, and becomes a voucher only where it can stand."""

from __future__ import annotations

from uuid import UUID

import pytest

from accounting.decisions import DecisionRefused, GivenLine
from consumers.overrides import (
    Approved,
    approve_override,
    propose_override,
    select_override,
    select_overrides,
)
from consumers.rebuild import rebuild
from consumers.repair import retry, try_dry
from infra.decision_log import decision_log
from ledger.errors import NotFound
from projections.journal import select_vouchers_of
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log, log_consumer, statuses
from tests.consumers.test_outcomes import identity_of, payment, refund_of, rules_without
from tests.consumers.test_periods import NEXT, a_day_without_payments, cut
from tests.consumers.written_log import BOOK, DAY, MERCHANT, WrittenLog, leg


def lines(fee_subject: str = "5001.01", fee_minor: int = 10) -> list[GivenLine]:
    """What an accountant would write for a payment of 500 with a fee of 10."""
    return [
        GivenLine("debit", "2001.01", "CNY", 500, "C-1"),
        GivenLine("credit", "2002.01", "CNY", 490, "M-1"),
        GivenLine("credit", fee_subject, "CNY", fee_minor),
    ]


def test_an_override_needs_two_people_and_keeps_both_names(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"), refund_of(written, "f-1", "p-1"))
    consume_log(database_url)

    with (
        log_consumer(database_url) as consumer,
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
    ):
        override_id, _ = propose_override(
            conn, decisions, BOOK, "p-1", lines(), accounting_date="2026-02-01", maker="alice"
        )
        consumer.step()
        assert statuses(database_url)["p-1"] == ("parked", "no_rule")
        with pytest.raises(DecisionRefused, match="two people"):
            approve_override(conn, decisions, override_id, book_id=BOOK, checker="alice")
        approved = approve_override(
            conn, decisions, override_id, book_id=BOOK, checker="bob", wait=consumer.step
        )
        assert approved.performed
        with pytest.raises(DecisionRefused, match="bob has approved"):
            approve_override(conn, decisions, override_id, book_id=BOOK, checker="carol")
        (voucher,) = select_vouchers_of(conn, BOOK, "p-1")
        kept = conn.execute("SELECT maker, checker FROM repair_orders").fetchall()

    assert voucher.voucher_id == f"{BOOK}/decision:{approved.position}/1"
    assert (voucher.accounting_date, voucher.rule_id) == ("2026-02-01", "override")
    assert kept == [("alice", "bob")]
    assert statuses(database_url)["f-1"] == ("vouchered", None)
    assert identity_of(database_url).holds


@pytest.mark.parametrize("part", ["STRIPE-3-M-1", "BUFFER-M-1"])
def test_lines_on_an_account_become_those_of_the_part_that_took_the_leg(
    database_url: str, part: str
) -> None:
    """Regression: an accountant who gave the merchant's number was refused, as the leg lay on a
    stripe of it, which nobody but the engine knows."""
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    paid = [
        leg("debit", "C-1", 980),
        leg("credit", "M-1", 490, subject=MERCHANT),
        leg("credit", part, 490, subject=MERCHANT, intended_account="M-1"),
    ]
    written.commit(written.operation("p-1", paid, business_type="payment"))
    consume_log(database_url)

    with (
        log_consumer(database_url) as consumer,
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
    ):
        given = [
            GivenLine("debit", "2001.01", "CNY", 980, "C-1"),
            GivenLine("credit", MERCHANT, "CNY", 490, "M-1"),
            GivenLine("credit", MERCHANT, "CNY", 490, "M-1"),
        ]
        more = [*given, GivenLine("debit", MERCHANT, "CNY", 490, "M-1"), given[1]]
        with pytest.raises(DecisionRefused, match="not the operation's legs"):
            propose_override(conn, decisions, BOOK, "p-1", more, maker="alice")
        override_id, shown = propose_override(conn, decisions, BOOK, "p-1", given, maker="alice")
        approve_override(
            conn, decisions, override_id, book_id=BOOK, checker="bob", wait=consumer.step
        )
        (voucher,) = select_vouchers_of(conn, BOOK, "p-1")

    assert [line.account for line in voucher.lines] == ["C-1", "M-1", part]
    assert [line.account for line in shown.lines] == ["C-1", "M-1", part]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lines(fee_minor=11), "debits - credits = -1 CNY"),
        ([], "no lines"),
        (
            [GivenLine("debit", "1", "CNY", 5), GivenLine("credit", "2", "CNY", 5)],
            "not the operation's legs",
        ),
        ([GivenLine("debit", "1", "CNY", 0)], "not a line"),
        (lines(fee_subject="5001"), "5001 cannot be posted to"),
        (lines(fee_subject="nowhere"), "nowhere cannot be posted to"),
        (lines(fee_subject="2001.01"), "2001.01 is controlled"),
        (
            [*lines(), GivenLine("debit", "5001.01", "CNY", 7, off_balance=True)],
            "5001.01: the chart says what is off the balance sheet",
        ),
    ],
)
def test_an_override_whose_lines_cannot_stand_is_refused(
    database_url: str, given: list[GivenLine], words: str
) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    consume_log(database_url)

    with (
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
        pytest.raises(DecisionRefused, match=words),
    ):
        propose_override(
            conn, decisions, BOOK, "p-1", given, accounting_date="2026-02-01", maker="alice"
        )


def proposed(database_url: str, operation_id: str, given: list[GivenLine]) -> UUID:
    """Propose lines as alice."""
    with decision_log(database_url) as decisions, connect_to(database_url) as conn:
        return propose_override(
            conn, decisions, BOOK, operation_id, given, maker="alice", note="by hand"
        )[0]


def approved(database_url: str, override_id: UUID, checker: str = "bob") -> Approved:
    """Approve with a live consumer beside it."""
    with (
        log_consumer(database_url) as consumer,
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
    ):
        return approve_override(
            conn, decisions, override_id, book_id=BOOK, checker=checker, wait=consumer.step
        )


def test_a_proposal_is_listed_at_once_and_says_what_became_of_it(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"), payment(written, "p-2"), payment(written, "p-3"))
    consume_log(database_url)
    ids = [proposed(database_url, f"p-{number}", lines()) for number in (1, 2, 3)]
    with decision_log(database_url) as decisions:
        decisions.reject_override(ids[1], checker="bob", note="fee is income")
    approved(database_url, ids[2])

    with connect_to(database_url) as conn:
        found = select_overrides(conn, BOOK).items
        first = select_overrides(conn, BOOK, limit=1)
        rest = select_overrides(conn, BOOK, cursor=first.next_cursor).items
        open_still = select_overrides(conn, BOOK, status="proposed").items
        elsewhere = select_overrides(conn, "other").items

    assert [(each.override_id, each.status, each.checker) for each in found] == [
        (ids[0], "proposed", None),
        (ids[1], "rejected", "bob"),
        (ids[2], "approved", "bob"),
    ]
    assert [each.performed for each in found] == [False, False, True]
    assert (found[0].maker, found[0].note, found[0].lines) == ("alice", "by hand", tuple(lines()))
    assert found[0].accounting_date == "2026-01-31"  # the operation's own, unless another is given
    assert found[1].decision_note == "fee is income"
    assert (*first.items, *rest) == found
    assert open_still == found[:1]
    assert elsewhere == ()


def test_what_was_repaired_meanwhile_can_be_neither_proposed_nor_approved(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    consume_log(database_url)
    override_id = proposed(database_url, "p-1", lines())
    written.publish()
    with (
        log_consumer(database_url) as consumer,
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
    ):
        retry(conn, decisions, BOOK, maker="alice", wait=consumer.step)

    with pytest.raises(DecisionRefused) as refused:
        approved(database_url, override_id)
    with pytest.raises(NotFound, match="neither parked nor waiting"):
        proposed(database_url, "p-1", lines())

    assert refused.value.code == "override_refused"
    with connect_to(database_url) as conn:
        assert len(select_vouchers_of(conn, BOOK, "p-1")) == 1


def test_what_waits_for_something_nobody_has_can_be_overridden_and_rebuilt(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(
        written.operation(
            "f-1", [leg("debit", "M-1", 100, MERCHANT)], business_type="refund", original="unseen"
        )
    )
    consume_log(database_url)
    assert statuses(database_url)["f-1"] == ("waiting", "behind_original")
    given = [
        GivenLine("debit", MERCHANT, "CNY", 100, "M-1"),
        GivenLine("credit", "5001.01", "CNY", 100),
    ]

    assert approved(database_url, proposed(database_url, "f-1", given)).performed

    assert statuses(database_url)["f-1"] == ("vouchered", None)
    assert identity_of(database_url).holds
    assert rebuild(database_url).difference is None


def test_an_approval_that_met_a_cut_says_that_the_operation_is_parked_still(
    database_url: str,
) -> None:
    a_day_without_payments(database_url)
    override_id = proposed(database_url, "p-1", lines())
    cut(database_url)

    assert approved(database_url, override_id).performed

    with connect_to(database_url) as conn:
        found = select_override(conn, BOOK, override_id)
    assert (found.status, found.performed, found.operation_status) == ("approved", True, "parked")
    assert "is cut" in (found.operation_detail or "")


def test_a_dry_run_after_the_cut_says_that_it_would_date_into_the_open_day(
    database_url: str,
) -> None:
    written = a_day_without_payments(database_url)
    cut(database_url)
    written.publish()
    consume_log(database_url)

    with connect_to(database_url) as conn:
        payment_tried, _refund = try_dry(conn, BOOK)

    assert payment_tried.detail == f"dated into the open day {NEXT}: {DAY} is cut"
    assert {voucher.accounting_date for voucher in payment_tried.vouchers} == {NEXT}


def test_an_override_cannot_be_dated_into_a_day_that_has_not_begun(database_url: str) -> None:
    a_day_without_payments(database_url)

    with (
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
        pytest.raises(DecisionRefused, match=f"2062-01-31 has not begun: the open day is {NEXT}"),
    ):
        propose_override(
            conn, decisions, BOOK, "p-1", lines(), accounting_date="2062-01-31", maker="alice"
        )
