"""Books that lost operations: a bus that keeps some rows to itself and moves on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import structs

from accounting.decisions import GivenLine
from consumers.bus import LogBus, Poll, Stuck
from consumers.consumer import Consumer
from consumers.messages import Booked, LogRow, read_row
from ledger.statuses import apply_results_in_tx
from projections.tables import LIVE_SCHEMA, connect_to, use_schema
from tests.consumers.test_outcomes import payment, refund_of, rules_without
from tests.consumers.written_log import BOOK, DAY, WrittenLog, leg


class LossyBus(LogBus):
    """Gives polls without the rows of some operations, as a defect might."""

    lost: Collection[str] = ()

    def poll(self, timeout_s: float) -> Sequence[Poll | Stuck]:
        given = super().poll(timeout_s)
        return [
            structs.replace(each, rows=tuple(r for r in each.rows if not self._loses(r)))
            if isinstance(each, Poll)
            else each
            for each in given
        ]

    def _loses(self, row: LogRow) -> bool:
        message = read_row(row)
        if isinstance(message, Booked):
            return message.operation.operation_id in self.lost
        return type(message.decision).__name__ in self.lost


def consume_losing(database_url: str, lost: Collection[str]) -> None:
    """Make the books anew from the whole log, without these operations (or decisions)."""
    with connect_to(database_url) as conn:
        conn.execute(f"DROP SCHEMA {LIVE_SCHEMA} CASCADE".encode())
        conn.execute("SELECT ledger.create_projection_tables(%s)", (LIVE_SCHEMA,))
        use_schema(conn, LIVE_SCHEMA)
        conn.execute("DELETE FROM ledger.accounting_statuses")
        bus = LossyBus(connect_to(database_url))
        bus.lost = lost
        try:
            consumer = Consumer(conn, bus, deliver_in_tx=apply_results_in_tx)
            while consumer.step():
                pass
            consumer.perform_due()
        finally:
            bus.close()


def tell_repairs(written: WrittenLog) -> list[str]:
    """Write a day in which parked, waiting and overridden operations are repaired in turns.

    Return the ids of its operations.
    """
    written.publish(rules_without("payment", "interest"))
    written.commit(
        written.recharge("r-1"),
        payment(written, "p-1"),
        refund_of(written, "f-1", "p-1"),
        refund_of(written, "f-2", "p-1"),
        refund_of(written, "f-3", "f-2"),
        written.operation("i-1", [leg("credit", "C-2", 7)], business_type="interest"),
        payment(written, "p-3"),
        written.recharge("w-1", "C-3", 7, original="p-3"),
        written.recharge("w-2", "C-3", 8, original="p-3"),
    )
    written.decide(lambda made: made.request_repair(BOOK, ["p-1", "f-1", "i-1"], maker="alice"))
    _override(written, "w-1", 7)
    _override(written, "w-2", 7)  # refused: it moves 8
    written.publish()
    written.commit(
        written.recharge("r-2", fee_minor=60),
        payment(written, "p-2"),
        refund_of(written, "f-4", "p-2"),
        refund_of(written, "f-5", "f-4"),
    )
    repaired = ["p-1", "f-2", "f-3", "p-3"]
    written.decide(lambda made: made.request_repair(BOOK, repaired, maker="alice"))
    _override(written, "i-1", 7, "C-2")
    written.decide(lambda made: made.request_repair(BOOK, ["f-1", "i-1", "w-2"], maker="alice"))
    written.commit(written.recharge("r-3"))
    early = ["r-1", "p-1", "f-1", "f-2", "f-3", "i-1", "p-3", "w-1", "w-2"]
    return [*early, "r-2", "p-2", "f-4", "f-5", "r-3"]


def _override(
    written: WrittenLog, operation_id: str, amount_minor: int, account: str = "C-3"
) -> None:
    lines = (
        GivenLine("debit", "1002.01", "CNY", amount_minor),
        GivenLine("credit", "2001.01", "CNY", amount_minor, account),
    )
    override_id = written.decide(
        lambda made: made.propose_override(
            BOOK, operation_id, lines, accounting_date=DAY, maker="alice"
        )
    )
    written.decide(lambda made: made.approve_override(override_id, checker="bob"))
