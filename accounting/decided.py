"""Decisions as they arrive from the log: what the consumers read of each.

Invariant: a struct here names every field that has an effect; what is not named is the
library's own (timestamp …). A topic that is not in the table is unreadable, never skipped.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ledger.codec import TOPIC_PREFIX
from ledger.events import BookOpened, DayOpened

DECISION_PREFIX = "accounting."  # of the modules whose events are decisions
DAY_TOPICS = frozenset({f"{TOPIC_PREFIX}BookOpened", f"{TOPIC_PREFIX}DayOpened"})


class _Decided(msgspec.Struct, frozen=True, gc=False):
    """A decision as it arrives; the library's own fields (timestamp …) are not read."""


class RulesetsOpened(_Decided, frozen=True, gc=False):
    """No effect."""

    book_id: str


class RulesetPublished(_Decided, frozen=True, gc=False):
    """Rules for what is booked at higher positions, from a business date on."""

    book_id: str
    label: str
    ruleset_hash: str
    effective_from: str
    maker: str
    document: dict[str, Any]


class RepairRequested(_Decided, frozen=True, gc=False):
    """Try these operations again."""

    book_id: str
    operation_ids: tuple[str, ...]
    maker: str
    ruleset_hash: str | None = None
    note: str = ""


class GivenLine(_Decided, frozen=True, gc=False, forbid_unknown_fields=True):
    """A voucher line given by a person."""

    side: str
    subject: str
    currency: str
    amount_minor: int = msgspec.field(name="amount")
    account: str | None = None
    off_balance: bool = False


class OverrideProposed(_Decided, frozen=True, gc=False):
    """No effect before the approval."""

    book_id: str
    operation_id: str
    accounting_date: str
    lines: tuple[GivenLine, ...]
    maker: str
    note: str = ""


class OverrideRejected(_Decided, frozen=True, gc=False):
    """No effect: the operation stays as it is."""

    book_id: str
    operation_id: str
    checker: str
    note: str = ""


class OverrideApproved(_Decided, frozen=True, gc=False):
    """These lines are the operation's voucher."""

    book_id: str
    operation_id: str
    accounting_date: str
    lines: tuple[GivenLine, ...]
    maker: str
    checker: str
    note: str = ""


class MessageSetAside(_Decided, frozen=True, gc=False):
    """The message at this place is passed over; its bytes are kept."""

    topic: str
    partition: int
    at_offset: int
    raw: str
    reason: str
    maker: str


class ParkedAtCut(_Decided, frozen=True, gc=False):
    """How many operations of one reason and currency were open at a cut, and their amount."""

    status: str
    reason: str
    currency: str
    count: int
    amount_minor: int = msgspec.field(name="amount")


class PeriodsOpened(_Decided, frozen=True, gc=False):
    """No effect."""

    book_id: str


class DayCut(_Decided, frozen=True, gc=False):
    """Through this date the books are cut: what is vouchered later is dated into the open day.

    `parked` counts what was parked or waiting then, `operations` of them in all; their ids are
    listed, oldest first, as far as a message has room.
    """

    book_id: str
    cut_date: str
    open_date: str
    parked: tuple[ParkedAtCut, ...]
    operations: int
    operation_ids: tuple[str, ...]
    maker: str
    note: str = ""


class PeriodChangeProposed(_Decided, frozen=True, gc=False):
    """No effect before another person approves; `kind` is close or reopen."""

    book_id: str
    change_id: str
    kind: str
    period_date: str
    maker: str
    note: str = ""


class PeriodChangeRejected(_Decided, frozen=True, gc=False):
    """The proposal is off the table; nothing changes."""

    book_id: str
    change_id: str
    checker: str
    note: str = ""


class PeriodClosed(_Decided, frozen=True, gc=False):
    """Through this date nothing is vouchered any more: it parks as `closed_period`."""

    book_id: str
    change_id: str
    through_date: str
    maker: str
    checker: str
    note: str = ""


class PeriodReopened(_Decided, frozen=True, gc=False):
    """From this date on vouchers may be dated again (but for the days that are cut)."""

    book_id: str
    change_id: str
    from_date: str
    maker: str
    checker: str
    note: str = ""


Decision = (
    RulesetsOpened
    | RulesetPublished
    | RepairRequested
    | OverrideProposed
    | OverrideApproved
    | OverrideRejected
    | MessageSetAside
    | PeriodsOpened
    | DayCut
    | PeriodChangeProposed
    | PeriodChangeRejected
    | PeriodClosed
    | PeriodReopened
    | BookOpened
    | DayOpened
)
_DECODERS: dict[str, msgspec.json.Decoder[Decision]] = {
    topic: msgspec.json.Decoder(struct)
    for topic, struct in (
        ("accounting.decisions:Rulesets.Opened", RulesetsOpened),
        ("accounting.decisions:Rulesets.Published", RulesetPublished),
        ("accounting.decisions:RepairOrder.Requested", RepairRequested),
        ("accounting.decisions:Override.Proposed", OverrideProposed),
        ("accounting.decisions:Override.Approved", OverrideApproved),
        ("accounting.decisions:Override.Rejected", OverrideRejected),
        ("accounting.decisions:SetAside.Recorded", MessageSetAside),
        ("accounting.periods:Periods.Opened", PeriodsOpened),
        ("accounting.periods:Periods.DayCut", DayCut),
        ("accounting.periods:Periods.ChangeProposed", PeriodChangeProposed),
        ("accounting.periods:Periods.ChangeRejected", PeriodChangeRejected),
        ("accounting.periods:Periods.PeriodClosed", PeriodClosed),
        ("accounting.periods:Periods.PeriodReopened", PeriodReopened),
        ("ledger.recorded:BookOpened", BookOpened),
        ("ledger.recorded:DayOpened", DayOpened),
    )
}


def decode_decision(topic: str, state: bytes | msgspec.Raw) -> Decision:
    """Decode a decision's state.

    Raises KeyError for a topic nobody declared, msgspec.DecodeError for other bytes.
    """
    return _DECODERS[topic].decode(state)
