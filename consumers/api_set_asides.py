"""Messages nobody can read over HTTP: list what was set aside, and set one aside.

Who decides is the principal of the key. Invariant: only what the consumers cannot read is passed
over, by a decision in the log that keeps its bytes; asking again changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request, Response
from kafka.errors import KafkaError
from msgspec import Meta, field
from psycopg import Connection

from accounting.decisions import LOG_TOPIC, AccountingDecisions
from consumers.api import Authorize, Caller, DecisionWriter, OpenDecisions, WaitS
from consumers.api_documents import REFUSALS, answers, takes
from consumers.set_aside import Place, moves_on, read_unreadable, set_message_aside
from ledger.errors import NotFound, StoreUnavailable
from projections.api import STRICT, WAIT_S, BooksReader, Connect, Cursor, Limit, Waits, gives
from projections.pages import Page
from projections.parked import SetAsideMessage, select_set_asides

OFFSET_MAX = 2**62


class RequestedSetAside(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The message before which a lane stands, as `/v1/positions` names it, and why to pass it.

    On topic `log` the offset is the position and the partition 0.
    """

    topic: Annotated[str, Meta(min_length=1, max_length=249)]
    at_offset: Annotated[int, Meta(ge=0, le=OFFSET_MAX)] = field(name="offset")
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class PassedOver(msgspec.Struct, frozen=True):
    """The decision's position (null: the message was set aside before) and how many bytes it keeps.

    `moved_on`: no lane stands before the message any more.
    """

    topic: str
    partition: int
    at_offset: int = field(name="offset")
    raw_bytes: int
    position: int | None
    maker: str
    moved_on: bool


_decode = msgspec.json.Decoder(RequestedSetAside).decode


def set_asides_router(
    *,
    connect: Connect,
    authorize: Authorize,
    open_decisions: OpenDecisions,
    bootstrap: str,
    topics: Collection[str],
) -> APIRouter:
    """Make the routes. `topics` are those on the broker at `bootstrap` that our processes read;
    on the log bus there are none.
    """
    reader = BooksReader(connect, lambda request, scope: authorize(request, scope).book_id)
    writer = DecisionWriter(reader, authorize, open_decisions)
    router = APIRouter(prefix="/v1", tags=["repair"], dependencies=STRICT)
    _add_reading(router, reader, authorize)
    _add_setting(router, writer, bootstrap, topics)
    return router


def _add_reading(router: APIRouter, reader: BooksReader, authorize: Authorize) -> None:
    @router.get("/set-asides", responses=gives(Page[SetAsideMessage]) | REFUSALS)
    def set_asides(
        request: Request, waits: Waits, cursor: Cursor = None, limit: Limit = 100
    ) -> Response:
        """Messages nobody could read, with their raw bytes in base64. Not for one book's keys."""
        authorize(request, "read").principal.require_every_book()
        return reader.answer(
            request,
            waits,
            lambda conn, _: select_set_asides(conn, cursor=cursor, limit=limit),
        )


def _add_setting(
    router: APIRouter, writer: DecisionWriter, bootstrap: str, topics: Collection[str]
) -> None:
    @router.post(
        "/set-asides",
        status_code=201,
        responses=answers({201: PassedOver, 200: PassedOver}),
        openapi_extra=takes(
            RequestedSetAside,
            row_of_the_log={"topic": LOG_TOPIC, "offset": 17, "reason": "written by hand"},
            message_on_kafka={
                "topic": "ledger.operations",
                "partition": 2,
                "offset": 1841,
                "reason": "somebody's test message",
            },
        ),
    )
    async def set_aside(request: Request, wait_s: WaitS = WAIT_S) -> Response:
        """Pass over the undecodable or foreign message before which a lane stands.

        Safe to repeat (200, nothing new). What the consumers can read is refused as `readable`.
        Needs scope `repair` and a key for every book.
        """

        def act(
            conn: Connection[Any],
            decisions: AccountingDecisions,
            caller: Caller,
            asked: RequestedSetAside,
        ) -> tuple[int, Any]:
            caller.principal.require_every_book()
            place = Place(asked.topic, asked.partition, asked.at_offset)
            raw = _read(conn, place, bootstrap, topics)
            position = set_message_aside(
                decisions, raw, place=place, reason=asked.reason, maker=caller.name
            )
            moved_on = moves_on(conn, place, wait_s)
            passed = PassedOver(*place, len(raw), position, caller.name, moved_on)
            return 200 if position is None else 201, passed

        return await writer.answer(request, "repair", _decode, act)


def _read(conn: Connection[Any], place: Place, bootstrap: str, topics: Collection[str]) -> bytes:
    """Read the raw bytes of an unreadable message; only of topics that our processes read."""
    if place.topic == LOG_TOPIC:
        if place.partition != 0:
            raise NotFound("the log has the partition 0 only")
    elif place.topic not in topics:
        raise NotFound(f"no process here reads a topic {place.topic}")
    try:
        return read_unreadable(conn, place, bootstrap=bootstrap)
    except KafkaError as error:
        raise StoreUnavailable(f"the broker does not answer: {error}") from error
