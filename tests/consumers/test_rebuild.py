"""Rebuilt books equal the live ones row for row; a kill at any step leaves the live ones."""

from __future__ import annotations

import pytest

from consumers.rebuild import drop_old_schemas, rebuild, select_old_schemas
from projections.positions import LanesChanged
from projections.tables import connect_to
from tests.consumers.caught_up import (
    books,
    consume_kafka,
    consume_log,
    log_consumer,
    relay_all,
    statuses,
)
from tests.consumers.test_buses import a_day
from tests.consumers.test_outcomes import identity_of
from tests.consumers.written_log import WrittenLog


def test_rebuilt_books_equal_the_live_ones_row_for_row(database_url: str) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url, operations_max=3)
    before = books(database_url)

    report = rebuild(database_url)

    assert report.difference is None
    assert report.swapped
    assert report.operations == 82
    assert books(database_url) == before
    assert identity_of(database_url).holds


def test_books_made_over_kafka_are_rebuilt_from_the_log(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    a_day(WrittenLog(database_url))
    relay_all(database_url, kafka_bootstrap, topic_name)
    consume_kafka(database_url, kafka_bootstrap, topic_name)
    before = books(database_url, lanes=True)

    report = rebuild(database_url)

    assert report.difference is None
    assert report.swapped
    assert books(database_url, lanes=True) == before


def test_posting_goes_on_beside_a_rebuild_and_the_consumer_follows_the_swap(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))
    with log_consumer(database_url) as consumer:
        consumer.step()

        def post_meanwhile(point: str) -> None:
            if point == "filled":
                written.commit(written.recharge("two"))
                consumer.step()
                written.commit(written.recharge("three"))

        report = rebuild(database_url, failpoint=post_meanwhile)
        assert report.swapped
        with pytest.raises(LanesChanged):
            consumer.step()

    consume_log(database_url)
    assert set(statuses(database_url)) == {"one", "two", "three"}
    assert rebuild(database_url).difference is None


@pytest.mark.parametrize("point", ["filled", "drained", "renamed"])
def test_a_killed_rebuild_leaves_the_live_books_and_can_be_repeated(
    database_url: str, point: str
) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url)
    before = books(database_url, lanes=True)

    def die(at: str) -> None:
        if at == point:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(database_url, failpoint=die)

    assert books(database_url, lanes=True) == before
    consume_log(database_url)
    assert rebuild(database_url).swapped


def test_a_flipped_row_is_named_and_prevents_the_swap(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"), written.recharge("two"))
    consume_log(database_url)
    with connect_to(database_url) as conn:
        conn.execute("UPDATE gl_balances SET debit_minor = debit_minor + 1 WHERE debit_minor > 0")

    report = rebuild(database_url)

    assert not report.swapped
    assert report.difference is not None
    assert report.difference.table == "gl_balances"
    assert report.difference.key["subject"] == "1131.01"
    assert report.difference.live is not None
    assert report.difference.rebuilt is not None
    assert report.difference.live["debit_minor"] == "20001"
    assert report.difference.rebuilt["debit_minor"] == "20000"


def test_a_row_that_only_one_side_has_is_named(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))
    consume_log(database_url)
    with connect_to(database_url) as conn:
        conn.execute(
            "INSERT INTO operation_orders (book_id, kind, order_number, operation_id, position) "
            "VALUES ('main', 'trade', 'T-9', 'nobody', 4)"
        )

    report = rebuild(database_url, swap=False)

    assert report.difference is not None
    assert report.difference.key["operation_id"] == "nobody"
    assert report.difference.rebuilt is None


def test_the_old_books_are_kept_until_they_are_dropped(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    consume_log(database_url)

    report = rebuild(database_url)

    with connect_to(database_url) as conn:
        assert select_old_schemas(conn) == [report.kept_schema]
        assert drop_old_schemas(conn) == [report.kept_schema]
        assert select_old_schemas(conn) == []


def test_a_rebuild_sends_no_results(database_url: str) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url)
    with connect_to(database_url) as conn:
        conn.execute("DELETE FROM ledger.accounting_statuses")

        rebuild(database_url)

        count = conn.execute("SELECT count(*) FROM ledger.accounting_statuses").fetchone()
    assert count == (0,)
