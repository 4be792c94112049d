"""The figures of a demo: rates, latencies, the books, the verdicts, and one hash over all vouchers.

Invariant: `voucher_hash` depends on the vouchers alone (ids, dates, rules, lines), not on the bus,
the order of arrival or the time; so two runs of one day can be compared by it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from psycopg import Connection

from infra.demo.posting import Posted
from infra.http_load import Tally, percentile

SELECT_VOUCHER_LINES = """
    SELECT v.book_id || '/' || v.source_id || '/' || v.ordinal, v.accounting_date::text,
           v.business_type, v.rule_id, v.ruleset_hash, l.line_no, l.side, l.subject, l.currency,
           l.amount_minor, coalesce(l.account, ''), l.off_balance
    FROM vouchers v JOIN voucher_lines l USING (position, ordinal)
    WHERE v.book_id = %s
    ORDER BY v.source_id COLLATE "C", v.ordinal, l.line_no
"""


class Latency(msgspec.Struct, frozen=True):
    """Latencies in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Rates(msgspec.Struct, frozen=True):
    """How fast the day was posted and followed."""

    operations: int
    posted_s: float
    operations_per_s: float
    single_postings: int
    single_per_s: float
    single_latency: Latency
    batch_operations: int
    batches: int
    retries: int
    answer_to_trial_balance: Latency
    last_answer_to_trial_balance_s: float


class Figures(msgspec.Struct, frozen=True):
    """Everything a demo prints, for `--json`."""

    seed: int
    bus: str
    business_date: str
    rates: Rates
    endings: dict[str, int]
    parked_before_repair: dict[str, int]
    repaired: dict[str, int]
    vouchers: int
    voucher_hash: str
    trial_balance: Any
    identity: Any
    audit: Any
    elapsed_s: float
    passed: bool


def latency(seconds: list[float]) -> Latency:
    """Summarise latencies."""
    p50, p99 = percentile(seconds, 50), percentile(seconds, 99)
    return Latency(
        round(p50 * 1e3, 2), round(p99 * 1e3, 2), round(max(seconds, default=0.0) * 1e3, 2)
    )


def rates(posted: Posted, probes: Tally, last_visible_s: float) -> Rates:
    """Summarise posting and following."""
    single, batch = posted.single, posted.batch
    return Rates(
        operations=posted.operations,
        posted_s=round(posted.elapsed_s, 2),
        operations_per_s=round(posted.operations / max(posted.elapsed_s, 1e-9)),
        single_postings=len(single.latencies_s),
        single_per_s=round(single.per_s),
        single_latency=latency(single.latencies_s),
        batch_operations=posted.batch_operations,
        batches=len(batch.latencies_s),
        retries=single.retries + batch.retries,
        answer_to_trial_balance=latency(probes.latencies_s),
        last_answer_to_trial_balance_s=round(last_visible_s, 3),
    )


def select_voucher_hash(conn: Connection[Any], book_id: str) -> tuple[int, str]:
    """Return how many vouchers a book has, and the hash over all of their lines."""
    summed = hashlib.sha256()
    vouchers = 0
    last = ""
    with conn.transaction(), conn.cursor(name="vouchers") as cursor:
        cursor.itersize = 20_000
        for row in cursor.execute(SELECT_VOUCHER_LINES, (book_id,)):
            vouchers += row[0] != last
            last = row[0]
            summed.update("\x1f".join(map(str, row)).encode() + b"\n")
    return vouchers, summed.hexdigest()
