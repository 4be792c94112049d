"""Accounting decisions: what a person decides in the books, as events in the same log.

Four decisions: a ruleset is published, parked operations are to be tried again, an override
gives an operation's voucher lines, a message nobody can read is set aside. Invariant: the
consumers act on a decision only when it arrives from the log, so a rebuild repeats it; every
decision names its maker, an override also another person as its checker.
"""

# ruff: noqa: ARG002 - the library's `event` decorator makes the events of the arguments

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError

from accounting.decided import (
    DECISION_PREFIX,
    Decision,
    GivenLine,
    MessageSetAside,
    OverrideApproved,
    OverrideProposed,
    OverrideRejected,
    RepairRequested,
    RulesetPublished,
    RulesetsOpened,
    decode_decision,
)

__all__ = [
    "ALWAYS",
    "DECISION_BYTES_MAX",
    "DECISION_PREFIX",
    "OPERATIONS_PER_ORDER_MAX",
    "RAW_BYTES_MAX",
    "AccountingDecisions",
    "Decision",
    "DecisionRefused",
    "GivenLine",
    "MessageSetAside",
    "Override",
    "OverrideApproved",
    "OverrideProposed",
    "OverrideRejected",
    "RepairOrder",
    "RepairRequested",
    "RulesetPublished",
    "Rulesets",
    "RulesetsOpened",
    "SetAside",
    "decode_decision",
    "in_orders",
]

OPERATIONS_PER_ORDER_MAX = 1000
DECISION_BYTES_MAX = 256 * 1024  # Rule (relay): an encoded row that a message can carry
RAW_BYTES_MAX = 180 * 1024
LOG_TOPIC = "log"  # a message set aside there is a row, its offset the position
ALWAYS = "0001-01-01"


class DecisionRefused(Exception):
    """The decision is not valid; nothing was written. `code` is stable."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Rulesets(Aggregate):
    """The rulesets published for one book, in order."""

    class Opened(Aggregate.Created):
        """The book's register of rulesets came to be."""

        book_id: str

    class Published(Aggregate.Event):
        """A chart with its rules takes effect for what is booked at higher positions."""

        book_id: str
        label: str
        ruleset_hash: str
        effective_from: str
        maker: str
        document: dict[str, Any]

    @event(Opened)
    def __init__(self, book_id: str) -> None:
        self.book_id = book_id
        self.last: tuple[str, str] | None = None

    @event(Published)
    def publish(
        self,
        book_id: str,
        label: str,
        ruleset_hash: str,
        effective_from: str,
        maker: str,
        document: dict[str, Any],
    ) -> None:
        """Remember which content is the last one."""
        self.last = (ruleset_hash, effective_from)

    @staticmethod
    def create_id(book_id: str) -> UUID:
        """Name the register by its book."""
        return uuid5(NAMESPACE_URL, f"daybook:rulesets/{book_id}")


class RepairOrder(Aggregate):
    """Parked operations to try again, with the rulesets published before the order."""

    class Requested(Aggregate.Created):
        """`ruleset_hash` names a version to use; None chooses by business date."""

        book_id: str
        operation_ids: list[str]
        ruleset_hash: str | None
        maker: str
        note: str

    @event(Requested)
    def __init__(
        self,
        book_id: str,
        operation_ids: list[str],
        ruleset_hash: str | None,
        maker: str,
        note: str,
    ) -> None:
        self.book_id = book_id
        self.maker = maker


