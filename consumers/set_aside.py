"""Setting aside: a message that nobody can read is passed over by a recorded decision.

The lane that stands before the message cannot meet the decision on the bus, so it is looked
up in the log by the message's place. Invariant: nothing is passed over without a decision
that keeps the raw bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from psycopg import Connection

from accounting.decisions import AccountingDecisions, SetAside
from consumers.messages import Booked, Decided, LogRow, Unreadable, read_row
from ledger.errors import NotFound

SELECT_DECISION = "SELECT 1 FROM ledger.stored_events WHERE originator_id = %s LIMIT 1"
SELECT_STATE = "SELECT state FROM ledger.stored_events WHERE notification_id = %s"
LOG_TOPIC = "log"
READ_TIMEOUT_MS = 15_000


def is_set_aside(conn: Connection[Any], topic: str, partition: int, at_offset: int) -> bool:
    """Tell whether somebody decided to pass over the message at this place."""
    decision_id = SetAside.create_id(topic, partition, at_offset)
    return conn.execute(SELECT_DECISION, (decision_id,)).fetchone() is not None


def read_rows(conn: Connection[Any], rows: Sequence[LogRow]) -> list[Booked | Decided]:
    """Decode rows, without those set aside; raises Unreadable for the first other one."""
    messages: list[Booked | Decided] = []
    for row in rows:
        try:
            messages.append(read_row(row))
        except Unreadable:
            if not is_set_aside(conn, LOG_TOPIC, 0, row.position):
                raise
    return messages


def set_message_aside(
    decisions: AccountingDecisions,
    raw: bytes,
    *,
    place: tuple[str, int, int],
    reason: str,
    maker: str,
) -> int | None:
    """Record the decision; None when the message was set aside before."""
    topic, partition, at_offset = place
    return decisions.set_aside(topic, partition, at_offset, raw, reason=reason, maker=maker)


def read_raw_row(conn: Connection[Any], position: int) -> bytes:
    """Read the bytes of a row of the log; raises NotFound."""
    row = conn.execute(SELECT_STATE, (position,)).fetchone()
    if row is None:
        raise NotFound(f"no row at position {position}")
    return bytes(row[0])


def read_raw_message(bootstrap: str, topic: str, partition: int, at_offset: int) -> bytes:
    """Read the bytes of one message of a topic; raises NotFound."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","), enable_auto_commit=False)
    try:
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, at_offset)
        for records in consumer.poll(timeout_ms=READ_TIMEOUT_MS, max_records=1).values():
            for record in records:
                if record.offset == at_offset:
                    return bytes(record.value or b"")
    finally:
        consumer.close(autocommit=False)
    raise NotFound(f"no message at {topic}/{partition}/{at_offset}")
