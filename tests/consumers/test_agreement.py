"""What is proved at once is what matching one by one would find, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from consumers.agreement import SEPARATOR, amounts_text, count_agreeing_in_tx
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log
from tests.consumers.test_completeness import broken, swept
from tests.consumers.written_log import BOOK, DAY, WrittenLog, leg

NEXT_DAY = "2026-02-01"
COPIED = (
    "business_type, business_date, status, reason, detail, rule_id, ruleset_position, "
    "attempt_position, depends_on, waits_for, amounts"
)


def a_short_log(database_url: str) -> WrittenLog:
    """A recharge (position 4), a hold (5: nothing moves), two currencies (8), the next day (10)."""
    written = WrittenLog(database_url)
    written.publish()
    written.commit(
        written.recharge("one"),
        written.operation("held", [leg("hold", "C-1", 50, hold_id="h")]),
        written.operation(
            "two currencies",
            [leg("credit", "C-1", 7), leg("credit", "C-2", 9, currency="USD")],
            business_type="opening_balance",
        ),
        written.recharge("next", day=NEXT_DAY),
    )
    consume_log(database_url)
    return written


def agreeing(database_url: str, **chosen: Any) -> int | None:
    """Count what agrees in the whole log."""
    span = {"after": 0, "until": 99, "day": None, "date": None, "book": None, **chosen}
    with connect_to(database_url) as conn, conn.transaction():
        return count_agreeing_in_tx(conn, span, None)


def test_a_whole_log_agrees_whatever_its_operations_move(database_url: str) -> None:
    a_short_log(database_url)

    assert agreeing(database_url) == 4
    assert swept(database_url).operations == 4


def test_a_day_or_a_book_agrees_by_itself(database_url: str) -> None:
    a_short_log(database_url)
    day = f'"business_date":"{NEXT_DAY}"'.encode()

    assert agreeing(database_url, day=day, date=NEXT_DAY) == 1
    assert agreeing(database_url, day=day, date=DAY) is None
    with connect_to(database_url) as conn, conn.transaction():
        span = {"after": 0, "until": 99, "day": None, "date": None, "book": "other"}
        assert count_agreeing_in_tx(conn, span, lambda book_id, _: book_id == "other") == 0
        assert count_agreeing_in_tx(conn, span, lambda book_id, _: book_id == BOOK) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE outcomes SET amounts = '{\"CNY\": 10001}' WHERE position = 4",
        "UPDATE outcomes SET amounts = '{\"EUR\": 10000}' WHERE position = 4",
        "UPDATE outcomes SET amounts = '{\"\": 1}' WHERE position = 5",
        "UPDATE outcomes SET amounts = amounts || '{\"EUR\": 1}' WHERE position = 8",
        "UPDATE outcomes SET operation_id = 'onE' WHERE position = 4",
        "UPDATE outcomes SET book_id = 'other' WHERE position = 4",
        f"UPDATE outcomes SET business_date = '{NEXT_DAY}' WHERE position = 4",
        "UPDATE outcomes SET position = 3 WHERE position = 4",
        "DELETE FROM outcomes WHERE position = 10",
        (
            f"INSERT INTO outcomes (book_id, operation_id, position, {COPIED}) "
            f"SELECT book_id, 'ghost', 9, {COPIED} FROM outcomes WHERE position = 10"
        ),
        # One row that reads as two: its id holds the end of a record and another's beginning.
        (
            f"UPDATE outcomes SET operation_id = concat_ws(chr(31), 'one', '{DAY}', "
            "'{\"CNY\": 10000}', '5', 'main', 'held') , amounts = '{\"\": 0}' WHERE position = 4; "
            "DELETE FROM outcomes WHERE position = 5"
        ),
    ],
)
def test_whatever_differs_does_not_agree_and_is_named(database_url: str, statement: str) -> None:
    a_short_log(database_url)
    broken(database_url, *statement.split("; "))

    assert agreeing(database_url) is None
    assert not swept(database_url).is_complete


def test_two_rows_that_share_a_separator_are_not_taken_for_equal(database_url: str) -> None:
    """Book `a` with `b␟c` and book `a␟b` with `c` are one text, and two operations."""
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge(f"b{SEPARATOR}c"))
    consume_log(database_url)
    broken(
        database_url,
        "UPDATE outcomes SET book_id = concat_ws(chr(31), book_id, 'b'), operation_id = 'c'",
    )

    assert agreeing(database_url) is None
    assert not swept(database_url).is_complete


@pytest.mark.parametrize(
    "movement",
    [
        {"CNY": 10_000},
        {"": 0},
        {"USD": 1, "CNY": 2},
        {"B": 1, "USD": 2**62, "AA": 3, "é": 4, "ZZZZ": 5, "AAA": 6},
    ],
)
def test_amounts_are_written_as_postgresql_writes_them(
    database_url: str, movement: dict[str, int]
) -> None:
    with psycopg.connect(database_url) as conn:
        row = conn.execute("SELECT %s::jsonb::text", (json.dumps(movement),)).fetchone()

    assert row == (amounts_text(movement),)
