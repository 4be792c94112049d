"""What is made ahead of its turn ends in the same books as what is made in its turn."""

from __future__ import annotations

import pytest

from accounting.ruleset import Ruleset
from accounting.ruleset_files import shipped_ruleset
from consumers.ahead import ROWS_MIN
from consumers.consumer import Consumer
from ledger.statuses import AccountingResult, apply_results_in_tx
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log, log_consumer, statuses
from tests.consumers.written_log import BOOK, WrittenLog

OPERATIONS_MAX = 250  # 1,000 rows of the log: 500 recharges, as many as are made ahead
SELECT_SAID = """
    SELECT operation_id, status, reason FROM ledger.accounting_statuses ORDER BY operation_id
"""


class Cut(Exception):
    """A consumer dies here."""


def a_long_log(database_url: str) -> WrittenLog:
    """Four full polls, and what is in the fifth."""
    written = WrittenLog(database_url)
    written.publish()
    for part in range(4):
        written.commit(*(written.recharge(f"r-{part}-{no}") for no in range(ROWS_MIN)))
    return written


def step_through(consumer: Consumer) -> None:
    while consumer.step():
        pass


def polls_made_ahead(consumer: Consumer) -> list[int]:
    """Note, from now on, after which positions the bus is read ahead of its turn."""
    noted: list[int] = []
    following = consumer.bus.following

    def note(poll):  # type: ignore[no-untyped-def]
        noted.append(poll.through)
        return following(poll)

    consumer.bus.following = note  # type: ignore[method-assign]
    return noted


def test_books_made_ahead_are_those_made_in_turn(
    database_url: str, other_database_url: str
) -> None:
    a_long_log(database_url)
    a_long_log(other_database_url)

    with log_consumer(database_url, operations_max=OPERATIONS_MAX) as consumer:
        noted = polls_made_ahead(consumer)
        step_through(consumer)
        assert consumer.counts.operations == 4 * ROWS_MIN
    consume_log(other_database_url, operations_max=10)

    assert len(noted) > 1
    assert books(database_url) == books(other_database_url)


@pytest.mark.parametrize("dying", [2, 3])
def test_what_was_made_behind_a_poll_that_died_is_not_used(
    database_url: str, other_database_url: str, dying: int
) -> None:
    a_long_log(database_url)
    a_long_log(other_database_url)
    handled = 0

    def cut(point: str) -> None:
        nonlocal handled
        handled += point == "handled"
        if point == "handled" and handled == dying:
            raise Cut

    with log_consumer(database_url, operations_max=OPERATIONS_MAX, failpoint=cut) as consumer:
        with pytest.raises(Cut):
            step_through(consumer)
        consumer.bus.rewind()
        step_through(consumer)
        assert consumer.counts.filled_gaps == 0
    consume_log(other_database_url, operations_max=10)

    assert books(database_url) == books(other_database_url)


def test_operations_behind_new_rules_are_tried_with_them(database_url: str) -> None:
    written = a_long_log(database_url)
    shipped = shipped_ruleset()
    rules = [rule for rule in shipped.rules if rule.business_type != "recharge"]
    written.publish(Ruleset("reduced", shipped.chart, rules))
    written.commit(*(written.recharge(f"late-{no}") for no in range(3 * ROWS_MIN)))

    consume_log(database_url, operations_max=OPERATIONS_MAX)

    found = statuses(database_url)
    assert {found[f"r-3-{no}"] for no in range(ROWS_MIN)} == {("vouchered", None)}
    assert {found[f"late-{no}"] for no in range(3 * ROWS_MIN)} == {("parked", "no_rule")}


def test_a_lane_that_another_consumer_moved_is_met_anew(
    database_url: str, other_database_url: str
) -> None:
    a_long_log(other_database_url)
    consume_log(other_database_url, operations_max=10)
    a_long_log(database_url)

    with (
        log_consumer(database_url, operations_max=OPERATIONS_MAX) as first,
        log_consumer(database_url, operations_max=OPERATIONS_MAX) as second,
    ):
        first.step()
        first.step()
        second.step()
        step_through(first)
        step_through(second)

    assert books(database_url) == books(other_database_url)


def test_what_was_claimed_before_stays_and_the_rest_of_its_poll_is_booked(
    database_url: str, other_database_url: str
) -> None:
    for url in (database_url, other_database_url):
        written = WrittenLog(url)
        written.publish()
        written.commit(*(written.recharge(f"r-{no}") for no in range(3)))
        consume_log(url)
        if url == database_url:
            with connect_to(url) as conn:
                conn.execute("UPDATE positions SET position = 1")
        written.commit(*(written.recharge(f"s-{no}") for no in range(3)))

    with log_consumer(database_url) as consumer:
        step_through(consumer)
        assert consumer.counts.refused_by_database == 0
        assert consumer.counts.outcomes == 3
    consume_log(other_database_url)

    assert books(database_url) == books(other_database_url)


def test_a_result_that_was_said_before_is_said_anew(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(*(written.recharge(f"r-{no}") for no in range(3)))
    early = AccountingResult(BOOK, "r-1", "parked", "no_rule", 1)
    with connect_to(database_url) as conn:
        apply_results_in_tx(conn, [early])

    with log_consumer(database_url) as consumer:
        step_through(consumer)
        written.commit(written.recharge("r-3"))
        step_through(consumer)
        assert consumer.counts.refused_by_database == 0

    with connect_to(database_url) as conn:
        found = conn.execute(SELECT_SAID).fetchall()
    assert found == [(f"r-{no}", "vouchered", None) for no in range(4)]
