"""Accounts over HTTP: open, change their standing, read them with their streams and registers.

Invariant: a change goes through the engine under an operation id like any posting; reads
never wait for it. The `ETag` of an account is its version; `If-Match` is checked under the
account's lock.
"""

from __future__ import annotations

import re

import msgspec

from ledger.api import Reply, json_reply
from ledger.api_call import JSON_TYPES, Call
from ledger.api_gate import Api, book_of
from ledger.api_operations import post_batch, post_one
from ledger.cursors import PAGE_SIZE, PAGE_SIZE_MAX, number_after, numbers_after, text_after
from ledger.errors import InvalidRequest, NotFound
from ledger.operation import CloseAccount
from ledger.reads import (
    FILTERS,
    select_account,
    select_account_page,
    select_freezes,
    select_holds,
)
from ledger.recall import select_ended_through
from ledger.stream_reads import EventPage, select_account_events, select_register

_NUMBER = re.compile(r"[!-.0-~]{1,74}")  # 64, and those of stripe accounts
_ETAG = re.compile(rb'"(?P<version>[0-9]{1,18})"')


async def open_account(api: Api, call: Call) -> Reply:
    """Open one account: 201, or 422 with the recorded rejection."""
    call.principal.require("accounts")
    call.media_type(JSON_TYPES)
    dry_run = call.flags("dry_run")["dry_run"]
    raw = await call.body(api.limits)
    submission = api.parser.open_account(raw, call.operation_id, book_of(api, call), call.principal)
    return await post_one(api, submission, dry_run=dry_run)


async def open_accounts(api: Api, call: Call) -> Reply:
    """Open many accounts: 200 with one result per line, in order."""
    call.principal.require("accounts")
    book_id = book_of(api, call)
    principal = call.principal
    return await post_batch(
        api, call, book_id, lambda raw: api.parser.open_account(raw, None, book_id, principal)
    )


async def change_account(api: Api, call: Call) -> Reply:
    """Change an account's standing: 200, 412 for another version, 422 for a rejection."""
    call.principal.require("accounts")
    call.media_type(JSON_TYPES)
    dry_run = call.flags("dry_run")["dry_run"]
    raw = await call.body(api.limits)
    book_id, number = book_of(api, call), _number(call)
    submission = api.parser.change(raw, call.operation_id, book_id, call.principal, number)
    ended = None
    if isinstance(submission.body, CloseAccount):
        ended = await api.store.call(select_ended_through, book_id, number)
    submission = msgspec.structs.replace(
        submission, if_version=_if_version(call), ended_through=ended
    )
    return await post_one(api, submission, dry_run=dry_run, status=200)


def _number(call: Call) -> str:
    number = call.params["number"]
    if not _NUMBER.fullmatch(number):
        raise NotFound("account numbers have 1 to 74 visible ASCII characters, no slash")
    return number


def _if_version(call: Call) -> int | None:
    given = call.if_match
    if given is None or given.strip() == b"*":
        return None
    match = _ETAG.fullmatch(given.strip())
    if match is None:
        raise InvalidRequest(
            'If-Match is the account\'s ETag, for example "7"', code="invalid_parameter"
        )
    return int(match["version"])


async def get_account(api: Api, call: Call) -> Reply:
    """Return an account with its balances; `ETag` is its version."""
    call.principal.require("read")
    call.query()
    state = await api.store.call(select_account, book_of(api, call), _number(call))
    return json_reply(state, 200, (b"etag", b'"%d"' % state.version))


async def list_accounts(api: Api, call: Call) -> Reply:
    """Return a page of accounts by number."""
    call.principal.require("read")
    query = call.query("cursor", "limit", *FILTERS)
    filters = {name: query[name] for name in FILTERS if name in query}
    page = await api.store.call(
        select_account_page,
        book_of(api, call),
        filters,
        after=text_after(query.get("cursor")),
        limit=_limit(query),
    )
    return json_reply(page)


def _limit(query: dict[str, str]) -> int:
    text = query.get("limit", str(PAGE_SIZE))
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0
    if not 1 <= number <= PAGE_SIZE_MAX:
        raise InvalidRequest(
            f"limit is 1 to {PAGE_SIZE_MAX}", code="invalid_parameter", field="limit"
        )
    return number


async def get_holds(api: Api, call: Call) -> Reply:
    """Return the open holds of an account."""
    call.principal.require("read")
    call.query()
    return json_reply(await api.store.call(select_holds, book_of(api, call), _number(call)))


async def get_freezes(api: Api, call: Call) -> Reply:
    """Return the freezes in force on an account."""
    call.principal.require("read")
    call.query()
    return json_reply(await api.store.call(select_freezes, book_of(api, call), _number(call)))


async def get_events(api: Api, call: Call) -> Reply:
    """Return a page of an account's events by version; those of one with stripes by position."""
    call.principal.require("read")
    query = call.query("cursor", "limit")
    page: EventPage = await api.store.call(
        select_account_events,
        book_of(api, call),
        _number(call),
        after=numbers_after(query.get("cursor")),
        limit=_limit(query),
    )
    return json_reply(page)


async def get_register(api: Api, call: Call) -> Reply:
    """Return who changed the account's standing, when, why and by which order."""
    call.principal.require("read")
    query = call.query("cursor", "limit")
    page: EventPage = await api.store.call(
        select_register,
        book_of(api, call),
        _number(call),
        after=number_after(query.get("cursor")),
        limit=_limit(query),
    )
    return json_reply(page)
