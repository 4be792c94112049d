"""Rebuild: the books made again from the log, by the same handlers, beside the live ones.

A shadow is filled while posting goes on. The lanes stop twice, for as long as it takes to draw
the shadow level with them: once for a snapshot in which both books are compared row for row,
once for the swap, which renames and raises the incarnation in one transaction. Invariant: a
kill at any step leaves the live books untouched; a rebuild sends no results of its own; the
old books stay until they are dropped by command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
from psycopg import Connection, IsolationLevel, errors, sql

from consumers.comparison import RowDifference, first_difference
from consumers.consumer import DeliverInTx, never
from consumers.posting import results_of
from consumers.rebuild_rows import RebuildRefused, Rows, Topic
from consumers.resolution import perform_order_in_tx, sweep_waiters_in_tx
from consumers.shadow import Progress, Shadow, drop_schema, furthest_ahead
from consumers.stretch_processes import ROWS_PER_STRETCH, StretchProcesses, processes_default
from ledger.errors import InvalidRequest, NotFound
from ledger.statuses import apply_results_in_tx
from projections.outcomes import Outcome
from projections.positions import LOCK_LANES, select_lanes, select_visible
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
BESIDE_FROM_ROWS = 50_000
NEAR_ROWS = 5_000
OLD_PREFIX = "projections_old_"
TABLE_LOCK_MS = 500  # less than the server's deadlock_timeout: it is the rebuild that yields
TABLE_LOCK_TRIES = 60
SWAPPABLE = tuple(table for table in (*COMPARED, *COMPARED_SUMS) if table != "positions")

TRY_LOCK = "SELECT pg_try_advisory_lock(%s)"
SELECT_LOCKER = """
    SELECT l.pid, extract(epoch FROM clock_timestamp() - a.backend_start)::bigint
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""
SELECT_OLD = r"""
    SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname LIKE 'projections\_old\_%'
    ORDER BY length(nspname), nspname
"""
AHEAD = (
    "the lanes are others than before, and the live books hold what these have not come to: "
    "run it again when the consumers have passed position {} (`daybook status`), "
    "or with --no-compare"
)
SELECT_TABLES = (
    "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'"
)
RAISE_INCARNATION = "UPDATE positions SET incarnation = incarnation + 1"


class RebuildReport(msgspec.Struct, frozen=True):
    """What a rebuild did. `kept_schema` holds the old books until they are dropped.

    `fill_seconds` is what making the books took, and gives the rate; `seconds` also comparing
    and swapping.
    """

    operations: int
    position: int
    seconds: float
    fill_seconds: float
    operations_per_s: float
    compared: bool
    swapped: bool
    tables: tuple[str, ...]
    kept_schema: str | None
    difference: RowDifference | None


class KeptBooks(msgspec.Struct, frozen=True):
    """Books that a swap has kept; `tables` are all of them, or those that were swapped."""

    schema: str
    tables: tuple[str, ...]
    size_bytes: int


