"""Every operation ends as exactly one of vouchered, parked, waiting and non-posting."""

from __future__ import annotations

import psycopg
import pytest

from accounting.ruleset import Ruleset
from accounting.ruleset_files import shipped_ruleset
from consumers.consumer import Consumer
from ledger.errors import LogCorrupt
from ledger.events import OperationBooked
from ledger.statuses import AccountingResult, apply_results_in_tx
from projections.identity import Identity, select_identity
from projections.positions import LanesChanged
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log, log_consumer, statuses
from tests.consumers.written_log import BOOK, CUSTOMER, DAY, MERCHANT, WrittenLog, leg


def rules_without(*business_types: str) -> Ruleset:
    """The shipped rules without those of some business types."""
    shipped = shipped_ruleset()
    rules = [rule for rule in shipped.rules if rule.business_type not in business_types]
    return Ruleset("reduced", shipped.chart, rules)


def identity_of(database_url: str) -> Identity:
    """The identity of the book, read in one snapshot."""
    with connect_to(database_url) as conn, conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return select_identity(conn, BOOK)


def refund_of(written: WrittenLog, operation_id: str, original: str) -> object:
    """A refund of a payment to merchant M-1."""
    return written.operation(
        operation_id,
        [leg("debit", "M-1", 100, MERCHANT), leg("credit", "C-1", 100, CUSTOMER)],
        business_type="refund",
        original=original,
    )


def payment(written: WrittenLog, operation_id: str, day: str = DAY) -> OperationBooked:
    """A payment of 500 with a fee of 10 to merchant M-1."""
    return written.operation(
        operation_id,
        [leg("debit", "C-1", 500), leg("credit", "M-1", 490, MERCHANT)],
        business_type="payment",
        fee_minor=10,
        day=day,
    )


def test_each_operation_ends_as_exactly_one_of_four_and_the_identity_holds(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(
        written.recharge("vouchered", fee_minor=60),
        payment(written, "parked"),
        refund_of(written, "waiting", "parked"),
        written.operation("note", [], business_type="account_note"),
        written.operation("held", [leg("hold", "C-1", 5, hold_id="H")], business_type="hold"),
    )

    consume_log(database_url)

    assert statuses(database_url) == {
        "vouchered": ("vouchered", None),
        "parked": ("parked", "no_rule"),
        "waiting": ("waiting", "behind_original"),
        "note": ("non_posting", None),
        "held": ("non_posting", None),
    }
    found = identity_of(database_url)
    assert found.holds
    nothing, cny = found.currencies
    assert (nothing.currency, nothing.booked.count, nothing.non_posting.count) == ("", 2, 2)
    assert (cny.booked.count, cny.booked.amount_minor) == (3, 10_000 + 990 + 200)
    assert (cny.vouchered.count, cny.parked.count, cny.waiting.count) == (1, 1, 1)


def test_the_identity_holds_at_every_position_inside_a_commit(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(*(written.recharge(f"r-{number}") for number in range(9)))

    with log_consumer(database_url, operations_max=1) as consumer:
        seen = []
        while consumer.step():
            found = identity_of(database_url)
            assert found.holds
            seen.append(sum(line.booked.count for line in found.currencies))

    assert seen[-1] == 9
    assert len(set(seen)) > 3


def test_a_log_given_again_from_the_start_changes_nothing(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(written.recharge("one"), payment(written, "two"))
    consume_log(database_url)
    before = books(database_url)

    with connect_to(database_url) as conn:
        conn.execute("UPDATE positions SET position = 0")
    consume_log(database_url)

    assert books(database_url) == before


@pytest.mark.parametrize("operations_max", [1, 2, 1000])
def test_the_size_of_polls_does_not_matter(database_url: str, operations_max: int) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(written.recharge("one"), payment(written, "two"))
    written.commit(refund_of(written, "three", "two"))
    written.publish()
    written.decide(lambda made: made.request_repair(BOOK, ["two"], maker="alice"))
    written.commit(written.recharge("four"), refund_of(written, "five", "two"))

    consume_log(database_url, operations_max=operations_max)

    with connect_to(database_url) as conn:
        rows = conn.execute(
            "SELECT operation_id, status, attempt_position, ruleset_position "
            "FROM outcomes ORDER BY position"
        ).fetchall()
    assert rows == [
        ("one", "vouchered", 4, 2),
        ("two", "vouchered", 12, 11),
        ("three", "vouchered", 12, 2),
        ("four", "vouchered", 14, 11),
        ("five", "vouchered", 17, 11),
    ]


@pytest.mark.parametrize("point", ["handled", "committed"])
def test_a_consumer_that_dies_between_steps_loses_and_doubles_nothing(
    database_url: str, other_database_url: str, point: str
) -> None:
    for url in (database_url, other_database_url):
        written = WrittenLog(url)
        written.publish()
        for number in range(6):
            written.commit(written.recharge(f"r-{number}", fee_minor=60))
    consume_log(other_database_url)

    def die(at: str) -> None:
        if at == point:
            raise KeyboardInterrupt

    for _ in range(4):
        with (
            log_consumer(database_url, operations_max=1, failpoint=die) as consumer,
            pytest.raises(KeyboardInterrupt),
        ):
            consumer.step()
    consume_log(database_url)

    assert books(database_url) == books(other_database_url)


def test_a_connection_cut_inside_the_transaction_is_retried_from_the_position(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))

    def cut(point: str) -> None:
        if point == "handled":
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
                    "AND state = 'idle in transaction'"
                )

    with (
        log_consumer(database_url, failpoint=cut) as consumer,
        pytest.raises(psycopg.OperationalError),
    ):
        consumer.step()
    assert statuses(database_url) == {}

    consume_log(database_url)
    assert statuses(database_url) == {"one": ("vouchered", None)}


def test_two_consumers_of_the_log_at_once_book_each_operation_once(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))
    with log_consumer(database_url) as first, log_consumer(database_url) as second:
        given = second.bus.poll(0)
        first.step()
        for poll in given:
            assert second._handle(poll)  # type: ignore[arg-type]

    assert statuses(database_url) == {"one": ("vouchered", None)}
    with connect_to(database_url) as conn:
        assert conn.execute("SELECT count(*) FROM vouchers").fetchone() == (1,)


