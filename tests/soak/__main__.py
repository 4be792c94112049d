"""`python -m tests.soak --minutes 3 --seed 7`: the model check, for as long as wanted.

Invariant: exit code 0 only when model and system agreed in every round and the audit passed.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.soak.drive import run


def main() -> None:
    """Read the arguments and soak."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long (default: 3)")
    parser.add_argument("--seed", type=int, help="the history; default: a new one, which is said")
    parser.add_argument("--rounds", type=int, help="so many rounds instead: a failed seed's")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="run over this Kafka broker")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    run(
        seed,
        minutes=given.minutes,
        rounds=given.rounds,
        say=lambda text: print(text, flush=True),
        kafka=given.kafka,
    )


if __name__ == "__main__":
    sys.exit(main())