def rebuild(
    database_url: str,
    *,
    compare: bool = True,
    swap: bool = True,
    only: Collection[str] = (),
    processes: int | None = None,
    rows_per_stretch: int = ROWS_PER_STRETCH,
    topic: Topic | None = None,
    deliver_in_tx: DeliverInTx = apply_results_in_tx,
    progress: Progress = lambda _step, _done, _total: None,
    failpoint: Callable[[str], None] = never,
) -> RebuildReport:
    """Rebuild the books beside the live ones; compare row for row; swap all tables, or `only` some.

    Raises RebuildRefused when another rebuild runs, or there is nothing to compare with. A
    difference prevents the swap and is reported, unless `compare` is off. `progress` is told the
    step, positions done and to do. `processes` fill a long log beside each other (default: by the
    processors; 0: none), in stretches of `rows_per_stretch`.
    `topic` gives the rows instead of the log; refused when it has lost its beginning.
    """
    named = _named(only)
    began = time.monotonic()
    with ExitStack() as stack:
        live, conn = (stack.enter_context(connect_to(database_url)) for _ in range(2))
        _lock_out_others(live)
        rows = _rows_of(stack, live, topic)
        visible = select_visible(live)
        count = 0 if topic is not None else _processes_for(visible, processes)
        with ExitStack() as filling:
            # First of all: they are imported while the shadow is made.
            beside = StretchProcesses(database_url, count, rows_per_stretch=rows_per_stretch)
            if count:
                filling.enter_context(beside)
            shadow = Shadow(conn, rows)
            if count:
                shadow.fill_beside(beside, visible, progress)
        for visible in _nearer(shadow, lambda: select_visible(live)):
            shadow.fill(visible, progress)
        shadow.analyze()
        filled = time.monotonic()
        failpoint("filled")
        rebuilding = _Rebuilding(live, shadow, named, deliver_in_tx, failpoint)
        difference = None
        if compare:
            progress("comparing", shadow.position, shadow.position)
            difference = rebuilding.compare(database_url)
        kept = rebuilding.swap() if swap and difference is None else None
        failpoint("swapped")
        drop_schema(live, SHADOW_SCHEMA)
    return RebuildReport(
        operations=shadow.operations,
        position=shadow.position,
        seconds=time.monotonic() - began,
        fill_seconds=filled - began,
        operations_per_s=round(shadow.operations / (filled - began), 1),
        compared=compare,
        swapped=kept is not None,
        tables=tuple(named) or SWAPPABLE,
        kept_schema=kept,
        difference=difference,
    )


