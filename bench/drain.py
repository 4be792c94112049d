"""How long a backlog takes: many operations booked while nobody consumes, then one consumer.

The engine books them in this process at its largest batches, then `daybook consume` starts on the
log bus; the clock runs from its first commit to its last. Each time on a fresh database.
"""

from __future__ import annotations

from bench.books import Drain, daybook_process, wait_until_visible
from bench.documents import Documents, batches
from bench.place import BOOK, PRINCIPAL, Run, engine_on, parser, post
from bench.scale import ROUNDS_LEAST
from projections.positions import select_head, select_visible
from projections.tables import connect_to

DRAIN = "Draining a backlog (recharge with a fee, four lines each; log bus, one consumer)"
BATCH = 8_000


def run(run: Run) -> None:
    """Book a backlog, then drain it."""
    for _ in range(ROUNDS_LEAST):
        _drain(run, run.place.caught_up_database("backlog"), run.scale.backlog_operations)


def _drain(run: Run, url: str, count: int) -> None:
    with connect_to(url) as watcher:
        before = select_visible(watcher)
        _book(url, count)
        head = select_head(watcher)
        with daybook_process(run, "consumer", "consume", url, {}) as consumer:
            wait_until_visible(watcher, before + 1)
            drain = Drain(consumer)
            left = count * (head - select_visible(watcher)) / (head - before)
            wait_until_visible(watcher, head)
            seconds, figures = drain.figures(left)
    run.sheet.add(DRAIN, f"{count:,} operations", {"seconds": seconds * count / left, **figures})


def _book(url: str, count: int) -> None:
    reads = parser()
    with engine_on(url) as engine:
        for part in batches(Documents(seed=6_000).recharges_with_fee(count), BATCH):
            post(engine, [reads.operation(raw, None, BOOK, PRINCIPAL) for raw in part])