class Override(Aggregate):
    """Voucher lines that an accountant gives for one parked operation."""

    class Proposed(Aggregate.Created):
        """The maker wrote the lines; nothing happens yet."""

        book_id: str
        operation_id: str
        accounting_date: str
        lines: list[dict[str, Any]]
        maker: str
        note: str

    class Approved(Aggregate.Event):
        """Another person approved: the lines become the operation's voucher."""

        book_id: str
        operation_id: str
        accounting_date: str
        lines: list[dict[str, Any]]
        maker: str
        checker: str
        note: str

    class Rejected(Aggregate.Event):
        """Somebody, perhaps the maker, said no: the lines are never used."""

        book_id: str
        operation_id: str
        checker: str
        note: str

    @event(Proposed)
    def __init__(
        self,
        book_id: str,
        operation_id: str,
        accounting_date: str,
        lines: list[dict[str, Any]],
        maker: str,
        note: str,
    ) -> None:
        self.book_id = book_id
        self.operation_id = operation_id
        self.accounting_date = accounting_date
        self.lines = lines
        self.maker = maker
        self.note = note
        self.checker: str | None = None
        self.rejected = False

    def approve(self, checker: str) -> None:
        """Approve once, by somebody else than the maker."""
        if checker == self.maker:
            raise DecisionRefused("same_principal", "maker and checker must be two people")
        self._refuse_decided()
        self._approve(
            self.book_id,
            self.operation_id,
            self.accounting_date,
            self.lines,
            self.maker,
            checker,
            self.note,
        )

    @event(Approved)
    def _approve(
        self,
        book_id: str,
        operation_id: str,
        accounting_date: str,
        lines: list[dict[str, Any]],
        maker: str,
        checker: str,
        note: str,
    ) -> None:
        self.checker = checker

    def reject(self, checker: str, note: str) -> None:
        """Reject while it is open; the maker may take the own proposal back so."""
        self._refuse_decided()
        self._reject(self.book_id, self.operation_id, checker, note)

    @event(Rejected)
    def _reject(self, book_id: str, operation_id: str, checker: str, note: str) -> None:
        self.checker = checker
        self.rejected = True

    def _refuse_decided(self) -> None:
        if self.checker is not None:
            done = "rejected" if self.rejected else "approved"
            raise DecisionRefused(f"already_{done}", f"{self.checker} has {done} already")


class SetAside(Aggregate):
    """A message that nobody can read, kept with its raw bytes and passed over."""

    class Recorded(Aggregate.Created):
        """`raw` is base64; `at_offset` is the offset, or the position on topic `log`."""

        topic: str
        partition: int
        at_offset: int
        raw: str
        reason: str
        maker: str

    @event(Recorded)
    def __init__(
        self, topic: str, partition: int, at_offset: int, raw: str, reason: str, maker: str
    ) -> None:
        self.maker = maker

    @staticmethod
    def create_id(topic: str, partition: int, at_offset: int, raw: str) -> UUID:
        """Name the decision by the message's place, so that it can be looked up there.

        A topic that is made anew counts its offsets from 0 again: there the bytes belong to the
        name, so that another message at the same place is not passed over unseen.
        """
        name = f"daybook:set-aside/{topic}/{partition}/{at_offset}"
        if topic != LOG_TOPIC:
            name += "/" + hashlib.sha256(raw.encode()).hexdigest()
        return uuid5(NAMESPACE_URL, name)


# --- writing them ------------------------------------------------------------------------


