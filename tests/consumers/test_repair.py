"""Parked operations are repaired by orders in the log; what waits behind them follows."""

from __future__ import annotations

from typing import Any

import pytest

from accounting.ruleset_files import shipped_ruleset
from consumers.repair import explain, retry, try_dry
from infra.decision_log import decision_log
from projections.journal import select_vouchers_of
from projections.outcomes import Outcome
from projections.parked import ParkedFilter, count_parked, select_parked
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log, log_consumer, statuses
from tests.consumers.test_outcomes import identity_of, payment, refund_of, rules_without
from tests.consumers.written_log import AT, BOOK, WrittenLog


def retried(database_url: str, wanted: ParkedFilter | None = None, **more: Any) -> Any:
    """Retry with a live consumer beside it."""
    with (
        log_consumer(database_url) as consumer,
        decision_log(database_url) as decisions,
        connect_to(database_url) as conn,
    ):
        return retry(conn, decisions, BOOK, wanted, maker="alice", wait=consumer.step, **more)


def test_parked_becomes_vouchered_when_its_rule_is_published_and_it_is_retried(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"), payment(written, "p-2"), written.recharge("r-1"))
    consume_log(database_url)
    assert statuses(database_url)["p-1"] == ("parked", "no_rule")
    written.publish()

    report = retried(database_url)

    assert report.performed
    assert [(each.operation_id, each.status) for each in report.operations] == [
        ("p-1", "vouchered"),
        ("p-2", "vouchered"),
    ]
    assert identity_of(database_url).holds
    with connect_to(database_url) as conn:
        (voucher,) = select_vouchers_of(conn, BOOK, "p-1")
        assert voucher.voucher_id == f"{BOOK}/p-1/1"
        assert voucher.ruleset_hash == shipped_ruleset().hash
        status = conn.execute(
            "SELECT status FROM ledger.accounting_statuses WHERE operation_id = 'p-1'"
        ).fetchone()
        assert status == ("vouchered",)


def test_a_retry_without_the_cause_fixed_parks_again_and_says_so(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    consume_log(database_url)

    report = retried(database_url)

    (operation,) = report.operations
    assert (operation.status, operation.reason) == ("parked", "no_rule")
    assert operation.attempt_position == report.orders[0]


def test_what_is_parked_says_its_first_and_last_attempt_and_the_rules_tried(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    tried = rules_without("payment")
    written.publish(tried)
    written.commit(payment(written, "p-1"))
    consume_log(database_url)
    order = retried(database_url).orders[0]

    with connect_to(database_url) as conn:
        (parked,) = select_parked(conn, BOOK).items
        rows = conn.execute("SELECT first_id, booked_at FROM ledger.seals")
        booked_at = dict(rows.fetchall())

    assert (parked.first_attempt_position, parked.attempt_position) == (parked.position, order)
    assert parked.first_attempt_at == parked.booked_at == AT
    assert parked.last_attempt_at == booked_at[order] > AT
    assert parked.ruleset_hash == tried.hash


def test_what_waits_says_the_rules_it_was_tried_with_when_it_arrived(database_url: str) -> None:
    """Neither the rules of a later date nor those published afterwards."""
    written = WrittenLog(database_url)
    tried = rules_without("payment")
    written.publish(rules_without("interest"))
    written.publish(tried)
    written.publish(rules_without("refund"), effective_from="2999-01-01")
    written.commit(payment(written, "p-1"), refund_of(written, "f-1", "p-1"))
    consume_log(database_url)
    written.publish()
    consume_log(database_url)

    with connect_to(database_url) as conn:
        front, behind = select_parked(conn, BOOK).items

    assert (behind.operation_id, behind.status, behind.waits_for) == ("f-1", "waiting", "p-1")
    assert front.ruleset_hash == behind.ruleset_hash == tried.hash


def test_a_second_retry_finds_nothing_and_changes_nothing(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    consume_log(database_url)
    written.publish()
    retried(database_url)
    before = books(database_url)

    assert retried(database_url).operations == ()
    assert books(database_url) == before


def test_a_dry_run_shows_the_vouchers_and_changes_nothing(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    written.publish()
    consume_log(database_url)
    before = books(database_url)

    with connect_to(database_url) as conn:
        (tried,) = try_dry(conn, BOOK)

    assert tried.becomes == "vouchered"
    assert [(line.side, line.subject, line.amount_minor) for line in tried.vouchers[0].lines] == [
        ("debit", "2001.01", 500),
        ("credit", "2002.01", 490),
        ("credit", "5001.01", 10),
    ]
    assert books(database_url) == before


def test_a_retry_means_only_what_its_filter_says(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment", "recharge"))
    written.commit(payment(written, "p-1"), written.recharge("r-1"), written.recharge("r-2"))
    written.publish()
    consume_log(database_url)

    retried(database_url, ParkedFilter(business_type="recharge", operation_ids=("r-2", "p-1")))

    found = {name: status for name, (status, _) in statuses(database_url).items()}
    assert found == {"p-1": "parked", "r-1": "parked", "r-2": "vouchered"}


def test_a_retry_can_name_the_version_of_the_rules(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    wanted = rules_without("fee")
    written.publish(wanted)
    written.publish()
    consume_log(database_url)

    unknown = retried(database_url, ruleset_hash="nobody knows it")
    assert [each.reason for each in unknown.operations] == ["unknown_ruleset"]
    retried(database_url, ruleset_hash=wanted.hash)

    with connect_to(database_url) as conn:
        (voucher,) = select_vouchers_of(conn, BOOK, "p-1")
    assert voucher.ruleset_hash == wanted.hash


def test_what_waits_behind_a_parked_original_follows_it_down_the_chain(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(
        payment(written, "p-1"),
        refund_of(written, "refund of p-1", "p-1"),
        refund_of(written, "refund of the refund", "refund of p-1"),
        refund_of(written, "refund of nothing seen", "unknown"),
    )
    consume_log(database_url)
    waiting = ("waiting", "behind_original")
    assert statuses(database_url)["refund of the refund"] == waiting
    written.publish()

    retried(database_url, ParkedFilter(reason="no_rule"))

    assert statuses(database_url) == {
        "p-1": ("vouchered", None),
        "refund of p-1": ("vouchered", None),
        "refund of the refund": ("vouchered", None),
        "refund of nothing seen": waiting,
    }


def test_a_missed_wake_up_is_found_by_the_sweep(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(payment(written, "p-1"), refund_of(written, "f-1", "p-1"))
    consume_log(database_url)
    before = books(database_url)
    with connect_to(database_url) as conn:  # as if two lanes had missed each other
        conn.execute("ALTER TABLE vouchers DISABLE TRIGGER USER")
        conn.execute("ALTER TABLE voucher_lines DISABLE TRIGGER USER")
        conn.execute("DELETE FROM vouchers WHERE source_id = 'f-1'")
        conn.execute(
            "DELETE FROM voucher_lines WHERE position = "
            "(SELECT position FROM outcomes WHERE operation_id = 'f-1')"
        )
        conn.execute(
            "UPDATE outcomes SET status = 'waiting', waits_for = 'p-1' WHERE operation_id = 'f-1'"
        )

    with log_consumer(database_url) as consumer:
        consumer.step()
        assert consumer.counts.woken == 1

    after = books(database_url)
    assert after["outcomes"] == before["outcomes"]
    assert after["voucher_lines"] == before["voucher_lines"]


def test_explaining_shows_the_operation_and_what_a_retry_would_make(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        explained = explain(conn, BOOK, "p-1")
        (count,) = count_parked(conn, BOOK)

    assert explained.parked.reason == "no_rule"
    assert explained.parked.amounts == {"CNY": 990}
    assert explained.operation.operation_id == "p-1"
    assert explained.retry.becomes == "parked"
    assert (count.reason, count.count) == ("no_rule", 1)


def test_an_order_is_performed_only_when_every_lane_has_passed_it(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    written.publish()
    consume_log(database_url)
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))
    with log_consumer(database_url) as consumer:
        consumer.conn.execute(
            "INSERT INTO positions (lane, log_id, log_incarnation, position, incarnation) "
            "SELECT 1, log_id, log_incarnation, position, incarnation FROM positions"
        )  # a slower lane

        consumer.step()
        assert statuses(database_url)["p-1"] == ("parked", "no_rule")

        consumer.conn.execute("UPDATE positions SET position = 1000 WHERE lane = 1")
        consumer.perform_due()

    assert statuses(database_url)["p-1"] == ("vouchered", None)


def test_a_consumer_killed_inside_a_repair_leaves_it_for_the_next(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(payment(written, "p-1"))
    written.publish()
    consume_log(database_url)
    written.decide(lambda made: made.request_repair(BOOK, ["p-1"], maker="alice"))

    def die(point: str) -> None:
        if point == "changed":
            raise KeyboardInterrupt

    with (
        log_consumer(database_url, failpoint=die) as consumer,
        pytest.raises(KeyboardInterrupt),
    ):
        consumer.step()
    assert statuses(database_url)["p-1"] == ("parked", "no_rule")

    consume_log(database_url)
    assert statuses(database_url)["p-1"] == ("vouchered", None)


def test_revisions_of_outcomes_only_grow() -> None:
    def revision(status: str, attempt_position: int) -> int:
        waits_for = "x" if status == "waiting" else None
        outcome = Outcome(
            "b", "o", 5, "t", "d", status, None, None, None, None, attempt_position, None,
            waits_for, None,  # type: ignore[arg-type]
        )  # fmt: skip
        return outcome.revision

    history = [("waiting", 5), ("parked", 5), ("parked", 9), ("vouchered", 9)]
    revisions = [revision(*step) for step in history]
    assert revisions == sorted(set(revisions))