class _Rebuilding:
    """A filled shadow beside the live books; tables named in `only` are swapped, or all."""

    def __init__(
        self,
        conn: Connection[Any],
        shadow: Shadow,
        only: Collection[str],
        deliver_in_tx: DeliverInTx,
        failpoint: Callable[[str], None],
    ) -> None:
        self.conn = conn
        self.shadow = shadow
        self.only = only
        self.deliver_in_tx = deliver_in_tx
        self.failpoint = failpoint

    def compare(self, database_url: str) -> RowDifference | None:
        """Compare in one snapshot in which both books stand at the same point."""
        with connect_to(database_url) as reader:
            reader.isolation_level = IsolationLevel.REPEATABLE_READ
            reader.read_only = True
            with reader.transaction():
                while not self._draw_level_and(lambda: reader.execute("SELECT 1")):
                    pass
                self.failpoint("level")
                difference = first_difference(reader, LIVE_SCHEMA, SHADOW_SCHEMA, tables=self.only)
                ahead = difference and furthest_ahead(reader)
        if ahead:
            raise RebuildRefused(AHEAD.format(ahead))
        self.failpoint("compared")
        return difference

    def swap(self) -> str:
        """Put the shadow in the place of the live books; return where the old ones are kept.

        What was handled while the books were compared is followed first, as the lanes go on.
        """
        for _ in range(TABLE_LOCK_TRIES):
            for _visible in _nearer(self.shadow, lambda: select_visible(self.conn)):
                lanes = select_lanes(self.conn)
                self.shadow.draw_level([(lane.lane, lane.position) for lane in lanes])
            self._come_near()
            try:
                with self.conn.transaction():
                    return self._swap_in_tx()
            except errors.LockNotAvailable:
                time.sleep(TABLE_LOCK_MS / 1000)
        raise RebuildRefused("somebody holds the tables that are to be swapped")

    def _draw_level_and(self, then: Callable[[], object]) -> bool:
        """Stop the lanes, draw level, do something; False if something was due in between."""
        self._come_near()
        with self.conn.transaction():
            rows = self.conn.execute(LOCK_LANES).fetchall()
            if self._finish_due_in_tx(rows[0][0]):
                return False  # what it changed can be seen by others once it is committed
            self.shadow.draw_level([(lane, position) for lane, position, _ in rows])
            then()
        return True

    def _swap_in_tx(self) -> str:
        rows = self.conn.execute(LOCK_LANES).fetchall()
        self._finish_due_in_tx(rows[0][0])
        self.shadow.draw_level([(lane, position) for lane, position, _ in rows])
        self.failpoint("drained")
        incarnation = max(row[2] for row in rows)
        name = _free_name(self.conn, incarnation)
        kept = sql.Identifier(name)
        self.conn.execute(RAISE_INCARNATION)
        if self.only:
            self._swap_tables_in_tx(kept)
        else:
            self._swap_schemas_in_tx(kept, incarnation)
        self.failpoint("renamed")
        return name

    def _swap_schemas_in_tx(self, kept: sql.Identifier, incarnation: int) -> None:
        live, shadow = sql.Identifier(LIVE_SCHEMA), sql.Identifier(SHADOW_SCHEMA)
        follow = sql.SQL("UPDATE {}.positions SET incarnation = %s").format(shadow)
        self.conn.execute(follow, (incarnation + 1,))
        for old, new in ((live, kept), (shadow, live)):
            self.conn.execute(sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(old, new))

    def _swap_tables_in_tx(self, kept: sql.Identifier) -> None:
        """Move the named tables, with their indexes and triggers, between the schemas."""
        self.conn.execute(f"SET LOCAL lock_timeout = {TABLE_LOCK_MS}")
        self.conn.execute(sql.SQL("CREATE SCHEMA {}").format(kept))
        live, shadow = sql.Identifier(LIVE_SCHEMA), sql.Identifier(SHADOW_SCHEMA)
        for table in self.only:
            for old, new in ((live, kept), (shadow, live)):
                move = sql.SQL("ALTER TABLE {}.{} SET SCHEMA {}")
                self.conn.execute(move.format(old, sql.Identifier(table), new))

    def _come_near(self) -> None:
        """Number what was cut meanwhile, on both sides, before the lanes are stopped for long."""
        while exists_due(self.conn):
            rulesets = PublishedRulesets()
            load_rulesets(self.conn, rulesets)
            with self.conn.transaction():
                lane = self.conn.execute(LOCK_LANES).fetchall()[0][0]
                outcomes = perform_order_in_tx(self.conn, rulesets, lane)
                if outcomes:
                    self.deliver_in_tx(self.conn, results_of(outcomes))
            if outcomes is None:
                time.sleep(TABLE_LOCK_MS / 1000)
        lanes = select_lanes(self.conn)
        self.shadow.draw_level([(lane.lane, lane.position) for lane in lanes])

    def _finish_due_in_tx(self, lane: int) -> bool:
        """Do what the live consumers would do next, so that both sides stand at one point."""
        rulesets = PublishedRulesets()
        load_rulesets(self.conn, rulesets)
        changed: list[Outcome] = []
        performed = False
        while exists_due(self.conn):
            outcomes = perform_order_in_tx(self.conn, rulesets, lane)
            if outcomes is None:
                break  # somebody takes numbers back
            changed += outcomes
            performed = True
        changed += sweep_waiters_in_tx(self.conn, rulesets, lane)
        if changed:
            self.deliver_in_tx(self.conn, results_of(changed))
        return performed or bool(changed)


def _nearer(shadow: Shadow, visible: Callable[[], int]) -> Iterator[int]:
    """Give visible positions to follow, until one is near or the distance does not shrink."""
    last = None
    while (distance := (goal := visible()) - shadow.position) > NEAR_ROWS:
        if last is not None and distance >= last:
            return
        last = distance
        yield goal


# --- what swaps have kept -------------------------------------------------------------------


def _free_name(conn: Connection[Any], incarnation: int) -> str:
    """Name what a swap keeps by its incarnation; later than all that is kept.

    Books that were made anew from nothing begin to count again, beside what was kept before.
    """
    taken = (name.removeprefix(OLD_PREFIX) for name in select_old_schemas(conn))
    numbers = [int(number) + 1 for number in taken if number.isdecimal()]
    return f"{OLD_PREFIX}{max(incarnation, *numbers, 0)}"


def select_old_schemas(conn: Connection[Any]) -> list[str]:
    """List the books that swaps have kept, oldest first."""
    return [row[0] for row in conn.execute(SELECT_OLD)]


