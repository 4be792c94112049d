"""What must hold after every fault: nothing lost, nothing doubled, nothing half there.

The expected balances come from what the callers asked and from which ids the log holds, with no
code of the product between; then the product's own identity and audit must agree.
"""

from __future__ import annotations

import msgspec
import psycopg

from infra import audit
from projections.identity import select_identity
from projections.positions import select_head, select_visible
from projections.tables import connect_to
from tests.e2e.load import Load
from tests.faults.load import REJECTED, SeededLoad
from tests.waiting import wait_until

BOOK = "main"
SELECT_RECORDS = """
    SELECT convert_from(state, 'UTF8')::json ->> 'operation_id', count(*),
           min(split_part(topic, ':', 2)), min(notification_id),
           min(json_array_length(convert_from(state, 'UTF8')::json -> 'legs'))
    FROM ledger.stored_events
    WHERE topic IN ('ledger.recorded:OperationBooked', 'ledger.recorded:OperationRejected')
    GROUP BY 1
"""
SELECT_MOVED = """
    SELECT convert_from(state, 'UTF8')::json ->> 'operation_id', count(*)
    FROM ledger.stored_events
    WHERE topic IN ('ledger.recorded:AccountCredited', 'ledger.recorded:AccountDebited')
    GROUP BY 1
"""
SELECT_BALANCES = "SELECT number, balance FROM ledger.accounts ORDER BY number"
ALL_REPORTED = """
    SELECT (SELECT count(*) FROM projections.outcomes)
         = (SELECT count(*) FROM projections.outcomes o
            JOIN ledger.accounting_statuses s USING (book_id, operation_id)
            WHERE s.status = o.status)
"""
SELECT_OUTCOMES = """
    SELECT o.operation_id, o.status, count(v.source_id)
    FROM outcomes o
    LEFT JOIN vouchers v ON v.book_id = o.book_id AND v.source_id = o.operation_id
    GROUP BY o.book_id, o.operation_id, o.status
"""


class Record(msgspec.Struct, frozen=True):
    """How an operation id stands in the log."""

    times: int
    kind: str
    position: int
    legs: int | None


def assert_nothing_lost(database_url: str, *loads: Load, book: str = BOOK) -> None:
    """Wait until the books have caught up, then hold log, books and answers together."""
    for load in loads:
        assert load.error is None, load.error
        assert load.other == []
    wait_for_books(database_url)
    records = _records(database_url)
    assert {name for name, record in records.items() if record.times != 1} == set()
    booked = {name for name, record in records.items() if record.kind == "OperationBooked"}
    _assert_whole(database_url, records)
    _assert_in_the_books_once(database_url, booked)
    for load in loads:
        assert set(load.acknowledged) - booked == set(), "acknowledged, and not in the log"
        if isinstance(load, SeededLoad):
            _assert_as_answered(load, records)
            _assert_balances(database_url, load, booked)
    _assert_identity_and_audit(database_url, book)


def wait_for_books(database_url: str) -> None:
    """Wait until every operation has an outcome and every outcome was reported back."""
    with connect_to(database_url) as conn:
        wait_until(lambda: select_visible(conn) >= select_head(conn), "the books follow the log")
        wait_until(lambda: conn.execute(ALL_REPORTED).fetchone() == (True,), "every status is back")


def _records(database_url: str) -> dict[str, Record]:
    with psycopg.connect(database_url) as conn:
        return {name: Record(*row) for name, *row in conn.execute(SELECT_RECORDS)}


def _assert_whole(database_url: str, records: dict[str, Record]) -> None:
    """Every leg of a booked operation is an event of its account, and no other event is there."""
    with psycopg.connect(database_url) as conn:
        moved = dict(conn.execute(SELECT_MOVED).fetchall())
    legs = {name: record.legs for name, record in records.items() if record.legs}
    assert moved == legs


def _assert_in_the_books_once(database_url: str, booked: set[str]) -> None:
    with connect_to(database_url) as conn:
        rows = conn.execute(SELECT_OUTCOMES).fetchall()
    assert {name for name, _, _ in rows} == booked
    assert len(rows) == len(booked)
    vouchers = {"vouchered": 1, "parked": 0, "waiting": 0, "non_posting": 0}
    assert [row for row in rows if row[2] != vouchers[row[1]]] == []


def _assert_as_answered(load: SeededLoad, records: dict[str, Record]) -> None:
    """Each answer is the record it was built from; the same question had the same answer."""
    assert load.changed == []
    for name, (status, body) in load.answers.items():
        record = records[name]
        kind = "OperationRejected" if status == REJECTED else "OperationBooked"
        assert record.kind == kind, name
        if status != REJECTED:
            assert msgspec.json.decode(body)["position"] == record.position, name


def _assert_balances(database_url: str, load: SeededLoad, booked: set[str]) -> None:
    """The accounts hold what the booked operations moved, by the callers' own words."""
    expected: dict[str, int] = {}
    for name in booked & load.asked.keys():
        for leg in load.asked[name]["legs"]:  # type: ignore[attr-defined]
            sign = 1 if leg["kind"] == "credit" else -1
            expected[leg["account"]] = expected.get(leg["account"], 0) + sign * leg["amount"]
    with psycopg.connect(database_url) as conn:
        found = dict(conn.execute(SELECT_BALANCES).fetchall())
    assert {number: found.get(number) for number in expected} == expected


def _assert_identity_and_audit(database_url: str, book: str) -> None:
    with connect_to(database_url) as conn:
        identity = select_identity(conn, book)
        assert identity.holds, identity
    with psycopg.connect(database_url, autocommit=True) as conn:
        verdict = audit.verify(conn)
    assert verdict.passed, str(verdict.difference)
