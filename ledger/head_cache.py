"""Heads that this process has in memory, and which of them a decision may read.

Rule (heads): what a decision reads is current, because it was read, or its version was compared,
under the commit-order lock, or nobody else has sealed a commit since this process read it, or what
others have sealed since touched other accounts: a head changes only with an event of its stream, in
the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import Connection, Cursor

from ledger.account import Account
from ledger.arrays import uuid_array
from ledger.codec import account_stream
from ledger.heads import select_accounts_in_tx, select_heads_in_tx
from ledger.log import Log

SELECT_VERSIONS = """
    SELECT number, version FROM ledger.accounts WHERE account_id = ANY(%s)
"""
# A process that starts in the middle of a day is as fast at once as the one before it: reading a
# head by the way costs a posting half of its time again.
RECENT_EVENTS = 50_000
SELECT_RECENT_STREAMS = """
    SELECT DISTINCT originator_id::text FROM (
        SELECT originator_id FROM ledger.stored_events ORDER BY notification_id DESC LIMIT %s
    ) AS recent
    WHERE EXISTS (SELECT FROM ledger.accounts WHERE account_id = originator_id)
"""
READ_ONE_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
HEADS_AT_ONCE = 500  # made of rows before another thread may have the interpreter


class HeadCache:
    """Heads this process has read or written, and the seal they are proved up to.

    While the log's last seal is still ours, no other engine has committed and every proved
    head is current. Another seal there ends those that others have touched. When nobody can say
    which, a new epoch starts: heads of older epochs count again only after their versions were
    compared (every change of a head raises its version).
    """

    def __init__(self, size_max: int = 200_000) -> None:
        self._proved: dict[str, dict[str, Account]] = {}  # by book and number, of this epoch
        self._older: dict[str, dict[str, Account]] = {}  # of older ones; those above come first
        self._size_max = size_max
        self._days: dict[str, tuple[str, str | None]] = {}
        self._seal = b""

    @property
    def seal(self) -> bytes:
        """The seal that current heads are proved up to; empty when none are."""
        return self._seal

    def enter(self, seal: bytes, touched: Iterable[tuple[str, str]] | None = None) -> None:
        """Take note of the log's last seal, read under its lock.

        `touched` are the accounts of all events since ours; without it every head is in doubt.
        """
        if seal == self._seal:
            return
        self._seal = seal
        self._days.clear()
        if touched is None:
            for book_id, heads in self._proved.items():
                self._older.setdefault(book_id, {}).update(heads)
            self._proved.clear()
            return
        for book_id, number in touched:
            self._drop(book_id, number)

    def committed(self, seal: bytes, book_id: str, touched: Mapping[str, Account]) -> None:
        """Keep the heads, by number, that our own commit wrote; its seal is now the last one."""
        self._seal = seal
        self.put(book_id, touched)

    def withdraw(self, guessed: Iterable[Account]) -> None:
        """Drop heads that were kept before their commit; of the others, compare versions."""
        for account in guessed:
            self._drop(account.book_id, account.number)
        self._seal = b""

    def _drop(self, book_id: str, number: str) -> None:
        for kept in (self._proved, self._older):
            kept.get(book_id, {}).pop(number, None)

    def day(self, book_id: str) -> tuple[str, str | None] | None:
        """Return a book's open day and the day it is closed through, if proved current."""
        return self._days.get(book_id)

    def put_day(self, book_id: str, day: tuple[str, str | None]) -> None:
        """Keep a book's days; `DayOpened` is a commit, so its seal ends them."""
        self._days[book_id] = day

    def current(self, book_id: str, number: str) -> Account | None:
        """Return a head that is proved current, else None."""
        return self.proved(book_id).get(number)

    def proved(self, book_id: str) -> Mapping[str, Account]:
        """Return a book's heads that are proved current, by number."""
        return self._proved.get(book_id, {})

    def seen(self, book_id: str, number: str) -> Account | None:
        """Return a head as last seen, which may be stale."""
        older = self._older.get(book_id, {})
        return self.current(book_id, number) or older.get(number)

    def put_all(self, accounts: Iterable[Account]) -> None:
        """Keep current heads, of any books."""
        books: dict[str, dict[str, Account]] = {}
        for account in accounts:
            books.setdefault(account.book_id, {})[account.number] = account
        for book_id, heads in books.items():
            self.put(book_id, heads)

    def put(self, book_id: str, heads: Mapping[str, Account]) -> None:
        """Keep a book's current heads, by number; when full, forget everything (the next batches
        read again).
        """
        if sum(map(len, (*self._proved.values(), *self._older.values()))) > self._size_max:
            self._proved.clear()
            self._older.clear()
        self._proved.setdefault(book_id, {}).update(heads)


def current_accounts_in_tx(
    cursor: Cursor[Any], book_id: str, numbers: Iterable[str], cache: HeadCache
) -> dict[str, Account | None]:
    """Return accounts by number, None for those that do not exist. Needs the log's lock.

    Each is proved current: nobody else committed since it was cached, or its version is the
    database's, or it is read now.
    """
    current = cache.proved(book_id).get
    accounts = {number: current(number) for number in numbers}
    unproved = [number for number, account in accounts.items() if account is None]
    if not unproved:
        return accounts
    unread = [number for number in unproved if cache.seen(book_id, number) is None]
    doubtful = [number for number in unproved if cache.seen(book_id, number) is not None]
    if doubtful:
        ids = uuid_array([account_stream(book_id, number) for number in doubtful])
        cursor.execute(SELECT_VERSIONS, (ids,), prepare=True, binary=True)
        for number, version in cursor.fetchall():
            seen = cache.seen(book_id, number)
            if seen is not None and seen.version == version:
                accounts[number] = seen
            else:
                unread.append(number)
    if unread:
        accounts.update(select_accounts_in_tx(cursor, book_id, unread))
    cache.put_all(account for n in unproved if (account := accounts[n]) is not None)
    return accounts


def warm(conn: Connection[Any], log: Log, cache: HeadCache) -> None:
    """Read the heads that the log's last events touched, before the first batch needs them.

    One snapshot gives the heads and the seal that they are proved up to. `conn` is in autocommit.
    """
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(READ_ONE_SNAPSHOT)
        cache.enter(log.select_end_in_tx(cursor, "").seal)
        cursor.execute(SELECT_RECENT_STREAMS, (RECENT_EVENTS,))
        ids = [bytes.fromhex(text.replace("-", "")) for (text,) in cursor.fetchall()]
        for start in range(0, len(ids), HEADS_AT_ONCE):
            cache.put_all(select_heads_in_tx(cursor, ids[start : start + HEADS_AT_ONCE]))
