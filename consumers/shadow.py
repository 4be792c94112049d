"""The shadow: books made from the log beside the live ones, as far as the live ones are.

It is filled in long stretches by processes beside each other where the log is long, and in log
order by the ordinary handler otherwise. Invariant: after `draw_level` it stands exactly where
the live lanes stand, and holds what they have made of the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from psycopg import Connection, sql

from consumers.bisection import Refusals, write_bisecting
from consumers.log_rows import select_decisions, select_rows_at
from consumers.messages import Booked, Decided, LogRow, lane_of
from consumers.rebuild_rows import LogRows, Rows
from consumers.resolution import perform_order_in_tx, sweep_waiters_in_tx
from consumers.set_aside import read_rows
from consumers.stretch_processes import StretchProcesses, stretches_at, stretches_through
from consumers.stretches import LANE, WRITERS_LOCK, Stretch, select_shadow
from consumers.traces import KEPT_IN
from consumers.vouchers import handle_in_tx, keep_decisions_in_tx, prepare
from projections.bare_tables import (
    LONG_TABLES,
    TakenOff,
    put_back_beside,
    put_back_indexes,
    take_off_indexes,
)
from projections.positions import INSERT_LANE, select_lanes, select_log
from projections.repair_orders import exists_due
from projections.rulesets import PublishedRulesets
from projections.tables import (
    COMPARED,
    COMPARED_SUMS,
    SHADOW_SCHEMA,
    connect_to,
    use_schema,
    write_behind,
)

ROWS_PER_BATCH = 10_000
LEFT_PER_BATCH = 4_000
LOOK_UP = "outcomes_pkey"  # what says how an original stands

CREATE_TABLES = "SELECT ledger.create_projection_tables(%s)"
LOCK_WRITERS = "SELECT pg_advisory_xact_lock(%s)"
# Seen before the log's table by this session alone: the operations that came by the topic.
CREATE_OWN_ROWS = """
    CREATE TEMP TABLE stored_events (
        notification_id bigint PRIMARY KEY, topic text NOT NULL, state bytea NOT NULL
    )
"""
INSERT_OWN_ROWS = """
    INSERT INTO pg_temp.stored_events
    SELECT position, topic, state
    FROM unnest(%s::bigint[], %s::text[], %s::bytea[]) AS came(position, topic, state)
    ON CONFLICT (notification_id) DO NOTHING
