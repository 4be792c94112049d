"""Where a rebuild's rows come from: the log itself, or the topic alone.

Invariant: a source gives every published row with after < position ≤ through, in order, or
refuses; it never leaves one out.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from psycopg import Connection

from consumers.log_rows import select_published
from consumers.messages import LogRow, Message, Unreadable, read_message
from consumers.set_aside import is_set_aside
from ledger.errors import LedgerError
from projections.positions import LogName, select_log

SILENCE_S = 20.0
BOOTSTRAP_MS = 10_000
FROM_THE_LOG = "rebuild from the log instead (without --from-kafka)"


class RebuildRefused(LedgerError):
    """Another rebuild runs, or what it is to be made from is not all there."""

    code = "rebuild_refused"


class Rows(Protocol):
    """What a rebuild needs of a source."""

    is_log: bool

    def published(self, after: int, through: int) -> list[LogRow]:
        """Give the published rows with after < position ≤ through, in order."""

    def forget(self, through: int) -> None:
        """Say that rows up to a position will not be asked for again."""


class LogRows:
    """The log itself."""

    is_log = True

    def __init__(self, conn: Connection[Any]) -> None:
        self._conn = conn

    def published(self, after: int, through: int) -> list[LogRow]:
        """Read them; raises LogCorrupt for a hole."""
        return select_published(self._conn, after, through)

    def forget(self, through: int) -> None:
        """Nothing: the log keeps everything."""


class TopicRows:
    """The operations topic from its beginning, its partitions merged into the order of the log.

    What was published again is read once; a stretch that is not there yet may come again later
    in the topic. `conn` is asked only whether a message that nobody can read was set aside.
    """

    is_log = False

    def __init__(
        self, conn: Connection[Any], bootstrap: str, topic: str, log: LogName, silence_s: float
    ) -> None:
        self._conn = conn
        self._topic = topic
        self._log = log
        self._silence_s = silence_s
        self._rows: dict[int, LogRow] = {}
        self._begins: dict[int, int] = {}  # partition → where it goes on after what is missing
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap.split(","),
            bootstrap_timeout_ms=BOOTSTRAP_MS,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            fetch_max_bytes=16 * 1024 * 1024,
            max_partition_fetch_bytes=4 * 1024 * 1024,
        )
        partitions = sorted(self._consumer.partitions_for_topic(topic) or ())
        if not partitions:
            self.close()
            raise RebuildRefused(f"topic {topic} is not there: {FROM_THE_LOG}")
        places = [TopicPartition(topic, partition) for partition in partitions]
        self._consumer.assign(places)
        self._consumer.seek_to_beginning(*places)
        self._reached = dict.fromkeys(partitions, 0)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close(autocommit=False)

    def published(self, after: int, through: int) -> list[LogRow]:
        """Read every partition until it is through; raises RebuildRefused where one cannot be."""
        heard = time.monotonic()
        while behind := [part for part, at in self._reached.items() if at < through]:
            self._listen_to(behind)
            if self._take():
                heard = time.monotonic()
            else:
                silence_s = time.monotonic() - heard
                self._refuse_what_is_missing(behind, through, silence_s > self._silence_s)
        return [self._rows[at] for at in sorted(self._rows) if after < at <= through]

    def forget(self, through: int) -> None:
        """Let go of rows that nobody will ask for."""
        for position in [at for at in self._rows if at <= through]:
            del self._rows[position]

    def _listen_to(self, partitions: list[int]) -> None:
        """Fetch only what is behind, so that no partition fills the memory."""
        for place in self._consumer.assignment():
            if place.partition in partitions:
                self._consumer.resume(place)
            else:
                self._consumer.pause(place)

    def _take(self) -> bool:
        taken = False
        for place, records in self._consumer.poll(timeout_ms=500).items():
            for record in records:
                taken = True
                message = self._message(place.partition, record)
                if message is not None:
                    self._join(place.partition, message)
        return taken

    def _join(self, partition: int, message: Message) -> None:
        reached = self._reached[partition]
        if message.after > reached:
            self._begins.setdefault(partition, message.after)
            return
        self._begins.pop(partition, None)
        self._rows.update((row.position, row) for row in message.rows if row.position > reached)
        self._reached[partition] = max(reached, message.through)

    def _refuse_what_is_missing(self, behind: list[int], through: int, silent: bool) -> None:
        """Refuse when a partition has been read to its end, or is silent, and is not through."""
        for partition in behind:
            place = TopicPartition(self._topic, partition)
            at_end = self._consumer.position(place) >= self._consumer.end_offsets([place])[place]
            reached, begins = self._reached[partition], self._begins.get(partition)
            if begins is not None and at_end:
                what = "has a gap" if reached else "has lost its beginning"
                raise RebuildRefused(
                    f"partition {partition} of {self._topic} {what}: positions {reached + 1:,} to "
                    f"{begins:,} are not in it any more; `daybook republish`, or {FROM_THE_LOG}"
                )
            if silent:
                raise RebuildRefused(
                    f"partition {partition} of {self._topic} ends at position {reached:,}, "
                    f"the books stand at {through:,}: start the relay, or {FROM_THE_LOG}"
                )

    def _message(self, partition: int, record: Any) -> Message | None:
        """Read a message; None for one that was set aside."""
        place = {"topic": self._topic, "partition": partition, "at_offset": record.offset}
        try:
            message = read_message(record.value, **place)
        except Unreadable as error:
            if is_set_aside(self._conn, error):
                return None
            raise
        if (message.log_id, message.incarnation) != (str(self._log.log_id), self._log.incarnation):
            named = f"{message.log_id}/{message.incarnation}"
            raise RebuildRefused(f"{self._topic} carries another log, {named}: {FROM_THE_LOG}")
        return message


class Topic(msgspec.Struct, frozen=True):
    """The operations topic, to rebuild from it alone; `silence_s` is how long it is waited for."""

    bootstrap: str
    name: str
    silence_s: float = SILENCE_S

    def open(self, conn: Connection[Any]) -> TopicRows:
        """Open it; raises RebuildRefused when no broker answers or there is no such topic."""
        log = select_log(conn)
        try:
            return TopicRows(conn, self.bootstrap, self.name, log, self.silence_s)
        except KafkaError as error:
            detail = f"no broker at {self.bootstrap} ({error}): {FROM_THE_LOG}"
            raise RebuildRefused(detail) from error
