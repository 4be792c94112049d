"""Fold the proved log for an audit, checking what each event claims against what came before.

Invariant: nothing is taken from an event that can be recomputed: balance, held and frozen
amounts by arithmetic, versions by counting, refunds from the original's parts, totals by
adding up. Every account event is a leg of the booked operation before it in the same commit
(or the effect of the command before it), and every leg has its event.
Memory: one `Account` per account and one struct per followed operation.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
from psycopg import Connection

from ledger import events as ev
from ledger.account import Account
from ledger.audit_chain import Commit, StoredRow
from ledger.audit_legs import EVENTS, LEG_KIND, Legs
from ledger.audit_originals import Originals
from ledger.audit_verdict import differ
from ledger.books import Book
from ledger.business_types import BusinessTypes
from ledger.codec import (
    TOPIC_PREFIX,
    Seal,
    account_stream,
    book_stream,
    decoders,
    operation_stream,
    totals_text,
)
from ledger.evolve import advance, opened

DECODED = "event schemas"
STREAMS = "stream versions"
FOLDED = "account balances"
TOTALS = "totals of the seals"
DAYS = "business dates"
_DECODERS = decoders()
_HOLDS = (ev.HoldReleased, ev.HoldCaptured, ev.HoldExpired)
_ADDS_TO_HELD = {"hold": 1, "release": -1, "capture": -1}


class Foreign(msgspec.Struct, frozen=True, gc=False):
    """A row that is not the ledger's own: an accounting decision."""

    topic: str
    state: bytes


AuditedEvent = ev.LedgerEvent | Foreign
Proved = tuple[int, bytes, AuditedEvent]  # position, stream, event