"""
BEYOND = " UNION ".join(
    f"SELECT position FROM {table} WHERE position > %(visible)s"  # noqa: S608 - our own tables
    for table in ("outcomes", *KEPT_IN)
)
SELECT_BEYOND = f"{BEYOND} ORDER BY position DESC"
DROP = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE")

Lanes = Sequence[tuple[int, int]]
Progress = Callable[[str, int, int], None]


class Shadow:
    """The shadow schema over one connection. `lanes` says how far each lane's rows are in it.

    `rows` is where they come from (default: the log).
    """

    def __init__(self, conn: Connection[Any], rows: Rows | None = None) -> None:
        self.conn = conn
        self.rows = rows or LogRows(conn)
        self.operations = 0
        self._analyzed = -1  # how many operations the planner knows
        self.lanes: Lanes = [(LANE, 0)]
        self._rulesets = PublishedRulesets()
        with conn.transaction():
            # Processes of a rebuild that was killed end with the stretch they are at.
            conn.execute(LOCK_WRITERS, (WRITERS_LOCK,))
            drop_schema(conn, SHADOW_SCHEMA)
            conn.execute(CREATE_TABLES, (SHADOW_SCHEMA,))
        use_schema(conn, SHADOW_SCHEMA)
        write_behind(conn)
        if not self.rows.is_log:
            conn.execute(CREATE_OWN_ROWS)
        self._place_lanes([(LANE, 0)])

    @property
    def position(self) -> int:
        """Everything up to it is in the shadow."""
        return min(position for _, position in self.lanes)

    def fill_beside(self, processes: StretchProcesses, through: int, progress: Progress) -> None:
        """Fill an empty shadow from the log with processes beside each other."""
        taken: Sequence[TakenOff] = take_off_indexes(self.conn, SHADOW_SCHEMA)
        decided = read_rows(self.conn, select_decisions(self.conn, through))
        with self.conn.transaction():
            keep_decisions_in_tx(self.conn, prepare(self._rulesets, decided).decided)
        processes.begin(select_shadow(self.conn))  # not before: each reads the rulesets once
        done = 0

        def advance(stretch: Stretch) -> None:
            nonlocal done
            done += stretch.through - stretch.after
            progress("filling", done, through)

        posted = processes.post(stretches_through(through, processes.rows_per_stretch), advance)
        self.operations = posted.operations
        left, taken = self._post_left(processes, posted.left, taken, progress)
        progress("indexing", through, through)
        with ThreadPoolExecutor(1) as pool:
            summed = pool.submit(processes.finish)
            put_back_beside(lambda: connect_to(processes.database_url, SHADOW_SCHEMA), taken)
            summed.result()
        self.analyze(but=LONG_TABLES)
        self._analyzed -= len(left)
        self._handle_left(left, progress)
        with self.conn.transaction():
            self._place_lanes([(LANE, through)])
            self._settle_due_in_tx()

    def _post_left(
        self,
        processes: StretchProcesses,
        left: Sequence[int],
        taken: Sequence[TakenOff],
        progress: Progress,
    ) -> tuple[Sequence[int], Sequence[TakenOff]]:
        """Let the processes post what follows what they have written, as long as that helps.

        Return what is left then, and the indexes that are still taken off.
        """
        if not left:
            return left, taken
        progress("what depends", 0, len(left))
        put_back_indexes(self.conn, [each for each in taken if each.name == LOOK_UP])
        taken = [each for each in taken if each.name != LOOK_UP]
        while left:
            still = processes.post(stretches_at(left)).left
            if 2 * len(still) > len(left):
                return still, taken
            left = still
        return left, taken

    def _handle_left(self, left: Sequence[int], progress: Progress) -> None:
        """Give the ordinary handler what the processes have left."""
        operations = self.operations
        for first in range(0, len(left), LEFT_PER_BATCH):
            progress("what waits", first, len(left))
            positions = left[first : first + LEFT_PER_BATCH]
            self._handle(select_rows_at(self.conn, positions), 0)
        self.operations = operations

    def fill(self, through: int, progress: Progress) -> None:
        """Handle everything up to a position, in log order."""
        while self.position < through:
            until = min(through, self.position + ROWS_PER_BATCH)
            self._handle(self.rows.published(self.position, until), until)
            self.lanes = [(LANE, until)]
            self.rows.forget(until)
            progress("filling", until, through)

    def draw_level(self, lanes: Lanes) -> None:
        """Handle what each lane has handled beyond this shadow: (lane, its position)."""
        before, now = dict(self.lanes), dict(lanes)
        visible, end = min(now.values()), max(now.values())
        start = self.position
        while start < end:
            until = min(end, start + ROWS_PER_BATCH)
            rows = [
                row
                for row in self.rows.published(start, until)
                if was_handled(row, now) and not was_handled(row, before)
            ]
            self._handle(rows, min(until, visible))
            start = until
        self.rows.forget(visible)
        with self.conn.transaction():
            self._place_lanes(lanes)
            self._settle_due_in_tx()

    def analyze(self, but: Collection[str] = ()) -> None:
        """Let the planner know the books before anybody reads them; again after a tenth more.

        `but` are tables that it has just been told about.
        """
        if self.operations - self._analyzed <= self._analyzed // 10:
            return
        self._analyzed = self.operations
        for table in (each for each in (*COMPARED, *COMPARED_SUMS) if each not in but):
            place = sql.Identifier(SHADOW_SCHEMA, table)
            self.conn.execute(sql.SQL("ANALYZE {}").format(place))

    def _place_lanes(self, lanes: Lanes) -> None:
        log = select_log(self.conn)
        self.conn.execute("DELETE FROM positions")
        for lane, position in lanes:
            self.conn.execute(INSERT_LANE, (lane, log.log_id, log.incarnation, position, 0))
        self.lanes = list(lanes)

    def _handle(self, rows: list[LogRow], reach: int) -> None:
        """Handle rows; the shadow's position goes to `reach`, never beyond."""
        messages = read_rows(self.conn, rows)
        if rows and not self.rows.is_log:
            columns = zip(
                *((row.position, row.topic, bytes(row.state)) for row in rows), strict=True
            )
            self.conn.execute(INSERT_OWN_ROWS, [list(column) for column in columns])

        def write_in_one(
            part: Sequence[Booked | Decided], until: int, refusals: Refusals | None
        ) -> None:
            batch = prepare(self._rulesets, part, refusals)
            with self.conn.transaction():
                handle_in_tx(self.conn, self._rulesets, batch, LANE)
                self.conn.execute("UPDATE positions SET position = %s", (min(until, reach),))
                self._settle_due_in_tx()

        write_bisecting(write_in_one, messages, reach)
        self.operations += sum(isinstance(message, Booked) for message in messages)

    def _settle_due_in_tx(self) -> None:
        while exists_due(self.conn):
            perform_order_in_tx(self.conn, self._rulesets, LANE)
        sweep_waiters_in_tx(self.conn, self._rulesets, LANE)


def was_handled(row: LogRow, reached: dict[int, int]) -> bool:
    """Tell whether lanes that stand there have handled a row; a decision comes by each lane."""
    lane = lane_of(row, len(reached))
    return row.position <= (max(reached.values()) if lane is None else reached[lane])


def furthest_ahead(conn: Connection[Any]) -> int | None:
    """Find the last operation or decision that the books hold and their lanes have not reached.

    Lanes of another number start where the one behind stood; what the ones ahead had handled
    stays in the books. None when all is as the lanes say, as it nearly always is.
    """
    reached = {lane.lane: lane.position for lane in select_lanes(conn)}
    visible = min(reached.values())
    positions = [row[0] for row in conn.execute(SELECT_BEYOND, {"visible": visible})]
    for first in range(0, len(positions), ROWS_PER_BATCH):
        for row in reversed(select_rows_at(conn, positions[first : first + ROWS_PER_BATCH])):
            if not was_handled(row, reached):
                return row.position
    return None


def drop_schema(conn: Connection[Any], schema: str) -> None:
    """Drop a schema with what is in it, if it is there."""
    conn.execute(DROP.format(sql.Identifier(schema)))
