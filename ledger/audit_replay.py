"""Replay one account from its events alone: the balance at any time, and what made it.

Invariant: no head is read; each row's digest is recomputed on the way, so a changed event
is named instead of being believed.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import msgspec
from psycopg import Connection

from ledger import events as ev
from ledger.account import Account, instant_text
from ledger.codec import Row, account_stream, decode_event, digest_of
from ledger.errors import InvalidRequest, LogCorrupt, NotFound
from ledger.evolve import evolve

SELECT_STREAM = """
    SELECT notification_id, originator_version, textsend(topic), state, digest
    FROM ledger.stored_events WHERE originator_id = %s ORDER BY originator_version
"""
ROWS_PER_READ = 5_000


class ReplayedEvent(msgspec.Struct, frozen=True):
    """One event of the account with its place in the log and the balance it left."""

    position: int
    version: int
    name: str
    balance_minor: int
    available_minor: int | None
    event: ev.AccountEvent


class Replay(msgspec.Struct, frozen=True):
    """The account as its events made it up to the asked point, and every one of them."""

    account: Account
    events: tuple[ReplayedEvent, ...]


def replay(
    conn: Connection[Any],
    book_id: str,
    number: str,
    *,
    at: dt.datetime | None = None,
    at_version: int | None = None,
    at_date: dt.date | None = None,
) -> Replay:
    """Fold an account's events: all, or up to an instant, a version or the end of a date.

    Raises `NotFound` when the account had no event by then or has fewer versions,
    `InvalidRequest` for an instant without UTC offset or more than one point, and
    `LogCorrupt` for a row that is not as written.
    """
    included = _until(at, at_version, at_date)
    account: Account | None = None
    events: list[ReplayedEvent] = []
    stream = account_stream(book_id, number)
    with conn.transaction(), closing(_read_stream(conn, stream)) as read:
        for position, event in read:
            if not included(event):
                break
            account = evolve(account, event)
            events.append(
                ReplayedEvent(
                    position,
                    event.version,
                    type(event).__name__,
                    account.balance_minor,
                    account.available_minor,
                    event,
                )
            )
    if account is None:
        raise NotFound(f"no account {number!r} in book {book_id!r} by then")
    if at_version is not None and account.version < at_version:
        raise NotFound(f"account {number!r} has only {account.version} versions")
    return Replay(account, tuple(events))


def _until(
    at: dt.datetime | None, at_version: int | None, at_date: dt.date | None
) -> Callable[[ev.AccountEvent], bool]:
    """Return the test that an event passes while it is not after the asked point."""
    if sum(point is not None for point in (at, at_version, at_date)) > 1:
        raise InvalidRequest("ask for an instant, a version or a date, not for several")
    if at is not None:
        if at.tzinfo is None:
            raise InvalidRequest("the instant needs a UTC offset")
        instant = instant_text(at)
        return lambda event: event.booked_at <= instant
    if at_version is not None:
        return lambda event: event.version <= at_version
    if at_date is not None:
        date = at_date.isoformat()
        return lambda event: event.business_date <= date
    return lambda _: True


def _read_stream(
    conn: Connection[Any], stream: bytes
) -> Generator[tuple[int, ev.AccountEvent], None, None]:
    """Yield an account's events in order, each proved by its digest, versions without gaps."""
    expected = 1
    with conn.cursor(name="replay") as cursor:
        cursor.itersize = ROWS_PER_READ
        cursor.execute(SELECT_STREAM, (uuid.UUID(bytes=stream),), binary=True)
        for position, version, topic, state, digest in cursor:
            if digest_of(position, Row(stream, version, topic, state)) != digest:
                raise LogCorrupt(f"position {position}: the row's digest does not fit")
            if version != expected:
                raise LogCorrupt(f"position {position}: version {version}, expected {expected}")
            event = decode_event(topic.decode(), state)
            assert isinstance(event, ev.AccountEvent)
            yield position, event
            expected += 1
