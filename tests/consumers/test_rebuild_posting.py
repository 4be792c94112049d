"""Posting and consuming go on, with their own threads, while the books are rebuilt and swapped."""

from __future__ import annotations

import threading

import psycopg

from consumers.loop import ConsumerSettings, run_consumer
from consumers.rebuild import drop_old_schemas, rebuild, select_old_schemas
from infra.audit import verify
from infra.decision_log import decision_log
from infra.first_start import publish_first_rules
from ledger.operation import Answer
from projections.positions import select_head, select_lanes, select_visible
from projections.tables import connect_to
from tests.consumers.caught_up import statuses
from tests.consumers.test_outcomes import identity_of
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger
from tests.waiting import wait_until

OPERATIONS_PER_JOB = 20


class Posting(threading.Thread):
    """Posts payments and their refunds until it is stopped; keeps what was acknowledged."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self.ledger = ledger
        self.acknowledged: list[str] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopped.is_set():
            number += 1
            paid = [
                b.post(
                    "payment",
                    b.debit("C-1", 10),
                    b.credit("M-1", 10),
                    operation_id=f"p-{number}-{each}",
                )
                for each in range(OPERATIONS_PER_JOB)
            ]
            back = b.post(
                "refund",
                b.debit("M-1", 5),
                b.credit("C-1", 5),
                operation_id=f"f-{number}",
                original_operation_id=f"p-{number}-0",
            )
            for job in (paid, [back]):
                for result in self.ledger.post(*job):
                    assert isinstance(result, Answer), result
                    assert result.status == "booked", result
                    self.acknowledged.append(result.operation_id)

    def more(self) -> None:
        """Wait until some more was posted."""
        goal = len(self.acknowledged) + 50
        wait_until(lambda: len(self.acknowledged) > goal or not self.is_alive(), "posting goes on")
        assert self.is_alive()


def test_nothing_is_lost_or_doubled_when_books_are_swapped_under_load(database_url: str) -> None:
    stop = threading.Event()
    settings = ConsumerSettings(database_url=database_url)
    consuming = threading.Thread(target=run_consumer, args=(settings, stop), daemon=True)
    with running_ledger(database_url) as ledger:
        publish_first_rules(database_url, b.BOOK, maker="alice")
        ledger.open("C-1")
        ledger.open("M-1", type="merchant", subject="2002.01")
        ledger.answer(b.post("opening_balance", b.credit("C-1", 10**9)))
        posting = Posting(ledger)
        posting.start()
        consuming.start()
        with connect_to(database_url) as conn:
            wait_until(lambda: select_lanes(conn), "the consumer has begun")

        def post_more(_step: str) -> None:
            posting.more()

        for processes, only in ((2, ()), (0, ("vouchers", "voucher_lines")), (1, ())):
            report = rebuild(
                database_url,
                processes=processes,
                only=only,
                rows_per_stretch=100,
                failpoint=lambda step: post_more(step) if step in ("filled", "compared") else None,
            )
            assert report.difference is None
            assert report.swapped
            with decision_log(database_url) as decisions:
                decisions.request_repair(b.BOOK, [posting.acknowledged[-1]], maker="alice")
        posting.more()
        posting.stopped.set()
        posting.join()

    with connect_to(database_url) as conn:
        head = select_head(conn)
        wait_until(lambda: select_visible(conn) == head, "the books have caught up")
        stop.set()
        consuming.join()
        assert len(select_old_schemas(conn)) == 3
        drop_old_schemas(conn)
    found = statuses(database_url)
    assert {found[each] for each in posting.acknowledged} == {("vouchered", None)}
    assert len(set(posting.acknowledged)) == len(posting.acknowledged) == len(found) - 1
    assert identity_of(database_url).holds
    assert rebuild(database_url).difference is None
    with psycopg.connect(database_url, autocommit=True) as conn:
        assert verify(conn).passed
