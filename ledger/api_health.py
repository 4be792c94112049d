"""Liveness, readiness and metrics.

Invariant: liveness asks nothing of anybody; readiness names the part that is not ready.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ledger.api import Reply, json_reply, reply_of
from ledger.api_call import Call
from ledger.api_gate import Api
from ledger.backlog import Backlog, BacklogLimits
from ledger.errors import LedgerError
from ledger.stream_reads import select_log

OK = "ok"
UNKNOWN = "unknown"
Status = Literal["ready", "degraded", "not_ready"]


class Liveness(msgspec.Struct, frozen=True):
    """The process turns."""

    status: str


class Readiness(msgspec.Struct, frozen=True):
    """Each part: `ok`, or why it is not.

    Without engine, database, log, schema or drain no operation would be booked here: 503 and
    status `not_ready`. Lanes, relay and backlog are accounting's, and a schema may be newer
    than the program that runs on it: operations are still booked, 200 and `degraded`.
    """

    ready: bool
    status: Status
    engine: str
    database: str
    log: str
    schema: str
    drain: str
    lanes: str
    relay: str
    backlog: str


class Part(msgspec.Struct, frozen=True):
    """One part's words; `needed` when no operation would be booked without it."""

    words: str = OK
    needed: bool = True

    @property
    def stops(self) -> bool:
        """Tell whether this part alone takes the process out of traffic."""
        return self.needed and self.words != OK


async def get_liveness(_api: Api, _call: Call) -> Reply:
    """Say that the process turns."""
    return json_reply(Liveness("alive"))


async def get_readiness(api: Api, call: Call) -> Reply:
    """Say whether operations would be booked now: 200, or 503 naming the part that is not."""
    stopped_by = api.engine.engine.stopped_by
    parts = {
        "engine": Part() if stopped_by is None else Part(stopped_by.detail or stopped_by.code),
        "drain": Part("the process has been asked to stop" if call.scope["app"].draining else OK),
        **await _store_parts(api),
    }
    words = {name: part.words for name, part in parts.items()}
    ready = not any(part.stops for part in parts.values())
    fine = all(each == OK for each in words.values())
    status: Status = "ready" if fine else "degraded" if ready else "not_ready"
    return json_reply(Readiness(ready=ready, status=status, **words), 200 if ready else 503)


async def _store_parts(api: Api) -> dict[str, Part]:
    """Ask the database for log, schema and how accounting stands."""
    parts = dict.fromkeys(("log", "schema"), Part(UNKNOWN))
    parts |= dict.fromkeys(("lanes", "relay", "backlog"), Part(UNKNOWN, needed=False))
    try:
        schema = await api.store.call(api.read_schema)
        parts["database"] = Part()
        parts["schema"] = Part(schema.words, needed=not schema.usable)
        await api.store.call(select_log)
        parts["log"] = Part()
        backlog = await api.store.call(api.read_backlog, None)
    except LedgerError as error:
        if error.code == "log_corrupt":
            parts["log"] = Part(error.detail)
        else:
            parts["database"] = Part("no connection")
        return parts
    return parts | _accounting_parts(api, backlog)


def _accounting_parts(api: Api, backlog: Backlog) -> dict[str, Part]:
    limits = api.gate.limits
    level = limits.level(backlog.lag_operations, backlog.lag_s)
    behind = f"{backlog.lag_operations} operations and {backlog.lag_s:.0f} s behind"
    stopped = [f"lane {lane.lane}: {lane.stopped}" for lane in backlog.lanes if lane.stopped]
    words = {
        "backlog": OK if level == "ok" else f"over the {level} limit: {behind}",
        "lanes": "; ".join(stopped) or OK,
        "relay": _relay_words(backlog, limits) if api.on_kafka else OK,
    }
    return {name: Part(each, needed=False) for name, each in words.items()}


def _relay_words(backlog: Backlog, limits: BacklogLimits) -> str:
    relay = backlog.relay
    if relay is None:
        return "no relay has begun this topic"
    if limits.level(relay.lag_positions, relay.lag_s) == "ok":
        return OK
    return f"{relay.lag_positions} positions and {relay.lag_s:.0f} s behind"


async def get_metrics(api: Api, call: Call) -> Reply:
    """Return the metrics in Prometheus' text format."""
    call.principal.require("read")
    return reply_of(await api.store.run(api.metrics.text), 200, api.metrics.content_type)
