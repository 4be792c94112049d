"""Two buses, one contract: polls of rows per lane, acknowledged after the commit.

`LogBus` reads the log itself (lane 0); `KafkaBus` reads the operations topic, a lane per
partition. Invariant: a poll covers the stretch after < position ≤ through of its lane
whole; what is not acknowledged is given again. Offsets fence, they never decide: the lane's
position row does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import CommitFailedError, IllegalStateError, RebalanceInProgressError
from psycopg import Connection

from consumers.group import (
    HOLD_S,
    SILENCE_S,
    Flow,
    HeldPartitions,
    Membership,
    group_consumer,
    seek,
)
from consumers.log_rows import Stretch, select_stretch
from consumers.messages import LogRow, Message, Unreadable
from consumers.set_aside import Place, read_own_message
from ledger.log import LOG_CHANNEL
from projections.positions import LogName, select_lanes

COMMIT_TIMEOUT_MS = 5_000
LOG_ROWS_PER_OPERATION = 4  # a transfer: two account events, one operation, now and then more


class Poll(msgspec.Struct, frozen=True):
    """A lane's next stretch. `first` and `last` are offsets on Kafka, positions on the log."""

    lane: int
    after: int
    through: int
    rows: tuple[LogRow, ...]
    first: int
    last: int


class Stuck(msgspec.Struct, frozen=True):
    """A message of a lane that nobody can read; the lane stands before it."""

    lane: int
    error: Unreadable


class Bus(Protocol):
    """What the consumer needs of a bus."""

    lanes: int

    def poll(self, timeout_s: float) -> Sequence[Poll | Stuck]:
        """Give the next stretches; waits at most `timeout_s` for the first."""

    def following(self, poll: Poll) -> Poll | None:
        """Give what comes next after a poll that is not acknowledged yet, if it is at hand."""

    def acknowledge(self, poll: Poll) -> None:
        """Say that a poll's effects are committed."""

    def hold(self, stuck: Stuck) -> None:
        """Stand before a message; it is given again after a while."""

    def skip(self, stuck: Stuck) -> None:
        """Pass over a message that was set aside."""

    def rewind(self) -> None:
        """Give again everything that was not acknowledged."""

    def close(self) -> None:
        """Let go of connections."""


class LogBus:
    """Reads the log directly; one lane. Woken by the log's notifications."""

    lanes = 1

    def __init__(self, conn: Connection[Any], *, operations_max: int = 2000) -> None:
        self._conn = conn
        self._rows_max = operations_max * LOG_ROWS_PER_OPERATION
        self._after: int | None = None
        conn.execute(f"LISTEN {LOG_CHANNEL}")

    def poll(self, timeout_s: float) -> Sequence[Poll | Stuck]:
        """Read the next rows after the last acknowledged position."""
        if self._after is None:
            self._after = next((row.position for row in select_lanes(self._conn)), 0)
        stretch = select_stretch(self._conn, self._after, rows_max=self._rows_max)
        if stretch.through == stretch.after:
            for _ in self._conn.notifies(timeout=timeout_s, stop_after=1):
                break
            stretch = select_stretch(self._conn, self._after, rows_max=self._rows_max)
        found = _poll_of(stretch)
        return () if found is None else (found,)

    def following(self, poll: Poll) -> Poll | None:
        """Read on behind it."""
        return _poll_of(select_stretch(self._conn, poll.through, rows_max=self._rows_max))

    def acknowledge(self, poll: Poll) -> None:
        """Continue after the poll."""
        self._after = poll.through

    def hold(self, stuck: Stuck) -> None:  # noqa: ARG002 - one lane: it is always the same
        """Wait before the position is read again."""
        self._after = None
        time.sleep(HOLD_S)

    def skip(self, stuck: Stuck) -> None:
        """Nothing: a row of the log is passed over where it is decoded."""

    def rewind(self) -> None:
        """Read the position again."""
        self._after = None

    def close(self) -> None:
        """Close the reading connection."""
        self._conn.close()


