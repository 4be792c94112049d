"""Rebuild: the books made again from the log, by the same handlers, beside the live ones.

A shadow schema is filled while posting goes on. The swap locks the live position rows,
drains the shadow to exactly them, compares if asked, renames and raises the incarnation, in
one transaction. Invariant: a kill at any step leaves the live books untouched; a rebuild
sends no results; the old books stay until they are dropped by command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from psycopg import Connection, sql

from consumers.bisection import Refusals, write_bisecting
from consumers.comparison import RowDifference, first_difference
from consumers.consumer import DeliverInTx, never
from consumers.log_rows import select_published
from consumers.messages import Booked, Decided, LogRow, lane_of
from consumers.posting import results_of
from consumers.resolution import perform_order_in_tx, sweep_waiters_in_tx
from consumers.set_aside import read_rows
from consumers.vouchers import handle_in_tx, prepare
from ledger.errors import LedgerError
from ledger.statuses import apply_results_in_tx
from projections.positions import INSERT_LANE, LOCK_LANES, select_log, select_visible
from projections.repair_orders import exists_due
from projections.rulesets import PublishedRulesets, load_rulesets
from projections.tables import (
    COMPARED,
    COMPARED_SUMS,
    LIVE_SCHEMA,
    SHADOW_SCHEMA,
    connect_to,
)

REBUILD_LOCK = 1_145_393_477
ROWS_PER_BATCH = 10_000
NEAR_ROWS = 5_000
OLD_PREFIX = "projections_old_"

TRY_LOCK = "SELECT pg_try_advisory_lock(%s)"
CREATE_TABLES = "SELECT ledger.create_projection_tables(%s)"
SELECT_LANES = "SELECT lane, position, incarnation FROM {}.positions ORDER BY lane"
SELECT_OLD = r"""
    SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname LIKE 'projections\_old\_%'
    ORDER BY nspname
