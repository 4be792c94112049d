"""How much of everything a run does: the full run, and the quick one of under three minutes."""

from __future__ import annotations

from dataclasses import dataclass

ACCOUNTS = 10_000
BATCH_SIZES = (1, 100, 1_000, 8_000)
HTTP_BATCH_SIZES = (100, 1_000, 8_000)
LARGE_EVENTS = 100_000_000
ROUNDS_LEAST = 3  # of what takes minutes each time


@dataclass(frozen=True)
class Scale:
    """Sizes of one run; `rounds` is how often every figure is taken."""

    name: str
    rounds: int
    operations_by_batch_size: dict[int, int]
    textbook_s: float
    aggregate_transfers: int
    callers: tuple[int, ...]
    postings_by_callers: dict[int, int]
    http_batch_operations: dict[int, int]
    mix_postings: int
    sale_payments: int
    drain_operations: int
    sweep_operations: int
    visible_probes: int
    visible_postings: int
    backlog_operations: int
    durable_commits: int
    import_rows: int
    overload_s: float
    overload_probe: int
    everything_s: float
    size_events: tuple[int, ...]
    size_block: int
    size_operations: int
    size_postings: int
    size_look_ups: int


QUICK = Scale(
    name="quick",
    rounds=3,
    operations_by_batch_size={1: 100, 100: 1_000, 1_000: 8_000, 8_000: 16_000},
    textbook_s=0.5,
    aggregate_transfers=100,
    callers=(1, 32, 64),
    postings_by_callers={1: 200, 8: 1_000, 32: 2_000, 64: 2_000},
    http_batch_operations={100: 800, 1_000: 2_000, 8_000: 8_000},
    mix_postings=1_200,
    sale_payments=3_400,
    drain_operations=6_000,
    sweep_operations=60_000,
    visible_probes=25,
    visible_postings=1_500,
    backlog_operations=10_000,
    durable_commits=100,
    import_rows=6_000,
    overload_s=5.0,
    overload_probe=2_000,
    everything_s=2.0,
    size_events=(100_000, 300_000),
    size_block=5_000,
    size_operations=2_000,
    size_postings=500,
    size_look_ups=50,
)
FULL = Scale(
    name="full",
    rounds=5,
    operations_by_batch_size={1: 1_000, 100: 10_000, 1_000: 30_000, 8_000: 48_000},
    textbook_s=3.0,
    aggregate_transfers=1_000,
    callers=(1, 8, 32, 64, 256),
    postings_by_callers={1: 1_000, 8: 6_000, 32: 12_000, 64: 12_000, 256: 12_000},
    http_batch_operations={100: 6_000, 1_000: 16_000, 8_000: 32_000},
    mix_postings=8_000,
    sale_payments=20_000,
    drain_operations=30_000,
    sweep_operations=1_020_000,
    visible_probes=300,
    visible_postings=20_000,
    backlog_operations=500_000,
    durable_commits=500,
    import_rows=0,
    overload_s=60.0,
    overload_probe=8_000,
    everything_s=20.0,
    size_events=(1_000_000, 10_000_000),
    size_block=20_000,
    size_operations=10_000,
    size_postings=4_000,
    size_look_ups=500,
)