class KafkaBus:
    """Reads the operations topic as a member of a group; a lane is a partition."""

    def __init__(
        self,
        bootstrap: str,
        *,
        topic: str,
        group: str,
        log: LogName,
        operations_max: int = 2000,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._topic = topic
        self._log = log
        self._operations_max = operations_max
        self._pending: dict[int, int] = {}  # lane → first offset given and not acknowledged
        self._consumer = group_consumer(
            bootstrap,
            topic,
            group,
            silence_s,
            max_poll_records=64,
            fetch_max_bytes=16 * 1024 * 1024,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        self.lanes = len(self._consumer.partitions_for_topic(topic))
        self._membership = Membership(self._consumer, silence_s)
        self._held = HeldPartitions(self._consumer)
        self._flow = Flow(self._consumer, silence_s)

    def poll(self, timeout_s: float) -> Sequence[Poll | Stuck]:
        """Give what arrived, merged per partition up to `operations_max` rows."""
        self._held.release()
        self._membership.prove()
        self._flow.prove(self._held)
        found: list[Poll | Stuck] = []
        records = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
        self._flow.note(records)
        for place, messages in records.items():
            given = self._merged(place.partition, messages)
            for each in given:
                if isinstance(each, Poll):
                    self._pending.setdefault(each.lane, each.first)
            found += given
        return found

    def following(self, poll: Poll) -> Poll | None:  # noqa: ARG002 - it is in the next poll
        """Nothing: what the broker gives is given once."""
        return None

    def acknowledge(self, poll: Poll) -> None:
        """Commit the offset after the poll; a partition that has moved is its new owner's."""
        place = TopicPartition(self._topic, poll.lane)
        self._pending[poll.lane] = poll.last + 1
        try:
            offset = OffsetAndMetadata(poll.last + 1, "", -1)
            self._consumer.commit({place: offset}, timeout_ms=COMMIT_TIMEOUT_MS)
        except (CommitFailedError, RebalanceInProgressError, IllegalStateError):
            self._pending.pop(poll.lane, None)

    def hold(self, stuck: Stuck) -> None:
        """Pause the partition before the message (of a row in it: before its poll)."""
        place = TopicPartition(self._topic, stuck.lane)
        offset = self._pending.get(stuck.lane)
        if stuck.error.topic == self._topic:
            offset = stuck.error.at_offset
        if offset is not None:
            self._held.hold(place, offset)

    def skip(self, stuck: Stuck) -> None:
        """Continue after the message."""
        place = TopicPartition(self._topic, stuck.lane)
        seek(self._consumer, place, stuck.error.at_offset + 1)

    def rewind(self) -> None:
        """Seek each partition back to the first offset that was not acknowledged."""
        for lane, offset in self._pending.items():
            seek(self._consumer, TopicPartition(self._topic, lane), offset)
        self._pending.clear()

    def close(self) -> None:
        """Leave the group without committing anything."""
        self._consumer.close(autocommit=False)

    def _merged(self, lane: int, records: Sequence[Any]) -> list[Poll | Stuck]:
        found: list[Poll | Stuck] = []
        current: Poll | None = None
        for record in records:
            try:
                message = self._message(lane, record)
            except Unreadable as error:
                if current is not None:
                    found.append(current)
                return [*found, Stuck(lane, error)]
            if current is not None and self._fits(current, message):
                current = _joined(current, message, record.offset)
                continue
            if current is not None:
                found.append(current)
            ends = (message.after, message.through)
            current = Poll(lane, *ends, message.rows, record.offset, record.offset)
        return found if current is None else [*found, current]

    def _message(self, lane: int, record: Any) -> Message:
        place = Place(self._topic, lane, record.offset)
        return read_own_message(record.value or b"", place, self._log)

    def _fits(self, poll: Poll, message: Message) -> bool:
        rows = len(poll.rows) + len(message.rows)
        return message.after <= poll.through and rows <= self._operations_max


def _poll_of(stretch: Stretch) -> Poll | None:
    if stretch.through == stretch.after:
        return None
    ends = (stretch.after, stretch.through)
    return Poll(0, *ends, tuple(stretch.rows), *ends)


def _joined(poll: Poll, message: Message, offset: int) -> Poll:
    """Join a message to a poll; what the poll has already (a repeated message) is dropped."""
    rows = message.rows
    if message.after < poll.through:
        rows = tuple(row for row in rows if row.position > poll.through)
    through = max(poll.through, message.through)
    return Poll(poll.lane, poll.after, through, poll.rows + rows, poll.first, offset)
