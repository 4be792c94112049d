"""What travels on the bus: whole operations and decisions, packed per partition.

A message holds raw rows of the log, each with its position, topic and schema version, and
says which stretch of the log it covers for its partition: `after` < position ≤ `through`.
Invariant: a message that cannot be read, or of a schema nobody knows, raises `Unreadable`
with its place; nothing is skipped. The AsyncAPI description is `infra/asyncapi.yaml`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import msgspec
from msgspec import field

from accounting.decided import DAY_TOPICS, DECISION_PREFIX, Decision, decode_decision
from ledger.codec import TOPIC_PREFIX
from ledger.events import OperationBooked

MESSAGE_SCHEMA = 1
OPERATION_SCHEMA = 1
MESSAGE_BYTES_MAX = 512 * 1024
ROW_OVERHEAD_BYTES = 160
OPERATION_TOPIC = f"{TOPIC_PREFIX}OperationBooked"
OPERATIONS_BUS_TOPIC = "ledger.operations"
RESULTS_BUS_TOPIC = "accounting.results"


class LogRow(msgspec.Struct, frozen=True, gc=False):
    """A published row of the log: `state` is the stored JSON, byte for byte."""

    position: int = field(name="id")
    topic: str
    version: int
    state: msgspec.Raw


class Message(msgspec.Struct, frozen=True, gc=False):
    """One bus message. No rows: a watermark, everything ≤ `through` has been sent."""

    schema: int
    log_id: str
    incarnation: int
    partition: int
    after: int
    through: int
    rows: tuple[LogRow, ...] = ()


class Booked(msgspec.Struct, frozen=True, gc=False):
    """An operation as the consumers handle it."""

    position: int
    operation: OperationBooked


class Decided(msgspec.Struct, frozen=True, gc=False):
    """An accounting decision, or the opening of a day, as the consumers handle it."""

    position: int
    decision: Decision


class Unreadable(Exception):
    """Bytes that are no message, or of a schema nobody knows: the lane stops here.

    `topic`, `partition` and `at_offset` name the place (topic `log`: at_offset is the
    position); `raw` are the bytes, for setting them aside.
    """

    def __init__(
        self, detail: str, *, topic: str, partition: int, at_offset: int, raw: bytes
    ) -> None:
        super().__init__(f"{topic}/{partition}/{at_offset}: {detail}")
        self.topic = topic
        self.partition = partition
        self.at_offset = at_offset
        self.raw = raw


class _LegKey(msgspec.Struct, frozen=True, gc=False):
    account: str


class OperationKey(msgspec.Struct, frozen=True, gc=False):
    """As much of an operation as its place on the bus needs."""

    book_id: str
    operation_id: str
    legs: tuple[_LegKey, ...] = ()

    @property
    def text(self) -> str:
        """Give the message key: book and first account."""
        first = self.legs[0].account if self.legs else self.operation_id
        return f"{self.book_id}/{first}"


class _Versioned(msgspec.Struct, frozen=True, gc=False):
    class_version: int = 1


class _Posted(OperationBooked, frozen=True, gc=False):
    """An operation as accounting reads it: what it left on its accounts stays as it came.

    To decode that took a third of the time.
    """

    accounts: msgspec.Raw = msgspec.Raw(b"[]")  # type: ignore[assignment]


decode_operation = msgspec.json.Decoder(OperationBooked).decode
decode_posted: Callable[[bytes], OperationBooked] = msgspec.json.Decoder(_Posted).decode
decode_key = msgspec.json.Decoder(OperationKey).decode
encode_message = msgspec.json.Encoder().encode
_decode_message = msgspec.json.Decoder(Message).decode
_decode_versioned = msgspec.json.Decoder(_Versioned).decode


def schema_version(state: bytes) -> int:
    """Read the schema version of a stored state (1 unless it says otherwise)."""
    if b'"class_version"' not in state:
        return 1
    return _decode_versioned(state).class_version


def partition_of(key: str, partitions: int) -> int:
    """Place a message key on a partition: the same on every machine, for ever."""
    return zlib.crc32(key.encode()) % partitions


def is_decision(topic: str) -> bool:
    """Tell whether a row goes to every partition: a decision, or which day is open."""
    return topic.startswith(DECISION_PREFIX) or topic in DAY_TOPICS


def lane_of(row: LogRow, lanes: int) -> int | None:
    """Give the lane of a row; None: every lane. An unreadable row stops lane 0."""
    if is_decision(row.topic):
        return None
    try:
        return partition_of(decode_key(row.state).text, lanes)
    except msgspec.MsgspecError:
        return 0


def read_message(value: bytes | None, *, topic: str, partition: int, at_offset: int) -> Message:
    """Decode a bus message; raises Unreadable, with its place, for anything else."""
    raw = value or b""
    try:
        message = _decode_message(raw)
    except msgspec.MsgspecError as error:
        raise Unreadable(
            str(error), topic=topic, partition=partition, at_offset=at_offset, raw=raw
        ) from error
    if message.schema != MESSAGE_SCHEMA or message.partition != partition:
        detail = f"schema {message.schema} for partition {message.partition}"
        raise Unreadable(detail, topic=topic, partition=partition, at_offset=at_offset, raw=raw)
    return message


def read_row(row: LogRow) -> Booked | Decided:
    """Decode a row's state; raises Unreadable, placed in the log, for anything else."""
    try:
        if row.topic == OPERATION_TOPIC and row.version == OPERATION_SCHEMA:
            return Booked(row.position, decode_posted(row.state))
        return Decided(row.position, decode_decision(row.topic, row.state))
    except (msgspec.MsgspecError, KeyError) as error:
        raise Unreadable(
            f"{row.topic} version {row.version}: {error}",
            topic="log",
            partition=0,
            at_offset=row.position,
            raw=bytes(row.state),
        ) from error


def pack(
    rows: Sequence[LogRow], *, log_id: str, incarnation: int, partition: int, span: tuple[int, int]
) -> list[bytes]:
    """Pack a partition's rows of the stretch `span` (after, through) into messages.

    Each is at most MESSAGE_BYTES_MAX; together they cover the stretch without gap, so an
    empty `rows` gives one watermark.
    """
    after, through = span
    packed: list[bytes] = []
    for chunk in _chunks(rows):
        reached = through if chunk is None or chunk[-1] is rows[-1] else chunk[-1].position
        message = Message(
            MESSAGE_SCHEMA, log_id, incarnation, partition, after, reached, tuple(chunk or ())
        )
        packed.append(encode_message(message))
        after = reached
    return packed


def _chunks(rows: Sequence[LogRow]) -> list[list[LogRow] | None]:
    chunks: list[list[LogRow] | None] = []
    room = 0
    for row in rows:
        size = memoryview(row.state).nbytes + len(row.topic) + ROW_OVERHEAD_BYTES
        if size > room:
            chunks.append([])
            room = MESSAGE_BYTES_MAX - ROW_OVERHEAD_BYTES * 2
        chunk = chunks[-1]
        assert chunk is not None
        chunk.append(row)
        room -= size
    return chunks or [None]


def log_row(position: int, topic: str, state: bytes) -> LogRow:
    """Make a row for the bus from a row of the log."""
    return LogRow(position, topic, schema_version(state), msgspec.Raw(state))