def select_kept_books(conn: Connection[Any]) -> list[KeptBooks]:
    """List the books that swaps have kept, with their tables and what they take on disk."""
    return [
        KeptBooks(schema, tuple(sorted(sizes)), sum(sizes.values()))
        for schema in select_old_schemas(conn)
        for sizes in (_sizes(conn, schema),)
    ]


def drop_old_schemas(conn: Connection[Any], names: Sequence[str] = ()) -> list[str]:
    """Drop the named books that swaps have kept (default: all); return their names.

    Raises NotFound for a name that is no kept one. What a killed rebuild has left goes too.
    """
    kept = select_old_schemas(conn)
    for name in names:
        _refuse_unknown(name, kept)
    dropped = [name for name in kept if not names or name in names]
    for name in dropped:
        drop_schema(conn, name)
    locked = conn.execute(TRY_LOCK, (REBUILD_LOCK,)).fetchone()
    if locked is not None and locked[0]:
        drop_schema(conn, SHADOW_SCHEMA)
        conn.execute("SELECT pg_advisory_unlock(%s)", (REBUILD_LOCK,))
    return dropped


def compare_with_kept(conn: Connection[Any], schema: str) -> RowDifference | None:
    """Compare the live books with kept ones, as far as those had come; raises NotFound.

    What is decided later is left out, and so are sums, which are of the present. Tables that
    were not swapped are the same ones.
    """
    _refuse_unknown(schema, select_old_schemas(conn))
    tables = set(_sizes(conn, schema))
    if "positions" not in tables:
        words = ",".join(sorted(tables))
        raise InvalidRequest(
            f"{schema} holds some tables only, which do not say how far they are; to compare the "
            f"live ones with the log: daybook rebuild compare --only {words}"
        )
    row = conn.execute(
        sql.SQL("SELECT min(position) FROM {}.positions").format(sql.Identifier(schema))
    ).fetchone()
    through = row[0] if row and row[0] is not None else 0
    return first_difference(conn, LIVE_SCHEMA, schema, through=through)


def _sizes(conn: Connection[Any], schema: str) -> dict[str, int]:
    rows = conn.execute(SELECT_TABLES, (schema,)).fetchall()
    return {
        table: conn.execute(
            "SELECT pg_total_relation_size(format('%%I.%%I', %s::text, %s::text)::regclass)",
            (schema, table),
        ).fetchone()[0]  # type: ignore[index]
        for (table,) in rows
    }


def _refuse_unknown(name: str, kept: Sequence[str]) -> None:
    if name not in kept:
        raise NotFound(f"no kept books {name}: there are {', '.join(kept) or 'none'}")


def _processes_for(visible: int, wanted: int | None) -> int:
    """Say how many processes fill a log of this length; 0: the ordinary handler alone does."""
    if wanted is None:
        return processes_default() if visible >= BESIDE_FROM_ROWS else 0
    return wanted if visible > 0 else 0


def _rows_of(stack: ExitStack, live: Connection[Any], topic: Topic | None) -> Rows | None:
    if topic is None:
        return None
    found = topic.open(live)
    stack.callback(found.close)
    return found


def _named(only: Collection[str]) -> list[str]:
    unknown = sorted(set(only) - set(SWAPPABLE))
    if unknown:
        known = ", ".join(SWAPPABLE)
        raise InvalidRequest(f"no table {', '.join(unknown)} to rebuild: {known}")
    return [table for table in SWAPPABLE if table in only]


def _lock_out_others(live: Connection[Any]) -> None:
    locked = live.execute(TRY_LOCK, (REBUILD_LOCK,)).fetchone()
    if locked is None or not locked[0]:
        row = live.execute(SELECT_LOCKER, (REBUILD_LOCK,)).fetchone()
        by = "" if row is None else f" (server process {row[0]}, for {row[1]} s)"
        words = "wait for it; one that was killed ends with its statement"
        raise RebuildRefused(f"another rebuild is running{by}: {words}")
    if not select_lanes(live):
        raise RebuildRefused("no consumer has followed the log yet: there are no books to rebuild")