class Fold:
    """The state that the log makes, commit by commit."""

    def __init__(self, conn: Connection[Any], types: BusinessTypes) -> None:
        self.accounts: dict[bytes, Account] = {}
        self.books: dict[str, Book] = {}
        self.totals: dict[str, dict[str, tuple[int, int]]] = {}
        self.operations = 0
        self.last_id = 0
        self._foreign: dict[bytes, int] = {}
        self._legs = Legs(self.accounts)
        self._originals = Originals(conn, types)
        self._seal: Seal
        self._closed: str | None = None
        self._checks: dict[type, Callable[[Any, StoredRow], None]] = {
            **dict.fromkeys(ev.Moved.__args__, self._moved),
            **dict.fromkeys(ev.Administered.__args__, self._administered),
            ev.AccountOpened: self._opened,
            ev.OperationBooked: self._booked,
            ev.OperationRejected: self._check_record,
            ev.OperationFollowed: self._followed,
            ev.CommandBooked: self._command,
            ev.CommandRejected: self._check_record,
            ev.BookOpened: self._book_opened,
            ev.DayOpened: self._day_opened,
            Foreign: self._decision,
        }

    def read(self, commit: Commit) -> list[Proved]:
        """Check a commit and fold it; return its events with their positions and streams."""
        self._seal = commit.seal
        self._closed = self._closed_through(commit.seal.book_id)
        self._originals.prepare(commit.rows)
        events: list[Proved] = []
        add, checks = events.append, self._checks
        for row in commit.rows:
            event = _decoded(row)
            checks[type(event)](event, row)
            add((row[4], row[0], event))
        self._legs.finish_commit()
        self._originals.finish_commit()
        self._check_totals(commit.seal)
        self.last_id = commit.seal.last_id
        return events

    def _closed_through(self, book_id: str) -> str | None:
        book = self.books.get(book_id)
        if book is None or book.closed_through is None:
            return None
        return book.closed_through.isoformat()

    def _check_totals(self, seal: Seal) -> None:
        totals = totals_text(self.totals.get(seal.book_id, {}))
        if totals != seal.totals:
            differ(
                TOTALS, "ledger.seals", {"first_id": seal.first_id}, "totals", totals, seal.totals
            )

    # --- account streams ------------------------------------------------------------------

    def _opened(self, event: ev.AccountOpened, row: StoredRow) -> None:
        stream = row[0]
        self._check_stream(stream, account_stream(event.book_id, event.account), row)
        self._check_first(event, row)
        if stream in self.accounts:
            _unlike(STREAMS, row, "originator_id", "an account that is not open yet", event.account)
        self._check_commit(event.book_id, event.booked_at, row)
        self._check_date(event.business_date, row)
        account = opened(event)
        self.accounts[stream] = account
        self._legs.settle_command(event, account, row[4])

    def _moved(self, event: ev.Moved, row: StoredRow) -> None:
        account = self._next_of(event, row)
        kind = LEG_KIND[type(event)]
        amount = event.amount_minor
        balance = account.balance_minor
        held = account.held_minor
        if kind == account.normal_side:
            balance += amount
        elif kind in ("credit", "debit"):
            balance -= amount
        else:
            held += _ADDS_TO_HELD.get(kind, 0) * amount
            if kind == "capture":
                balance -= amount
            self._check_reserved(event, account, kind, row)
        if event.balance_before_minor != account.balance_minor:
            _unlike(
                FOLDED,
                row,
                "state.balance_before",
                account.balance_minor,
                event.balance_before_minor,
            )
        if event.balance_minor != balance:
            _unlike(FOLDED, row, "state.balance", balance, event.balance_minor)
        if event.held_minor != held:
            _unlike(FOLDED, row, "state.held", held, event.held_minor)
        if amount <= 0:
            _unlike(FOLDED, row, "state.amount", "> 0", amount)
        advance(account, event)
        self._legs.settle(event, account, row[4])

    def _check_reserved(self, event: Any, account: Account, kind: str, row: StoredRow) -> None:
        """Check what a hold or freeze event says of the hold or freeze it names."""
        if isinstance(event, _HOLDS):
            hold = account.holds.get(event.hold_id)
            if hold is None or hold.amount_minor < event.amount_minor:
                left = 0 if hold is None else hold.amount_minor
                _unlike(FOLDED, row, "state.amount", f"≤ {left} held", event.amount_minor)
        elif kind == "hold":
            if event.hold_id in account.holds:
                _unlike(FOLDED, row, "state.hold_id", "a hold that is not open", event.hold_id)
        elif kind == "freeze":
            frozen = account.frozen_minor + event.amount_minor
            if event.freeze_id in account.freezes:
                _unlike(FOLDED, row, "state.freeze_id", "a freeze not in force", event.freeze_id)
            if event.frozen_minor != frozen:
                _unlike(FOLDED, row, "state.frozen", frozen, event.frozen_minor)
        else:
            freeze = account.freezes.get(event.freeze_id)
            left = (freeze.amount_minor or 0) if freeze is not None else 0
            if freeze is None or left < event.amount_minor:
                _unlike(FOLDED, row, "state.amount", f"≤ {left} frozen", event.amount_minor)
            if freeze.authority != event.authority:
                _unlike(FOLDED, row, "state.authority", freeze.authority, event.authority)
            frozen = account.frozen_minor - event.amount_minor
            if event.frozen_minor != frozen:
                _unlike(FOLDED, row, "state.frozen", frozen, event.frozen_minor)

    def _administered(self, event: ev.Administered, row: StoredRow) -> None:
        account = self._next_of(event, row)
        advance(account, event)
        if event.booked_at != self._seal.booked_at:
            _unlike(FOLDED, row, "state.booked_at", self._seal.booked_at, event.booked_at)
        self._legs.settle_command(event, account, row[4])

    def _next_of(self, event: ev.Moved | ev.Administered, row: StoredRow) -> Account:
        """Return the account before an event of its stream: the next version, no earlier day."""
        account = self.accounts.get(row[0])
        if account is None:
            _unlike(STREAMS, row, "originator_id", "the stream of an open account", event.account)
        if event.account != account.number:
            _unlike(STREAMS, row, "state.account", account.number, event.account)
        version = account.version + 1
        if row[1] != version:
            _unlike(STREAMS, row, "originator_version", version, row[1])
        if event.version != version:
            _unlike(STREAMS, row, "state.version", version, event.version)
        if account.business_date is not None and event.business_date < account.business_date:
            date = account.business_date
            _unlike(DAYS, row, "state.business_date", f"≥ {date}", event.business_date)
        return account

    # --- streams of operations, commands, books, decisions --------------------------------

    def _booked(self, event: ev.OperationBooked, row: StoredRow) -> None:
        self._check_record(event, row)
        self._check_date(event.business_date, row)
        self._legs.claim(event, row[4])
        self._originals.book(event, row[4])
        self.operations += 1
        moved: dict[str, int] = {}
        for leg in event.legs:
            if leg.kind in ev.MOVEMENT_KINDS:
                moved[leg.currency] = moved.get(leg.currency, 0) + leg.amount_minor
        totals = self.totals.setdefault(event.book_id, {})
        for currency, amount_minor in (moved or {"": 0}).items():
            count, before = totals.get(currency, (0, 0))
            totals[currency] = (count + 1, before + amount_minor)

    def _followed(self, event: ev.OperationFollowed, row: StoredRow) -> None:
        if event.booked_at != self._seal.booked_at:
            _unlike(FOLDED, row, "state.booked_at", self._seal.booked_at, event.booked_at)
        self._originals.follow(event, row)

    def _command(self, event: ev.CommandBooked, row: StoredRow) -> None:
        self._check_record(event, row)
        self._check_date(event.business_date, row)
        self._legs.claim_command(event, row[4])

    def _check_record(self, event: Any, row: StoredRow) -> None:
        """Check the first row of an operation's or command's stream."""
        self._check_stream(row[0], operation_stream(event.book_id, event.operation_id), row)
        if row[1] != 1:
            _unlike(STREAMS, row, "originator_version", 1, row[1])
        self._check_commit(event.book_id, event.booked_at, row)

    def _book_opened(self, event: ev.BookOpened, row: StoredRow) -> None:
        self._check_stream(row[0], book_stream(event.book_id), row)
        self._check_first(event, row)
        if event.book_id in self.books:
            _unlike(STREAMS, row, "originator_id", "a book that is not open yet", event.book_id)
        self._check_commit(event.book_id, event.booked_at, row)
        date = dt.date.fromisoformat(event.open_business_date)
        self.books[event.book_id] = Book(event.book_id, event.name, date, None, 1)

    def _day_opened(self, event: ev.DayOpened, row: StoredRow) -> None:
        self._check_stream(row[0], book_stream(event.book_id), row)
        book = self.books.get(event.book_id)
        if book is None:
            _unlike(STREAMS, row, "originator_id", "the stream of an open book", event.book_id)
        if row[1] != book.version + 1:
            _unlike(STREAMS, row, "originator_version", book.version + 1, row[1])
        self._check_commit(event.book_id, event.booked_at, row)
        before = book.open_business_date.isoformat()
        if event.previous_date != before:
            _unlike(DAYS, row, "state.previous_date", before, event.previous_date)
        if event.business_date <= before:
            _unlike(DAYS, row, "state.business_date", f"> {before}", event.business_date)
        date = dt.date.fromisoformat(event.business_date)
        closed = date - dt.timedelta(days=1)
        self.books[event.book_id] = Book(book.book_id, book.name, date, closed, row[1])

    def _decision(self, _: Foreign, row: StoredRow) -> None:
        stream, version = row[0], row[1]
        expected = self._foreign.get(stream, 0) + 1
        if version != expected:
            _unlike(STREAMS, row, "originator_version", expected, version)
        self._foreign[stream] = version

    # --- what several of them share -------------------------------------------------------

    def _check_stream(self, found: bytes, expected: bytes, row: StoredRow) -> None:
        if found != expected:
            _unlike(STREAMS, row, "originator_id", expected, found)

    def _check_first(self, event: Any, row: StoredRow) -> None:
        if row[1] != 1 or getattr(event, "version", 1) != 1:
            _unlike(STREAMS, row, "originator_version", 1, row[1])

    def _check_commit(self, book_id: str, booked_at: str, row: StoredRow) -> None:
        if book_id != self._seal.book_id:
            _unlike(TOTALS, row, "state.book_id", self._seal.book_id, book_id)
        if booked_at != self._seal.booked_at:
            _unlike(FOLDED, row, "state.booked_at", self._seal.booked_at, booked_at)

    def _check_date(self, business_date: str, row: StoredRow) -> None:
        if self._closed is not None and business_date <= self._closed:
            _unlike(DAYS, row, "state.business_date", f"> {self._closed}", business_date)


def _decoded(row: StoredRow) -> AuditedEvent:
    decode = _DECODERS.get(row[2])
    try:
        if decode is not None:
            return decode(row[3])
        topic = row[2].decode()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _unlike(DECODED, row, "state", f"a {row[2]!r}", str(error))
    if topic.startswith(TOPIC_PREFIX):
        _unlike(DECODED, row, "topic", "a topic of the ledger", topic)
    return Foreign(topic, row[3])


def _unlike(check: str, row: StoredRow, column: str, expected: Any, found: Any) -> NoReturn:
    differ(check, EVENTS, {"notification_id": row[4]}, column, expected, found)
