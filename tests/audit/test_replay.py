"""Replay: an account at any instant, version or date, and every event that made it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from ledger.audit import replay
from ledger.errors import InvalidRequest, LogCorrupt, NotFound
from ledger.events import AccountCredited, AccountDebited
from ledger.heads import select_accounts_in_tx
from ledger.stripes import whole_of
from tests.ledger import builders as b


@pytest.fixture
def conn(story_url: str) -> Iterator[Connection[Any]]:
    with psycopg.connect(story_url) as opened:
        yield opened
        opened.rollback()


@pytest.mark.parametrize("number", ["C-1", "C-2", "FROZEN", "STOPPED", "SUSPENSE-CNY", "BANK"])
def test_the_whole_replay_is_the_head(conn: Connection[Any], number: str) -> None:
    with conn.cursor() as cursor:
        head = select_accounts_in_tx(cursor, b.BOOK, [number])[number]
    assert replay(conn, b.BOOK, number).account == head


def test_an_account_with_stripes_is_replayed_as_one(conn: Connection[Any]) -> None:
    whole = replay(conn, b.BOOK, "WIDE")
    with conn.cursor() as cursor:
        numbers = ["WIDE", *(f"STRIPE-{stripe}-WIDE" for stripe in range(1, 5))]
        heads = select_accounts_in_tx(cursor, b.BOOK, numbers)
    home = heads["WIDE"]
    assert home is not None
    assert whole.account == whole_of(home, heads.get)
    assert whole.account.balance_minor == 6 * 60 - 90 + 9
    moved = [e for e in whole.events if isinstance(e.event, AccountCredited | AccountDebited)]
    paid_in = [e for e in moved if e.event.business_type == "payment"]
    assert [e.balance_minor for e in paid_in] == [60, 120, 180, 240, 300, 360, 279]
    hold = next(e for e in whole.events if e.name == "AmountHeld")
    then = replay(conn, b.BOOK, "WIDE", at_version=hold.version)
    assert (then.account.balance_minor, then.account.available_minor) == (360, 340)
    alone = replay(conn, b.BOOK, "STRIPE-1-WIDE").account
    assert alone == heads["STRIPE-1-WIDE"]


def test_a_version_gives_the_account_after_that_event(conn: Connection[Any]) -> None:
    whole = replay(conn, b.BOOK, "C-2")
    for event in whole.events:
        part = replay(conn, b.BOOK, "C-2", at_version=event.version)
        assert part.account.version == event.version
        assert part.account.balance_minor == event.balance_minor
        assert part.events == whole.events[: event.version]


def test_a_date_gives_the_account_at_its_end(conn: Connection[Any]) -> None:
    first = replay(conn, b.BOOK, "C-2", at_date=dt.date.fromisoformat(b.DAY)).account
    assert first.balance_minor == 49_000
    assert replay(conn, b.BOOK, "C-2").account.balance_minor == 48_700


def test_an_instant_gives_the_account_as_it_was_booked_then(conn: Connection[Any]) -> None:
    whole = replay(conn, b.BOOK, "C-1")
    instant = dt.datetime.fromisoformat(whole.events[2].event.booked_at)
    then = replay(conn, b.BOOK, "C-1", at=instant)
    assert [e.event.booked_at <= whole.events[2].event.booked_at for e in then.events]
    assert len(then.events) < len(whole.events)
    with pytest.raises(NotFound):
        replay(conn, b.BOOK, "C-1", at=instant - dt.timedelta(days=1))


def test_only_one_point_may_be_asked_for_and_an_instant_needs_its_offset(
    conn: Connection[Any],
) -> None:
    with pytest.raises(InvalidRequest):
        replay(conn, b.BOOK, "C-1", at_version=1, at_date=dt.date(2026, 1, 1))
    with pytest.raises(InvalidRequest):
        replay(conn, b.BOOK, "C-1", at=dt.datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(NotFound):
        replay(conn, b.BOOK, "NOBODY")


def test_a_changed_event_is_not_believed(conn: Connection[Any]) -> None:
    conn.execute("SET LOCAL session_replication_role = replica")
    event = replay(conn, b.BOOK, "C-2").events[2]
    conn.execute(
        "UPDATE ledger.stored_events SET state = set_byte(state, 20, 65) "
        "WHERE notification_id = %s",
        (event.position,),
    )
    with pytest.raises(LogCorrupt, match=str(event.position)):
        replay(conn, b.BOOK, "C-2")
