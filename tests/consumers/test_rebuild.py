"""Rebuilt books equal the live ones row for row; a kill at any step leaves the live ones."""

from __future__ import annotations

import pytest

from consumers.rebuild import (
    NEAR_ROWS,
    compare_with_kept,
    drop_old_schemas,
    rebuild,
    select_kept_books,
    select_old_schemas,
)
from ledger.errors import InvalidRequest, NotFound
from projections.positions import LanesChanged, select_head, select_visible
from projections.tables import connect_to
from tests.audit import story
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


def test_applied_buffers_and_all_else_of_the_audit_s_story_are_rebuilt(database_url: str) -> None:
    story.tell(database_url)
    before = books(database_url)

    report = rebuild(database_url)

    assert report.difference is None
    assert books(database_url) == before


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


@pytest.mark.parametrize("point", ["filled", "level", "compared", "drained", "renamed"])
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


def damage(database_url: str) -> None:
    """Change one sum and one line of the live books behind everybody's back."""
    with connect_to(database_url) as conn:
        conn.execute("UPDATE gl_balances SET credit_minor = credit_minor + 7")
        conn.execute("ALTER TABLE voucher_lines DISABLE TRIGGER USER")
        conn.execute("UPDATE voucher_lines SET subject = '9999' WHERE line_no = 1")
        conn.execute("ALTER TABLE voucher_lines ENABLE TRIGGER USER")


def test_one_table_is_rebuilt_and_the_others_stay(database_url: str) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url)
    whole = books(database_url)
    damage(database_url)
    damaged = books(database_url)

    with log_consumer(database_url) as consumer:
        report = rebuild(database_url, only=["gl_balances"], compare=False)
        written.commit(written.recharge("meanwhile", "C-1"))
        with pytest.raises(LanesChanged):
            consumer.step()

    assert report.swapped
    assert report.tables == ("gl_balances",)
    found = books(database_url)
    assert found.pop("gl_balances") == whole["gl_balances"] != damaged.pop("gl_balances")
    assert found == damaged
    with connect_to(database_url) as conn:
        (kept,) = select_kept_books(conn)
        assert (kept.schema, kept.tables) == (report.kept_schema, ("gl_balances",))
        with pytest.raises(InvalidRequest, match="compare --only gl_balances"):
            compare_with_kept(conn, kept.schema)
    rebuild(database_url, only=["voucher_lines"], compare=False)
    consume_log(database_url)
    assert statuses(database_url)["meanwhile"] == ("vouchered", None)
    assert rebuild(database_url).difference is None


def test_only_the_named_tables_are_compared(database_url: str) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url)
    damage(database_url)

    assert rebuild(database_url, only=["outcomes", "vouchers"], swap=False).difference is None
    found = rebuild(database_url, only=["gl_balances"], swap=False).difference
    assert found is not None
    assert found.table == "gl_balances"
    with pytest.raises(InvalidRequest, match="no table vuochers to rebuild"):
        rebuild(database_url, only=["vuochers"])


def test_a_reader_in_the_way_of_a_table_delays_the_swap_and_is_not_harmed(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url)
    with connect_to(database_url) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM gl_balances").fetchone()
        given_up = []

        def count(point: str) -> None:
            if point == "drained":
                given_up.append(point)
            if len(given_up) == 2 and not reader.closed:
                reader.execute("SELECT count(*) FROM voucher_lines").fetchone()
                reader.execute("COMMIT")
                reader.close()

        assert rebuild(database_url, only=["voucher_lines", "gl_balances"], failpoint=count).swapped
    assert len(given_up) >= 2


def test_kept_books_are_compared_with_what_replaced_them(database_url: str) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    consume_log(database_url)
    same = rebuild(database_url).kept_schema
    damage(database_url)
    damaged = rebuild(database_url, compare=False).kept_schema
    assert same is not None
    assert damaged is not None
    written.commit(written.recharge("later", "C-1"))
    written.decide(
        lambda made: made.request_repair(written.book_id, [f"p-{n}" for n in range(9)], maker="al")
    )
    consume_log(database_url)  # what is decided later is no difference

    with connect_to(database_url) as conn:
        assert compare_with_kept(conn, same) is None
        found = compare_with_kept(conn, damaged)
        with pytest.raises(NotFound, match="no kept books nobody"):
            compare_with_kept(conn, "nobody")
        assert drop_old_schemas(conn, [damaged]) == [damaged]
        assert select_old_schemas(conn) == [same]
    assert found is not None
    assert found.table == "voucher_lines"
    assert found.rebuilt is not None
    assert found.rebuilt["subject"] == "9999"


def test_what_came_while_books_were_compared_is_followed_before_the_swap(database_url: str) -> None:
    written = WrittenLog(database_url)
    a_day(written)
    count = NEAR_ROWS // 2 + 100  # two rows each: more than is left to the lanes' lock
    with log_consumer(database_url) as consumer:
        consumer.step()

        def post_much(point: str) -> None:
            if point == "compared":
                written.commit(*(written.recharge(f"much-{number}") for number in range(count)))
                while consumer.step():
                    pass

        report = rebuild(database_url, failpoint=post_much)

    assert report.swapped
    assert report.operations == 82 + count
    with connect_to(database_url) as conn:
        assert report.position == select_visible(conn) == select_head(conn)
    assert rebuild(database_url).difference is None
