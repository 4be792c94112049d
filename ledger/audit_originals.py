"""Check, for an audit, what follows an original: versions, refunds within parts, stages.

Invariant: every operation that follows others has its row in the stream of each; the rows'
versions have no gaps; the refunded sums are recomputed from the refunds' own legs and
never exceed the original's parts; a payout's stage follows from the one before.
Memory: one small struct per operation that something followed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec
from psycopg import Connection

from ledger import events as ev
from ledger.audit_chain import StoredRow
from ledger.audit_verdict import differ
from ledger.business_types import STAGE_AFTER, BusinessTypes
from ledger.codec import TOPIC_OF, decode_event
from ledger.errors import Rejection
from ledger.original import Original, original_of, part_name, refund_of

EVENTS = "ledger.stored_events"
CHECK = "refunds, captures and stages"
SELECT_FIRST_ROWS = """
    SELECT uuid_send(originator_id), convert_from(textsend(topic), 'UTF8'), state,
           notification_id
    FROM ledger.stored_events
    WHERE originator_id = ANY(%s) AND originator_version = 1
"""
FOLLOWED_TOPIC = TOPIC_OF[ev.OperationFollowed]


class _Found(msgspec.Struct, frozen=True):
    original: Original
    position: int


class Originals:
    """Originals that have been followed so far, and what the commit still owes them."""

    def __init__(self, conn: Connection[Any], types: BusinessTypes) -> None:
        self._conn = conn
        self._types = types
        self._followed: dict[bytes, Original] = {}
        self._first: dict[bytes, _Found] = {}
        self._booked: dict[str, tuple[ev.OperationBooked, int]] = {}
        self._owed: dict[tuple[str, str], int] = {}

    def prepare(self, rows: Iterable[StoredRow]) -> None:
        """Read the originals that the rows of a commit follow for the first time."""
        streams = {row[0] for row in rows if row[2] == FOLLOWED_TOPIC}
        wanted = [uuid.UUID(bytes=s) for s in streams if s not in self._followed]
        self._first = {}
        if not wanted:
            return
        cursor = self._conn.execute(SELECT_FIRST_ROWS, (wanted,), binary=True)
        for stream, topic, state, position in cursor.fetchall():
            event = decode_event(topic, state)
            if isinstance(event, ev.OperationBooked):
                original = original_of(event, None, 1, self._types)
                self._first[stream] = _Found(original, position)

    def book(self, operation: ev.OperationBooked, position: int) -> None:
        """Remember an operation of this commit, and the originals it owes a row to."""
        originals = operation.originals
        if originals:
            self._booked[operation.operation_id] = (operation, position)
            for original_id in originals:
                self._owed[original_id, operation.operation_id] = position
        elif any(leg.kind in ("release", "capture") for leg in operation.legs):
            self._booked[operation.operation_id] = (operation, position)

    def follow(self, event: ev.OperationFollowed, row: StoredRow) -> None:
        """Check a row of an original's stream against the operation that made it."""
        stream, version, position = row[0], row[1], row[4]
        original = self._original(stream, position)
        if version != original.version + 1:
            _unlike(position, "originator_version", original.version + 1, version)
        if event.operation_id != original.operation_id:
            _unlike(position, "state.operation_id", original.operation_id, event.operation_id)
        if event.by_operation_id not in self._booked:
            _unlike(position, "state.by_operation_id", "booked in this commit", None)
        operation, _ = self._booked[event.by_operation_id]
        self._owed.pop((event.operation_id, event.by_operation_id), None)
        refunded = self._refunded(original, operation, event, position)
        if event.refunded != refunded:
            _unlike(position, "state.refunded", refunded, event.refunded)
        self._followed[stream] = msgspec.structs.replace(
            original,
            refunded=refunded,
            stage=self._stage(original, operation, event, position),
            version=version,
        )

    def finish_commit(self) -> None:
        """Prove that every original of the commit's operations got its row."""
        for (original_id, operation_id), position in self._owed.items():
            what = f"followed by {operation_id}"
            _unlike(position, "state.originals", f"{original_id} {what}", None)
        self._booked.clear()

    def _original(self, stream: bytes, position: int) -> Original:
        original = self._followed.get(stream)
        if original is not None:
            return original
        found = self._first.get(stream)
        if found is None or found.position >= position:
            _unlike(position, "originator_id", "the stream of an earlier booked operation", None)
        return found.original

    def _refunded(
        self,
        original: Original,
        operation: ev.OperationBooked,
        event: ev.OperationFollowed,
        position: int,
    ) -> dict[str, int]:
        """Recompute the refunded sums; only a refund of this original changes them."""
        refunds = operation.original_operation_id == original.operation_id
        if event.relation != "refund" or not refunds:
            return original.refunded
        legs = [
            (
                leg.no,
                leg.kind,
                part_name(leg.part, leg.intended_account or leg.account),
                leg.currency,
                leg.amount_minor,
            )
            for leg in operation.legs
        ]
        refunded = refund_of(original, legs)
        if isinstance(refunded, Rejection):
            _unlike(position, "state.refunded", refunded.reason, event.refunded)
        return refunded

    def _stage(
        self,
        original: Original,
        operation: ev.OperationBooked,
        event: ev.OperationFollowed,
        position: int,
    ) -> Any:
        kind = self._types.types.get(operation.business_type)
        stage = kind.stage if kind is not None else None
        if stage is None or event.relation != stage:
            if event.stage != original.stage:
                _unlike(position, "state.stage", original.stage, event.stage)
            return original.stage
        if event.stage != stage or original.stage not in STAGE_AFTER[stage]:
            _unlike(position, "state.stage", f"{stage} after {original.stage}", event.stage)
        return stage


def _unlike(position: int, column: str, expected: Any, found: Any) -> NoReturn:
    differ(CHECK, EVENTS, {"notification_id": position}, column, expected, found)
