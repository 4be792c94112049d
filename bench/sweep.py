"""How fast completeness is proved: every operation of a long log against outcomes and vouchers.

A log that the engine wrote and a consumer posted is multiplied by SQL (positions moved, ids
changed), because to post a million operations would take longer than to sweep them many times;
what is swept has the product's rows, sizes and indexes.
"""

from __future__ import annotations

import time
from typing import Any

from psycopg import Connection

from bench.documents import Documents
from bench.in_process import engine_s
from bench.place import Run, catch_up, engine_on, parser, scalar
from bench.sheet import Aim
from consumers.sweeps import Sweeper
from projections.positions import select_head
from projections.tables import connect_to

SWEEP = "Completeness sweep (half recharges with a fee, half transfers)"
SECONDS, RATE = "seconds", "operations/s"
COMPARED = "sweep: log, outcomes, vouchers, results"
READ = "the log's operations read by the database alone"
OPERATION = "topic = 'ledger.recorded:OperationBooked'"
ID_AT = len('{"book_id":"main","operation_id":"') + 33  # the last four of 36
MARK = "'x' || lpad(%(copy)s::text, 3, '0')"
STATE = f"overlay(state placing convert_to({MARK}, 'UTF8') from {ID_AT})"
NAME = f"overlay({{}} placing {MARK} from 33)"
STREAM = "md5({}::text || %(copy)s)::uuid"
COPIES = (
    f"""INSERT INTO ledger.stored_events
        (originator_id, originator_version, topic, state, notification_id, digest)
        SELECT {STREAM.format("originator_id")}, originator_version, topic,
               CASE WHEN {OPERATION} THEN {STATE} ELSE state END,
               notification_id + %(by)s, digest
        FROM ledger.stored_events
        WHERE notification_id > %(after)s AND notification_id <= %(to)s""",
    f"""INSERT INTO outcomes (book_id, operation_id, position, business_type, business_date, status,
            rule_id, ruleset_position, attempt_position, amounts)
        SELECT book_id, {NAME.format("operation_id")}, position + %(by)s, business_type,
               business_date, status, rule_id, ruleset_position, attempt_position + %(by)s, amounts
        FROM outcomes WHERE position > %(after)s AND position <= %(to)s""",
    f"""INSERT INTO vouchers (position, ordinal, book_id, source_id, accounting_date, business_type,
            rule_id, ruleset_hash)
        SELECT position + %(by)s, ordinal, book_id, {NAME.format("source_id")}, accounting_date,
               business_type, rule_id, ruleset_hash
        FROM vouchers WHERE position > %(after)s AND position <= %(to)s""",
    """INSERT INTO voucher_lines (position, ordinal, line_no, side, subject, currency, amount_minor,
            account, off_balance)
        SELECT position + %(by)s, ordinal, line_no, side, subject, currency, amount_minor, account,
               off_balance
        FROM voucher_lines WHERE position > %(after)s AND position <= %(to)s""",
    f"""INSERT INTO ledger.accounting_statuses
            (stream_id, book_id, operation_id, status, reason, revision)
        SELECT {STREAM.format("s.stream_id")}, book_id, {NAME.format("operation_id")}, s.status,
               s.reason, revision + 4 * %(by)s
        FROM ledger.accounting_statuses s JOIN outcomes o USING (book_id, operation_id)
        WHERE o.position > %(after)s AND o.position <= %(to)s""",
    "UPDATE positions SET position = %(to)s + %(by)s",
)


def run(run: Run) -> None:
    """Sweep the same long log once a round; beside it, the log is only read."""
    url = _long_log(run)
    with connect_to(url) as conn, connect_to(url) as beside:
        conn.execute("VACUUM (ANALYZE)")
        for _ in range(run.scale.rounds):
            started = time.perf_counter()
            swept = Sweeper(conn, deliver_in_tx=None, beside=beside).by_command()
            _add(run, COMPARED, swept.operations, time.perf_counter() - started)
            if swept.found or swept.waiting or swept.results_lost:
                raise RuntimeError(f"the benchmark's books differ: {swept.differences[:3]}")
            started = time.perf_counter()
            scalar(conn, f"SELECT sum(length(state)) FROM ledger.stored_events WHERE {OPERATION}")
            _add(run, READ, swept.operations, time.perf_counter() - started)
    run.sheet.aim(
        Aim("1,000,000 operations in 20 s", SWEEP, COMPARED, RATE, at_least=1_000_000 / 20)
    )


def _long_log(run: Run) -> str:
    """Post a part, and multiply it until the log has as many operations as the scale says."""
    url = run.place.caught_up_database("sweep")
    with connect_to(url) as conn:
        after = select_head(conn)
    count = run.scale.drain_operations
    with engine_on(url) as engine:
        documents = Documents(seed=7_000)
        engine_s(engine, parser(), documents.recharges_with_fee(count // 2), 1_000)
        engine_s(engine, parser(), documents.transfers(count // 2), 1_000)
    catch_up(url)
    with connect_to(url) as conn:
        _multiply(conn, after, run.scale.sweep_operations // count)
    return url


def _multiply(conn: Connection[Any], after: int, times: int) -> None:
    to = select_head(conn)
    for copy in range(1, times):
        span = {"after": after, "to": to, "by": (to - after) * copy, "copy": copy}
        with conn.transaction():
            for statement in COPIES:
                conn.execute(statement.encode(), span)


def _add(run: Run, subject: str, operations: int, seconds: float) -> None:
    values = {"operations": operations, SECONDS: seconds, RATE: operations / seconds}
    run.sheet.add(SWEEP, subject, values)
