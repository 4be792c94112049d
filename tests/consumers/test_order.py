"""Whatever order lanes arrive in, the books are those of the log: a seeded random history."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import psycopg
import pytest

from accounting import periods
from accounting.decided import DayCut
from accounting.decisions import DecisionRefused, GivenLine
from consumers.bus import Poll, Stuck
from consumers.consumer import Consumer
from consumers.log_rows import select_published
from consumers.messages import LogRow, decode_key, is_decision, partition_of
from consumers.rebuild import rebuild
from ledger.books import open_book, open_day
from ledger.events import OperationBooked
from ledger.statuses import apply_results_in_tx
from projections.positions import select_head
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log
from tests.consumers.test_outcomes import identity_of, payment, rules_without
from tests.consumers.written_log import BOOK, CUSTOMER, DAY, MERCHANT, WrittenLog, leg


class ShuffledBus:
    """Lanes that advance in any order, in stretches of any length, and repeat themselves."""

    def __init__(self, rows: Sequence[LogRow], head: int, lanes: int, chance: random.Random):
        self.lanes = lanes
        self._rows = [
            [row for row in rows if is_decision(row.topic) or self._lane(row) == lane]
            for lane in range(lanes)
        ]
        self._reached = [0] * lanes
        self._head = head
        self._chance = chance

    def poll(self, timeout_s: float) -> Sequence[Poll | Stuck]:  # noqa: ARG002
        behind = [lane for lane in range(self.lanes) if self._reached[lane] < self._head]
        if not behind:
            return ()
        lane = self._chance.choice(behind)
        after = self._reached[lane]
        through = min(self._head, after + self._chance.randint(1, 12))
        first = max(0, after - self._chance.choice((0, 0, 5)))  # some of it for a second time
        rows = tuple(row for row in self._rows[lane] if first < row.position <= through)
        return (Poll(lane, first, through, rows, first, through),)

    def acknowledge(self, poll: Poll) -> None:
        self._reached[poll.lane] = poll.through

    def hold(self, stuck: Stuck) -> None:
        raise AssertionError(stuck)

    def skip(self, stuck: Stuck) -> None:
        raise AssertionError(stuck)

    def rewind(self) -> None:
        """Nothing: what was not acknowledged is given again anyway."""

    def close(self) -> None:
        """Nothing is open."""

    def _lane(self, row: LogRow) -> int:
        return partition_of(decode_key(row.state).text, self.lanes)


def refund(
    written: WrittenLog,
    operation_id: str,
    originals: Sequence[str],
    chance: random.Random,
    day: str,
) -> OperationBooked:
    """A refund, of one or several at once, that travels in the partition of a random merchant."""
    merchant = f"M-{chance.randint(1, 9)}"
    return written.operation(
        operation_id,
        [leg("debit", merchant, 100, MERCHANT), leg("credit", "C-1", 100, CUSTOMER)],
        business_type="refund",
        original=originals[0],
        also=originals[1:],
        day=day,
    )


def override(written: WrittenLog, operation: OperationBooked, chance: random.Random) -> None:
    """Two people give an operation's lines, most often so that they can stand."""
    lines = [
        GivenLine(
            "credit" if each.kind == "credit" else "debit",
            each.subject,
            each.currency,
            each.amount_minor,
            each.account,
        )
        for each in operation.legs
    ]
    credits_minor = sum(line.amount_minor for line in lines if line.side == "credit")
    over_minor = 2 * credits_minor - sum(line.amount_minor for line in lines)
    if over_minor and chance.random() < 0.9:
        side = "debit" if over_minor > 0 else "credit"
        lines.append(GivenLine(side, "1002.01", "CNY", abs(over_minor)))
    override_id = written.decide(
        lambda made: made.propose_override(
            written.book_id,
            operation.operation_id,
            tuple(lines),
            accounting_date=operation.business_date,
            maker="alice",
        )
    )
    written.decide(lambda made: made.approve_override(override_id, checker="bob"))


def open_first_day(written: WrittenLog, date: dt.date) -> None:
    """Open the book and a register of rules."""
    with psycopg.connect(written.database_url, autocommit=True) as conn:
        open_book(conn, written.book_id, "Main", date, principal="alice")