class AccountingDecisions(Application[UUID]):
    """Writes decisions into the log. Wired to the ledger's recorder by infra."""

    def publish_ruleset(
        self,
        book_id: str,
        document: Mapping[str, Any],
        *,
        ruleset_hash: str,
        label: str,
        maker: str,
        effective_from: str = ALWAYS,
    ) -> int | None:
        """Publish content for a book; return the position, None when it is the last already."""
        try:
            register: Rulesets = self.repository.get(Rulesets.create_id(book_id))
        except AggregateNotFoundError:
            register = Rulesets(book_id)
        if register.last == (ruleset_hash, effective_from):
            return None
        register.publish(book_id, label, ruleset_hash, effective_from, maker, dict(document))
        return self.saved(register)

    def request_repair(
        self,
        book_id: str,
        operation_ids: Sequence[str],
        *,
        maker: str,
        ruleset_hash: str | None = None,
        note: str = "",
    ) -> int:
        """Order a retry of at most OPERATIONS_PER_ORDER_MAX operations; return the position."""
        if not 0 < len(operation_ids) <= OPERATIONS_PER_ORDER_MAX:
            msg = f"an order names 1 to {OPERATIONS_PER_ORDER_MAX} operations"
            raise DecisionRefused("order_size", msg)
        return self.saved(RepairOrder(book_id, list(operation_ids), ruleset_hash, maker, note))

    def propose_override(
        self,
        book_id: str,
        operation_id: str,
        lines: Sequence[GivenLine],
        *,
        accounting_date: str,
        maker: str,
        note: str = "",
    ) -> UUID:
        """Write down an override for somebody else to approve; return its id."""
        given = [msgspec.to_builtins(line) for line in lines]
        override = Override(book_id, operation_id, accounting_date, given, maker, note)
        self.saved(override)
        return override.id

    def approve_override(
        self, override_id: UUID, *, checker: str, book_id: str | None = None
    ) -> int:
        """Approve an override (of this book, if named); return the position of the approval."""
        return self._decided(override_id, book_id, lambda override: override.approve(checker))

    def reject_override(
        self, override_id: UUID, *, checker: str, note: str = "", book_id: str | None = None
    ) -> int:
        """Reject an override (of this book, if named); return the position of the rejection."""
        return self._decided(override_id, book_id, lambda override: override.reject(checker, note))

    def _decided(
        self, override_id: UUID, book_id: str | None, decide: Callable[[Override], None]
    ) -> int:
        """Decide on a proposal; of two at once the second meets what the first has decided."""
        while True:
            try:
                override: Aggregate = self.repository.get(override_id)
            except AggregateNotFoundError as error:
                raise DecisionRefused("unknown_override", str(override_id)) from error
            if not isinstance(override, Override) or book_id not in (None, override.book_id):
                raise DecisionRefused("unknown_override", str(override_id))
            decide(override)
            with suppress(IntegrityError):
                return self.saved(override)

    def set_aside(
        self, topic: str, partition: int, at_offset: int, raw: bytes, *, reason: str, maker: str
    ) -> int | None:
        """Set a message aside; return the position, None when it was done already.

        Of more than RAW_BYTES_MAX bytes the beginning is kept, with length and digest.
        """
        if len(raw) > RAW_BYTES_MAX:
            digest = hashlib.sha256(raw).hexdigest()
            reason = f"{reason} (first {RAW_BYTES_MAX} of {len(raw)} bytes, sha256 {digest})"
        text = kept_of(raw)
        try:
            return self.saved(SetAside(topic, partition, at_offset, text, reason, maker))
        except IntegrityError:
            return None

    def saved(self, aggregate: Aggregate, **more: Any) -> int:
        """Save what an aggregate decided; return the last position. `more`: to the recorder."""
        for pending in aggregate.pending_events:
            size = len(self.mapper.to_stored_event(pending).state)
            if size > DECISION_BYTES_MAX:
                raise DecisionRefused("decision_too_large", f"{size} bytes do not fit a message")
        recordings = self.save(aggregate, **more)
        return int(recordings[-1].notification.id)


def kept_of(raw: bytes) -> str:
    """Give what a decision keeps of a message: its beginning, in base64."""
    return base64.b64encode(raw[:RAW_BYTES_MAX]).decode()


def in_orders(operation_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut a list of operations into what one repair order may name and a message carry."""
    chunk: list[str] = []
    room = DECISION_BYTES_MAX // 2
    for operation_id in operation_ids:
        size = len(msgspec.json.encode(operation_id)) + 1
        if chunk and (len(chunk) == OPERATIONS_PER_ORDER_MAX or size > room):
            yield chunk
            chunk, room = [], DECISION_BYTES_MAX // 2
        chunk.append(operation_id)
        room -= size
    if chunk:
        yield chunk
