"""A thread of each API process that looks at the backlog and notes it on the gate.

Invariant: the hot path never asks the database; what it sees is at most a look old. A level that
changes is said once in the log, with what to do; a database that cannot be read changes nothing.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import structlog
from psycopg import Connection

from ledger.backlog import BacklogGate, Level
from ledger.errors import LedgerError
from projections.backlog import select_lag
from projections.positions import Freshness

log = structlog.get_logger("infra.backlog")
ADVICE = "look at `daybook status`: are the consumers running, is a lane stopped?"


class BacklogWatch:
    """Looks until stopped; `connect` opens a connection of its own."""

    def __init__(
        self, gate: BacklogGate, connect: Callable[[], Connection[Any]], *, look_s: float
    ) -> None:
        self._gate = gate
        self._connect = connect
        self._look_s = look_s
        self._conn: Connection[Any] | None = None
        self._level: Level = "ok"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backlog", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking and close the connection."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except (psycopg.Error, LedgerError) as error:
                log.debug("backlog_unreadable", error=str(error).strip())
                self.close()
            self._stop.wait(self._look_s)
        self.close()

    def look(self) -> None:
        """Read the lag once and note it."""
        if self._conn is None:
            self._conn = self._connect()
        lag = select_lag(self._conn, dt.datetime.now(dt.UTC))
        level = self._gate.note(lag.lag_operations, lag.lag_s)
        if level != self._level:
            self._say(level, lag)
            self._level = level

    def _say(self, level: Level, lag: Freshness) -> None:
        facts = {"lag_operations": lag.lag_operations, "lag_s": lag.lag_s}
        if level == "hard":
            held_back = sorted(self._gate.types)
            log.error("backlog_over_hard_limit", **facts, held_back=held_back, advice=ADVICE)
        elif level == "soft":
            log.warning("backlog_over_soft_limit", **facts, advice=ADVICE)
        else:
            log.info("backlog_within_limits", **facts)

    def close(self) -> None:
        """Let go of the connection; the next look opens another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None
