"""Load what a batch reads: the book's day, heads, records of ids, originals.

Invariant: everything a decision reads was read under the commit-order lock, which the batch
holds until it commits, so nothing of it can change in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from psycopg import Cursor

from ledger.account import Account
from ledger.buffers import buffer_number
from ledger.business_types import BusinessTypes
from ledger.closing import may_be_closed
from ledger.errors import UnknownName
from ledger.head_cache import HeadCache, current_accounts_in_tx
from ledger.job import Job, Loaded, Missing, command_account
from ledger.operation import CloseAccount, OpenAccount, Operation
from ledger.recall import (
    has_unvouchered_in_tx,
    select_children_in_tx,
    select_originals_in_tx,
    select_records_in_tx,
)
from ledger.stripes import stripe_numbers

SELECT_BOOK = """
    SELECT open_business_date::text, closed_through::text FROM ledger.books WHERE book_id = %s
"""


class Wanted(msgspec.Struct):
    """Which accounts, ids and originals the jobs of a batch read.

    `closing`: by account to be closed, up to which versions its operations are known to have ended.
    """

    accounts: set[str]
    closing: dict[str, dict[str, int]]
    operation_ids: list[str]
    originals: set[str]
    hold_legs: list[tuple[str, str]]

    @classmethod
    def by(cls, jobs: Iterable[Job]) -> Wanted:
        """Collect what the requests name."""
        wanted = cls(set(), {}, [], set(), [])
        wanted.add(jobs)
        return wanted

    def add(self, jobs: Iterable[Job]) -> None:
        """Add what more requests name."""
        for job in jobs:
            self.accounts.update(job.sweep)
            self.accounts.update(job.apply)
            for submission in job.submissions:
                self.operation_ids.append(submission.operation_id)
                body = submission.body
                if isinstance(body, Operation):
                    self._add_operation(body)
                    continue
                self.accounts.add(command_account(submission))
                if isinstance(body, OpenAccount) and body.parent is not None:
                    self.accounts.add(body.parent)
                if isinstance(body, CloseAccount):
                    self.closing[command_account(submission)] = submission.ended_through or {}

    def _add_operation(self, operation: Operation) -> None:
        if operation.original_operation_id is not None:
            self.originals.add(operation.original_operation_id)
        for leg in operation.legs:
            self.accounts.add(leg.account)
            if leg.hold_id is not None and leg.kind != "hold":
                self.hold_legs.append((leg.account, leg.hold_id))

    def extend(self, missing: Missing) -> None:
        """Add what a decision turned out to read."""
        self.accounts |= missing.accounts
        self.originals |= missing.originals


def load_in_tx(
    cursor: Cursor[Any],
    book_id: str,
    wanted: Wanted,
    types: BusinessTypes,
    cache: HeadCache,
    *,
    look_up_ids: bool = True,
) -> Loaded:
    """Read what the batch's decisions may look at. Needs the log's lock, or proof under it later.

    Without `look_up_ids` every id counts as new: whoever writes must see that it is.
    Raises `UnknownName` for a book that was never opened.
    """
    open_date, closed_through = _days_in_tx(cursor, book_id, cache)
    accounts = current_accounts_in_tx(cursor, book_id, wanted.accounts, cache)
    if below := _engine_accounts(accounts):
        accounts.update(current_accounts_in_tx(cursor, book_id, below, cache))
    originals = wanted.originals | _openers(accounts, wanted.hold_legs)
    return Loaded(
        book_id,
        open_date,
        closed_through,
        accounts,
        select_originals_in_tx(cursor, book_id, originals, types) if originals else {},
        select_records_in_tx(cursor, book_id, wanted.operation_ids) if look_up_ids else {},
        frozenset(
            number
            for number in wanted.closing
            if (account := accounts[number]) is not None
            and may_be_closed(account)  # else it is refused anyway
            and any(
                has_unvouchered_in_tx(cursor, book_id, each, wanted.closing[number].get(each, 0))
                for each in (number, buffer_number(number), *stripe_numbers(account))
            )
        ),
        select_children_in_tx(cursor, book_id, sorted(wanted.closing)) if wanted.closing else {},
    )


def _days_in_tx(cursor: Cursor[Any], book_id: str, cache: HeadCache) -> tuple[str, str | None]:
    day = cache.day(book_id)
    if day is None:
        cursor.execute(SELECT_BOOK, (book_id,), prepare=True)
        day = cursor.fetchone()
        if day is None:
            raise UnknownName(f"no book {book_id!r}", code="unknown_book")
        cache.put_day(book_id, day)
    return day


def _engine_accounts(accounts: dict[str, Account | None]) -> list[str]:
    """Return the numbers of the buffer and stripe accounts that the accounts have."""
    numbers: list[str] = []
    for account in accounts.values():
        if account is None:
            continue
        if account.buffering is not None:
            numbers.append(buffer_number(account.number))
        if account.striping is not None:
            numbers += stripe_numbers(account)
    return numbers


def _openers(accounts: dict[str, Account | None], hold_legs: Iterable[tuple[str, str]]) -> set[str]:
    """Return the operations that opened the holds which releases and captures name."""
    openers: set[str] = set()
    for number, hold_id in hold_legs:
        account = accounts[number]
        hold = account.holds.get(hold_id) if account is not None else None
        if hold is not None:
            openers.add(hold.operation_id)
    return openers