"""
RAISE_INCARNATION = "UPDATE positions SET incarnation = incarnation + 1"

Progress = Callable[[int, int], None]


class RebuildRefused(LedgerError):
    """Another rebuild runs, or the rebuilt books differ from the live ones."""

    code = "rebuild_refused"


class RebuildReport(msgspec.Struct, frozen=True):
    """What a rebuild did. `kept_schema` holds the old books until they are dropped."""

    operations: int
    position: int
    seconds: float
    swapped: bool
    kept_schema: str | None
    difference: RowDifference | None

    @property
    def operations_per_s(self) -> float:
        """Give the rate."""
        return self.operations / self.seconds if self.seconds else 0.0


def rebuild(
    database_url: str,
    *,
    compare: bool = True,
    swap: bool = True,
    deliver_in_tx: DeliverInTx = apply_results_in_tx,
    progress: Progress = lambda _done, _total: None,
    failpoint: Callable[[str], None] = never,
) -> RebuildReport:
    """Rebuild all books beside the live ones; compare row for row; swap.

    Raises RebuildRefused when another rebuild runs. A difference prevents the swap and is
    reported, unless `compare` is off. `progress` is told positions done and to do.
    """
    began = time.monotonic()
    with connect_to(database_url) as live, connect_to(database_url) as shadow:
        locked = live.execute(TRY_LOCK, (REBUILD_LOCK,)).fetchone()
        if locked is None or not locked[0]:
            raise RebuildRefused("another rebuild is running")
        filler = _Filler(shadow)
        while True:
            visible = select_visible(live)
            if visible - filler.position <= NEAR_ROWS:
                break
            filler.fill(visible, progress)
        for table in (*COMPARED, *COMPARED_SUMS):
            shadow.execute(sql.SQL("ANALYZE {}").format(_name(table)))
        failpoint("filled")
        difference, kept = _swap(live, filler, compare, swap, deliver_in_tx, failpoint)
        if difference is not None or not swap:
            shadow.execute(_drop(SHADOW_SCHEMA))
    seconds = time.monotonic() - began
    return RebuildReport(
        filler.operations, filler.position, seconds, kept is not None, kept, difference
    )


def select_old_schemas(conn: Connection[Any]) -> list[str]:
    """List the books that swaps have kept."""
    return [row[0] for row in conn.execute(SELECT_OLD)]


def drop_old_schemas(conn: Connection[Any]) -> list[str]:
    """Drop the books that swaps have kept; return their names."""
    names = select_old_schemas(conn)
    for name in names:
        conn.execute(_drop(name))
    return names


class _Filler:
    """Fills the shadow schema from the log, in log order, as one lane that has no bus."""

    def __init__(self, conn: Connection[Any]) -> None:
        self.conn = conn
        self.position = 0
        self.operations = 0
        self.rulesets = PublishedRulesets()
        with conn.transaction():
            conn.execute(_drop(SHADOW_SCHEMA))
            conn.execute(CREATE_TABLES, (SHADOW_SCHEMA,))
            conn.execute(sql.SQL("SET search_path = {}, ledger").format(_name(SHADOW_SCHEMA)))
            log = select_log(conn)
            conn.execute(INSERT_LANE, (0, log.log_id, log.incarnation, 0, 0))

    def fill(self, through: int, progress: Progress) -> None:
        """Handle everything up to a position."""
        while self.position < through:
            until = min(through, self.position + ROWS_PER_BATCH)
            self._handle(select_published(self.conn, self.position, until), until)
            progress(until, through)

    def drain(self, lanes: list[tuple[int, int]]) -> None:
        """Handle what each lane has handled beyond the position: (lane, its position)."""
        reached = dict(lanes)
        end = max(reached.values())
        while self.position < end:
            until = min(end, self.position + ROWS_PER_BATCH)
            rows = [
                row
                for row in select_published(self.conn, self.position, until)
                if _was_handled(row, reached)
            ]
            self._handle(rows, until)
        with self.conn.transaction():
            self.conn.execute("DELETE FROM positions")
            log = select_log(self.conn)
            for lane, position in lanes:
                self.conn.execute(INSERT_LANE, (lane, log.log_id, log.incarnation, position, 0))
            self._settle_due_in_tx()

    def _handle(self, rows: list[LogRow], until: int) -> None:
        messages = read_rows(self.conn, rows)
        write_bisecting(self._write_in_one, messages, until)
        self.position = until
        self.operations += sum(isinstance(message, Booked) for message in messages)

    def _write_in_one(
        self, messages: Sequence[Booked | Decided], until: int, refusals: Refusals | None
    ) -> None:
        batch = prepare(self.rulesets, messages, refusals)
        with self.conn.transaction():
            handle_in_tx(self.conn, self.rulesets, batch, 0)
            self.conn.execute("UPDATE positions SET position = %s", (until,))
            self._settle_due_in_tx()

    def _settle_due_in_tx(self) -> None:
        while exists_due(self.conn):
            perform_order_in_tx(self.conn, self.rulesets, 0)
        sweep_waiters_in_tx(self.conn, self.rulesets, 0)


def _swap(
    live: Connection[Any],
    filler: _Filler,
    compare: bool,
    swap: bool,
    deliver_in_tx: DeliverInTx,
    failpoint: Callable[[str], None],
) -> tuple[RowDifference | None, str | None]:
    """Stop the lanes, drain to them, compare, rename: one transaction of the live books."""
    with live.transaction():
        rows = live.execute(LOCK_LANES).fetchall()
        _finish_due_in_tx(live, rows[0][0], deliver_in_tx)
        filler.drain([(lane, position) for lane, position, _ in rows])
        failpoint("drained")
        difference = first_difference(live, LIVE_SCHEMA, SHADOW_SCHEMA) if compare else None
        if difference is not None or not swap:
            return difference, None
        incarnation = max(row[2] for row in rows)
        kept = f"{OLD_PREFIX}{incarnation}"
        live.execute(RAISE_INCARNATION)
        shadow_positions = sql.SQL("UPDATE {}.positions SET incarnation = %s")
        live.execute(shadow_positions.format(_name(SHADOW_SCHEMA)), (incarnation + 1,))
        for old, new in ((LIVE_SCHEMA, kept), (SHADOW_SCHEMA, LIVE_SCHEMA)):
            rename = sql.SQL("ALTER SCHEMA {} RENAME TO {}")
            live.execute(rename.format(_name(old), _name(new)))
        failpoint("renamed")
    return None, kept


def _finish_due_in_tx(live: Connection[Any], lane: int, deliver_in_tx: DeliverInTx) -> None:
    """Do what the live consumers would do next, so that both sides stand at the same point."""
    rulesets = PublishedRulesets()
    load_rulesets(live, rulesets)
    changed = []
    while exists_due(live):
        changed += perform_order_in_tx(live, rulesets, lane) or []
    changed += sweep_waiters_in_tx(live, rulesets, lane)
    if changed:
        deliver_in_tx(live, results_of(changed))


def _was_handled(row: LogRow, reached: dict[int, int]) -> bool:
    lane = lane_of(row, len(reached))
    return row.position <= (max(reached.values()) if lane is None else reached[lane])


def _drop(schema: str) -> sql.Composed:
    return sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(_name(schema))


def _name(schema: str) -> sql.Identifier:
    return sql.Identifier(schema)
