"""One API process of the product, with one endpoint more: the same work without a database.

`POST /bench/operations` passes the product's gate, body reading, parser, metrics and encoder, and
answers a document of the same fields as `POST /v1/operations`; only the engine is left out. It
exists in this process alone. Usage: `python -m bench.api_server FD DATABASE_URL`.
"""

from __future__ import annotations

import socket
import sys
import time

from infra.app import build_app, uvicorn_config
from infra.fair_listener import FairServer
from infra.settings import load_settings
from ledger.api import Reply
from ledger.api_call import JSON_TYPES, Call
from ledger.api_gate import Api, book_of
from ledger.api_operations import answer_reply, count
from ledger.events import BookedLeg, TouchedAccount
from ledger.operation import Answer, Operation, Submission

EMPTY_PATH = "/bench/operations"
NORMAL_SIDE = str(b"credit", "ascii")  # msgspec leaves out what is the default object itself
BOOKED_AT = "2026-01-01T08:00:00.000000Z"


async def answer_without_engine(api: Api, call: Call) -> Reply:
    """Parse one operation and answer as if it had been booked."""
    call.media_type(JSON_TYPES)
    raw = await call.body(api.limits)
    started = time.perf_counter()
    submission = api.parser.operation(raw, call.operation_id, book_of(api, call), call.principal)
    answer = _pretended(submission)
    count(api.metrics, answer)
    reply = answer_reply(answer, 201)
    api.metrics.single_latency.observe(time.perf_counter() - started)
    return reply


def _pretended(submission: Submission) -> Answer:
    operation = submission.body
    assert isinstance(operation, Operation)
    legs = tuple(
        BookedLeg(
            number,
            leg.kind,
            leg.account,
            "customer",
            "2001.01",
            leg.currency,
            leg.amount_minor,
            version=number + 2,
            balance_minor=1_000_000_000_000,
            held_minor=0,
            normal_side=NORMAL_SIDE,
        )
        for number, leg in enumerate(operation.legs, start=1)
    )
    touched = tuple(
        TouchedAccount(
            leg.account,
            leg.currency,
            balance_minor=leg.balance_minor,
            available_minor=leg.balance_minor,
            held_minor=0,
            frozen_minor=0,
            version=leg.version,
            previous_balance_minor=0,
            day_debits_minor=0,
            day_credits_minor=leg.balance_minor,
        )
        for leg in legs
    )
    return Answer(
        operation_id=submission.operation_id,
        status="booked",
        replayed=False,
        position=100_000,
        business_date=BOOKED_AT[:10],
        booked_at=BOOKED_AT,
        accounting_status="pending",
        accounts=touched,
        legs=legs,
    )


def main() -> None:
    """Serve on an inherited listening socket until SIGTERM."""
    listener, url = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    settings = load_settings()
    app = build_app(settings, url)
    app.hot = {**app.hot, ("POST", EMPTY_PATH): answer_without_engine}
    config = uvicorn_config(settings, app)
    FairServer(config, processes=settings.processes).run(sockets=[listener])


if __name__ == "__main__":
    main()
