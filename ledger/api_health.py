"""Liveness, readiness and metrics.

Invariant: liveness asks nothing of anybody; readiness names the part that is not ready.
"""

from __future__ import annotations

import msgspec

from ledger.api import Reply, json_reply, reply_of
from ledger.api_call import Call
from ledger.api_gate import Api
from ledger.errors import LedgerError
from ledger.stream_reads import select_log


class Liveness(msgspec.Struct, frozen=True):
    """The process turns."""

    status: str


class Readiness(msgspec.Struct, frozen=True):
    """Each part: `ok`, or why it is not ready."""

    ready: bool
    engine: str
    database: str
    log: str


async def get_liveness(_api: Api, _call: Call) -> Reply:
    """Say that the process turns."""
    return json_reply(Liveness("alive"))


async def get_readiness(api: Api, _call: Call) -> Reply:
    """Say whether operations would be booked now: 200, or 503 naming the part that is not."""
    stopped_by = api.engine.engine.stopped_by
    engine = "ok" if stopped_by is None else stopped_by.detail or stopped_by.code
    database = log = "ok"
    try:
        await api.store.call(select_log)
    except LedgerError as error:
        if error.code == "log_corrupt":
            log = error.detail
        else:
            database = "no connection"
            log = "unknown"
    ready = engine == database == log == "ok"
    return json_reply(Readiness(ready, engine, database, log), 200 if ready else 503)


async def get_metrics(api: Api, _call: Call) -> Reply:
    """Return the metrics in Prometheus' text format."""
    return reply_of(api.metrics.text(), 200, api.metrics.content_type)
