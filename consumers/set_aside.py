"""Setting aside: a message that nobody can read is passed over by a recorded decision.

The lane that stands before the message cannot meet the decision on the bus, so it is looked
up in the log by the message's place. Invariant: nothing is passed over without a decision
that keeps the raw bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from accounting.decisions import (
    LOG_TOPIC,
    AccountingDecisions,
    DecisionRefused,
    SetAside,
    kept_of,
)
from consumers.messages import (
    Booked,
    Decided,
    LogRow,
    Message,
    Unreadable,
    log_row,
    read_message,
    read_row,
)
from ledger.errors import NotFound
from projections.positions import LogName, select_lanes, select_log

SELECT_DECISION = "SELECT 1 FROM ledger.stored_events WHERE originator_id = %s LIMIT 1"
SELECT_STATE = "SELECT topic, state FROM ledger.stored_events WHERE notification_id = %s"
READ_TIMEOUT_MS = 15_000
PLACE = re.compile(r"(?P<topic>[\w.-]+)/(?P<partition>\d+)/(?P<at_offset>\d+): ")


class Place(NamedTuple):
    """Where a message is; on topic `log` the offset is the position."""

    topic: str
    partition: int
    at_offset: int


class Standing(NamedTuple):
    """A lane that stands, why, and before which message (None: for another reason)."""

    lane: int
    place: Place | None
    stopped: str


def is_set_aside(conn: Connection[Any], unreadable: Unreadable) -> bool:
    """Tell whether somebody decided to pass over this message, at this place."""
    place = (unreadable.topic, unreadable.partition, unreadable.at_offset)
    decision_id = SetAside.create_id(*place, kept_of(unreadable.raw))
    return conn.execute(SELECT_DECISION, (decision_id,)).fetchone() is not None


def words_of(error: Unreadable) -> str:
    """Say where a lane stands and how to pass the message, for whoever is called."""
    place = f"--topic {error.topic} --partition {error.partition} --offset {error.at_offset}"
    return f"{error}; once it is looked at, pass it: daybook set-aside {place} --reason WHY"


def read_rows(conn: Connection[Any], rows: Sequence[LogRow]) -> list[Booked | Decided]:
    """Decode rows, without those set aside; raises Unreadable for the first other one."""
    messages: list[Booked | Decided] = []
    for row in rows:
        try:
            messages.append(read_row(row))
        except Unreadable as error:
            if not is_set_aside(conn, error):
                raise
    return messages


def set_message_aside(
    decisions: AccountingDecisions,
    raw: bytes,
    *,
    place: Place,
    reason: str,
    maker: str,
) -> int | None:
    """Record the decision; None when the message was set aside before."""
    topic, partition, at_offset = place
    return decisions.set_aside(topic, partition, at_offset, raw, reason=reason, maker=maker)


def select_standing(conn: Connection[Any]) -> list[Standing]:
    """List the lanes that were stopped, with the messages that they stand before."""
    return [
        Standing(lane.lane, place_of(lane.stopped), lane.stopped)
        for lane in select_lanes(conn)
        if lane.stopped is not None
    ]


def moves_on(conn: Connection[Any], place: Place, wait_s: float) -> bool:
    """Tell whether no lane stands before the message, after so much patience."""
    deadline = time.monotonic() + wait_s
    while any(each.place == place for each in select_standing(conn)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def place_of(stopped: str) -> Place | None:
    """Read the place out of why a lane stands; None when it is no message's fault."""
    found = PLACE.match(stopped)
    if found is None:
        return None
    return Place(found["topic"], int(found["partition"]), int(found["at_offset"]))


def read_unreadable(conn: Connection[Any], place: Place, *, bootstrap: str) -> bytes:
    """Read the raw bytes at a place, from the log or the broker.

    Raises NotFound, and DecisionRefused (`readable`) for a message that the consumers can read:
    what they can read is never passed over.
    """
    topic, partition, at_offset = place
    try:
        if topic == LOG_TOPIC:
            row_topic, raw = read_raw_row(conn, at_offset)
            read_row(log_row(at_offset, row_topic, raw))
        else:
            raw = read_raw_message(bootstrap, topic, partition, at_offset)
            read_own_message(raw, place, select_log(conn))
    except Unreadable as error:
        return error.raw
    raise DecisionRefused("readable", f"{topic}/{partition}/{at_offset} can be read")


def read_own_message(raw: bytes, place: Place, log: LogName) -> Message:
    """Decode a message of this log; raises Unreadable, with its place, for anything else."""
    topic, partition, at_offset = place
    message = read_message(raw, topic=topic, partition=partition, at_offset=at_offset)
    if (message.log_id, message.incarnation) != (str(log.log_id), log.incarnation):
        detail = f"of another log: {message.log_id}/{message.incarnation}"
        raise Unreadable(detail, topic=topic, partition=partition, at_offset=at_offset, raw=raw)
    return message


def read_raw_row(conn: Connection[Any], position: int) -> tuple[str, bytes]:
    """Read topic and bytes of a row of the log; raises NotFound."""
    row = conn.execute(SELECT_STATE, (position,)).fetchone()
    if row is None:
        raise NotFound(f"no row at position {position}")
    return row[0], bytes(row[1])


def read_raw_message(bootstrap: str, topic: str, partition: int, at_offset: int) -> bytes:
    """Read the bytes of one message of a topic; raises NotFound."""
    from kafka import KafkaConsumer, TopicPartition  # for this alone: a rebuild starts without

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
