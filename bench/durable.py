"""One durable commit of one narrow row by one caller: the least that any answer can take.

Invariant: it is measured in the round of what it is compared with, on the same server.
"""

from __future__ import annotations

import time
from statistics import median

import psycopg


def durable_commit_ms(url: str, count: int) -> float:
    """Return the median time of a commit."""
    times = []
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS one_row (n bigint)")
        for number in range(count):
            started = time.perf_counter()
            conn.execute("INSERT INTO one_row VALUES (%s)", (number,), prepare=True)
            times.append(time.perf_counter() - started)
    return median(times) * 1e3
