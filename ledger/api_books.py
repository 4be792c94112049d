"""Books and their open day over HTTP, and where the ledger stands.

Invariant: the open business date moves by this command (or the CLI's), never by a clock.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from ledger.api import Reply, json_reply
from ledger.api_call import JSON_TYPES, Call
from ledger.api_gate import Api, book_of
from ledger.api_parse import decode
from ledger.backlog import Backlog, BacklogLimits, Level
from ledger.books import Book, open_day, select_book, select_books
from ledger.errors import NotFound
from ledger.operation import Name, Text
from ledger.stream_reads import LogState, select_log


class OpenBook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Open a book with its first business date; opening it again changes nothing."""

    book_id: Name
    name: Text
    open_business_date: dt.date


class OpenDay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Move the open business date forward; the same date again changes nothing."""

    business_date: dt.date


class BookPage(msgspec.Struct, frozen=True):
    """All books that the key may see, by id."""

    items: list[Book]


class EngineState(msgspec.Struct, frozen=True):
    """Whether the engine takes operations, and how many wait."""

    running: bool
    queued: int
    stopped_by: str | None


class BacklogState(msgspec.Struct, frozen=True):
    """The level the backlog is at by its limits, what is held back for it, and the facts.

    The lag, the lanes and the relay are the whole log's; the oldest operation and the open
    ones are the book's.
    """

    level: Level
    held_back: list[str]
    limits: BacklogLimits
    facts: Backlog


class Status(msgspec.Struct, frozen=True):
    """Where the ledger stands, and how far accounting is behind it."""

    version: str
    book: Book
    log: LogState
    engine: EngineState
    backlog: BacklogState


_decode_open_book = msgspec.json.Decoder(OpenBook).decode
_decode_open_day = msgspec.json.Decoder(OpenDay).decode


async def list_books(api: Api, call: Call) -> Reply:
    """Return the books that the key may see."""
    call.principal.require("read")
    call.query()
    own = call.principal.book_id
    books = await api.store.call(select_books)
    return json_reply(BookPage([b for b in books if own is None or b.book_id == own]))


async def get_book(api: Api, call: Call) -> Reply:
    """Return a book and its open business date."""
    call.principal.require("read")
    call.query()
    return json_reply(await api.store.call(select_book, _book(call)))


async def create_book(api: Api, call: Call) -> Reply:
    """Open a book: 201 with what is there now."""
    call.principal.require("admin")
    call.media_type(JSON_TYPES)
    call.query()
    request = decode(_decode_open_book, await call.body(api.limits))
    call.principal.require_book(request.book_id)
    book = await api.store.run(
        api.open_book,
        request.book_id,
        request.name,
        request.open_business_date,
        call.principal.name,
    )
    return json_reply(book, 201)


async def create_day(api: Api, call: Call) -> Reply:
    """Move a book's open business date: 200 with the book."""
    call.principal.require("day")
    call.media_type(JSON_TYPES)
    call.query()
    request = decode(_decode_open_day, await call.body(api.limits))
    book = await api.store.call(
        open_day, _book(call), request.business_date, principal=call.principal.name
    )
    return json_reply(book)


def _book(call: Call) -> str:
    book_id = call.params["book_id"]
    if "\x00" in book_id:
        raise NotFound("no book id has a NUL")
    call.principal.require_book(book_id)
    return book_id


async def get_status(api: Api, call: Call) -> Reply:
    """Return the book, the log's end, the engine's queue, the backlog and the version."""
    call.principal.require("read")
    call.query()
    book = await api.store.call(select_book, book_of(api, call))
    log = await api.store.call(select_log)
    engine = api.engine.engine
    stopped_by = engine.stopped_by
    state = EngineState(
        stopped_by is None, engine.queued, None if stopped_by is None else stopped_by.detail
    )
    facts = await api.store.call(api.read_backlog, book.book_id)
    return json_reply(Status(api.version, book, log, state, _backlog_state(api, facts)))


def _backlog_state(api: Api, facts: Backlog) -> BacklogState:
    gate = api.gate
    level = gate.limits.level(facts.lag_operations, facts.lag_s)
    return BacklogState(level, sorted(gate.held_back), gate.limits, facts)