def turn_a_page(written: WrittenLog, today: dt.date, chance: random.Random) -> dt.date:
    """Open the next day, cut the one before, close what is over, or reopen it."""
    yesterday = today - dt.timedelta(days=1)
    match chance.choice(("open", "cut", "close", "reopen")):
        case "open":
            today += dt.timedelta(days=1)
            with psycopg.connect(written.database_url, autocommit=True) as conn:
                open_day(conn, written.book_id, today, principal="alice")
        case "cut":
            cut = DayCut(written.book_id, str(yesterday), str(today), (), 0, (), "alice")
            written.decide(lambda made: periods.cut_day(made, cut, lambda _cursor: None))
        case kind:
            with suppress(DecisionRefused):  # it is closed, or open, already
                change = written.decide(
                    lambda made: periods.propose_change(
                        made, written.book_id, kind, str(yesterday), maker="alice"
                    )
                )
                written.decide(
                    lambda made: periods.approve_change(
                        made, written.book_id, change, checker="bob"
                    )
                )
    return today


def changed(written: WrittenLog, kind: str, date: str) -> None:
    """Close or reopen by two people."""
    book = written.book_id
    change = written.decide(
        lambda made: periods.propose_change(made, book, kind, date, maker="alice")
    )
    written.decide(lambda made: periods.approve_change(made, book, change, checker="bob"))


def a_random_history(
    written: WrittenLog, chance: random.Random, *, pages: float = 0.2, overrides: float = 0.0
) -> list[str]:
    """Rulesets with holes, operations that follow some earlier ones, repairs of any of them.

    Days are opened and cut, the past is closed and reopened, meanwhile (`pages`: how often), and
    any of them overridden (`overrides`: how often).
    Return the ids of the operations.
    """
    rules = [(), ("payment",), ("payment", "refund"), ("recharge",), ("refund",)]
    ids: list[str] = []
    booked: list[OperationBooked] = []

    def book(operation: OperationBooked) -> None:
        written.commit(operation)
        ids.append(operation.operation_id)
        booked.append(operation)

    today = dt.date.fromisoformat(DAY)
    open_first_day(written, today)
    for number in range(45):
        if chance.random() < pages:
            today = turn_a_page(written, today, chance)
        if booked and overrides and chance.random() < overrides:
            override(written, chance.choice(booked[-12:]), chance)
        match chance.randint(0, 9):
            case 0:
                written.publish(rules_without(*chance.choice(rules)))
            case 1 | 2 if ids:
                named = chance.sample(ids, min(len(ids), chance.randint(1, 12)))
                written.decide(
                    lambda made, named=named: made.request_repair(BOOK, named, maker="alice")
                )
            case 3 | 4 | 5 if ids:
                originals = chance.sample(ids, min(len(ids), chance.choice((1, 1, 2, 3))))
                book(refund(written, f"f-{number}", originals, chance, str(today)))
            case 6:
                book(payment(written, f"p-{number}", str(today)))
            case _:
                account = f"C-{chance.randint(1, 9)}"
                day = str(today)
                book(written.recharge(f"r-{number}", account, fee_minor=1, day=day))
    written.publish()
    written.decide(lambda made: made.request_repair(BOOK, ids[::3] or ["none"], maker="alice"))
    return ids


@pytest.mark.parametrize("seed", range(10))
def test_lanes_in_any_order_make_the_same_books_as_the_log_in_one(
    database_url: str, seed: int
) -> None:
    chance = random.Random(seed)
    a_random_history(WrittenLog(database_url), chance)
    consume_log(database_url, operations_max=chance.randint(1, 30))
    expected = books(database_url)
    with ExitStack() as stack, connect_to(database_url) as conn:
        conn.execute("DROP SCHEMA projections CASCADE")
        conn.execute("SELECT ledger.create_projection_tables('projections')")
        head = select_head(conn)
        lanes = chance.randint(2, 5)
        bus = ShuffledBus(select_published(conn, 0, head), head, lanes, chance)
        consumers = [
            Consumer(each, bus, deliver_in_tx=apply_results_in_tx)
            for each in (conn, stack.enter_context(connect_to(database_url)))
        ]

        # lanes move between two processes that do not know of each other
        while chance.choice(consumers).step():
            assert identity_of(database_url).holds
        chance.choice(consumers).perform_due()

    found = books(database_url)
    for table, rows in expected.items():
        assert found[table] == rows, table
    assert rebuild(database_url).difference is None