def test_the_database_refuses_one_operation_and_only_that_one_is_parked(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.publish()
    with connect_to(database_url) as conn:
        conn.execute(
            "ALTER TABLE voucher_lines ADD CONSTRAINT no_poison CHECK (account <> 'C-POISON')"
        )
    written.commit(
        *(written.recharge(f"r-{number}") for number in range(5)),
        written.recharge("guilty", "C-POISON"),
        *(written.recharge(f"s-{number}") for number in range(5)),
    )

    with log_consumer(database_url) as consumer:
        while consumer.step():
            pass
        assert consumer.counts.refused_by_database == 1

    found = statuses(database_url)
    assert found.pop("guilty") == ("parked", "refused_by_database")
    assert set(found.values()) == {("vouchered", None)}
    assert len(found) == 10
    assert identity_of(database_url).holds


def test_the_database_keeps_lines_balanced_and_vouchers_unedited(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        with pytest.raises(psycopg.errors.CheckViolation, match="does not balance in CNY"):
            conn.execute(
                "INSERT INTO voucher_lines VALUES (9, 1, 1, 'debit', 'x', 'CNY', 5, null, false)"
            )
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            conn.execute("UPDATE vouchers SET rule_id = 'other'")
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            conn.execute("DELETE FROM voucher_lines")


def test_a_consumer_ahead_of_the_log_stops(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    consume_log(database_url)

    with connect_to(database_url) as conn:
        conn.execute("UPDATE positions SET position = 1000")

    with log_consumer(database_url) as consumer, pytest.raises(LogCorrupt, match="beyond the head"):
        consumer.step()


def test_a_position_of_another_log_stops_the_consumer(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    consume_log(database_url)
    written.commit(written.recharge("one"))

    with connect_to(database_url) as conn:
        conn.execute("UPDATE positions SET log_id = gen_random_uuid()")

    with log_consumer(database_url) as consumer, pytest.raises(LogCorrupt, match="of log"):
        consumer.step()


def test_a_hole_in_the_log_stops_the_consumer(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"))
    with psycopg.connect(database_url) as conn:
        conn.execute("ALTER TABLE ledger.stored_events DISABLE TRIGGER USER")
        conn.execute("DELETE FROM ledger.stored_events WHERE notification_id = 3")

    with log_consumer(database_url) as consumer, pytest.raises(LogCorrupt, match="1 rows are miss"):
        consumer.step()


def test_a_raised_incarnation_sends_the_consumer_back_to_the_start(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    consume_log(database_url)
    written.commit(written.recharge("one"))

    with log_consumer(database_url) as consumer:
        consumer.conn.execute("UPDATE positions SET incarnation = incarnation + 1")
        with pytest.raises(LanesChanged):
            consumer.step()


def test_an_undecodable_row_stops_the_lane_until_it_is_set_aside(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish()
    broken = written.commit(written.recharge("broken"))
    written.commit(written.recharge("behind"))
    with psycopg.connect(database_url) as conn:
        conn.execute("ALTER TABLE ledger.stored_events DISABLE TRIGGER USER")
        conn.execute(
            "UPDATE ledger.stored_events SET state = '{}' WHERE notification_id = %s", (broken,)
        )

    with log_consumer(database_url) as consumer:
        consumer.step()
        assert stopped(consumer).startswith(f"log/0/{broken}: ")
        written.decide(
            lambda made: made.set_aside("log", 0, broken, b"{}", reason="broken", maker="olga")
        )
        while consumer.step():
            pass

    assert statuses(database_url) == {"behind": ("vouchered", None)}


def stopped(consumer: Consumer) -> str:
    """Why lane 0 stands still."""
    row = consumer.conn.execute("SELECT stopped FROM positions").fetchone()
    assert row is not None
    return row[0] or ""


def test_a_result_reaches_the_ledger_and_never_goes_backwards(database_url: str) -> None:
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.commit(written.recharge("one"), payment(written, "two"))
    consume_log(database_url)

    with connect_to(database_url) as conn:
        query = "SELECT operation_id, status, reason FROM ledger.accounting_statuses ORDER BY 1"
        assert conn.execute(query).fetchall() == [
            ("one", "vouchered", None),
            ("two", "parked", "no_rule"),
        ]
        late = AccountingResult(BOOK, "one", "waiting", None, 1)
        assert apply_results_in_tx(conn, [late]) == 0
        assert conn.execute(query).fetchone() == ("one", "vouchered", None)


def test_the_rule_is_chosen_among_rulesets_published_before_the_operation(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    written.commit(written.recharge("before any rules"))
    first = written.publish(rules_without("fee"))
    written.commit(written.recharge("after the first"))
    second = written.publish(effective_from="2026-02-01")
    written.commit(
        written.recharge("january"),
        written.recharge("february", day="2026-02-01"),
    )

    consume_log(database_url)

    with connect_to(database_url) as conn:
        chosen = conn.execute("SELECT operation_id, status, ruleset_position FROM outcomes")
        assert sorted(chosen.fetchall()) == sorted(
            [
                ("before any rules", "parked", None),
                ("after the first", "vouchered", first),
                ("january", "vouchered", first),
                ("february", "vouchered", second),
            ]
        )


def test_books_in_one_log_have_their_own_rules_outcomes_and_identity(database_url: str) -> None:
    first, second = WrittenLog(database_url), WrittenLog(database_url, "second")
    first.publish(rules_without("payment"))
    second.publish()
    for written in (first, second):
        written.commit(payment(written, "same id"), written.recharge("r-1"))
    second.commit(second.recharge("r-2"))

    consume_log(database_url)

    with connect_to(database_url) as conn:
        rows = conn.execute("SELECT book_id, operation_id, status FROM outcomes ORDER BY position")
        assert rows.fetchall() == [
            (BOOK, "same id", "parked"),
            (BOOK, "r-1", "vouchered"),
            ("second", "same id", "vouchered"),
            ("second", "r-1", "vouchered"),
            ("second", "r-2", "vouchered"),
        ]
        for book_id, count in ((BOOK, 2), ("second", 3)):
            found = select_identity(conn, book_id)
            assert found.holds
            assert [line.booked.count for line in found.currencies] == [count]
