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
from ledger.codec import TOPIC_OF, account_stream, decode_event, decoders, digest_of_parts
from ledger.errors import InvalidRequest, LogCorrupt, NotFound
from ledger.evolve import advance, evolve, opened
from ledger.operation import STRIPES_MAX
from ledger.stripes import is_stripe, stripe_number, whole_of

SELECT_STREAM = """
    SELECT uuid_send(originator_id), notification_id, originator_version, textsend(topic), state,
           digest
    FROM ledger.stored_events WHERE originator_id = %s ORDER BY originator_version
"""
SELECT_STREAMS = """
    SELECT uuid_send(originator_id), notification_id, originator_version, textsend(topic), state,
           digest
    FROM ledger.stored_events WHERE originator_id = ANY(%s) ORDER BY notification_id
"""
SELECT_FIRST = """
    SELECT originator_id, topic, state FROM ledger.stored_events
    WHERE originator_id = ANY(%s) AND originator_version = 1 ORDER BY originator_id
"""
ROWS_PER_READ = 5_000
_DECODERS: dict[bytes, Callable[[bytes], Any]] = {
    topic: decode
    for topic, decode in decoders().items()
    if topic in {TOPIC_OF[kind] for kind in ev.AccountEvent.__args__}
}


class ReplayedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of the account, or of a stripe of it, with its place and the balance it left."""

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

    An account with stripes is one: their events are there too, each with the whole's balance; a
    version is that of the account's own stream.

    Raises `NotFound` when the account had no event by then or has fewer versions,
    `InvalidRequest` for an instant without UTC offset or more than one point, and
    `LogCorrupt` for a row that is not as written.
    """
    included = _until(at, at_version, at_date)
    accounts: dict[str, Account] = {}
    account: Account | None = None
    events: list[ReplayedEvent] = []
    with conn.transaction(), closing(_read_streams(conn, _streams(conn, book_id, number))) as read:
        for position, event in read:
            own = event.account == number
            if not included(event) and (own or at_version is None):
                break
            part = accounts.get(event.account)
            if part is None:
                accounts[event.account] = evolve(None, event)
            else:
                advance(part, event)
            account = accounts[number]
            if account.striping is not None:
                account = whole_of(account, accounts.get)
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
            if own and event.version == at_version:
                break  # what lies on stripes later is not of this version
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


def _streams(conn: Connection[Any], book_id: str, number: str) -> list[bytes]:
    """Return the streams of an account: its own, and those of its stripes."""
    stripes = {
        uuid.UUID(bytes=account_stream(book_id, stripe_number(number, stripe)))
        for stripe in range(1, STRIPES_MAX + 1)
    }
    streams = [account_stream(book_id, number)]
    for stream, topic, state in conn.execute(SELECT_FIRST, (list(stripes),)):
        event = decode_event(topic, state)
        if isinstance(event, ev.AccountOpened) and event.parent == number:
            streams += [stream.bytes] if is_stripe(opened(event)) else []
    return streams


def _read_streams(
    conn: Connection[Any], streams: list[bytes]
) -> Generator[tuple[int, ev.AccountEvent], None, None]:
    """Yield their events in the log's order, each proved by its digest, versions without gaps."""
    expected = dict.fromkeys(streams, 1)
    with conn.cursor(name="replay") as cursor:
        cursor.itersize = ROWS_PER_READ
        if len(streams) == 1:
            cursor.execute(SELECT_STREAM, (uuid.UUID(bytes=streams[0]),), binary=True)
        else:
            ids = [uuid.UUID(bytes=stream) for stream in streams]
            cursor.execute(SELECT_STREAMS, (ids,), binary=True)
        for stream, position, version, topic, state, digest in cursor:
            if digest_of_parts(position, stream, version, topic, state) != digest:
                raise LogCorrupt(f"position {position}: the row's digest does not fit")
            if version != expected[stream]:
                wanted = expected[stream]
                raise LogCorrupt(f"position {position}: version {version}, expected {wanted}")
            yield position, _DECODERS[topic](state)
            expected[stream] += 1
