"""What people do without us: one synchronous SQL transaction per transfer.

Two entries, two balance updates, both accounts locked in order, a transfer id that is unique:
the smallest table design that is safe and idempotent. The caller is `pgbench` of the same
PostgreSQL with prepared statements, so this baseline pays for no application code, no JSON and
no HTTP: it flatters the textbook. `psycopg_rate` is the same transaction as a Python team
writes it.
"""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.scale import ACCOUNTS
from infra.postgres import binaries

SCHEMA = """
    CREATE TABLE accounts (
        account_id bigint PRIMARY KEY,
        balance    bigint NOT NULL CHECK (balance >= 0)
    ) WITH (fillfactor = 70);
    CREATE TABLE entries (
        transfer_id bigint NOT NULL,
        side        text   NOT NULL CHECK (side IN ('debit', 'credit')),
        account_id  bigint NOT NULL,
        amount      bigint NOT NULL CHECK (amount > 0),
        booked_at   timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (transfer_id, side)
    );
    CREATE INDEX entries_account_idx ON entries (account_id, booked_at);
"""
FILL = "INSERT INTO accounts SELECT n, 1000000000000 FROM generate_series(1, %s) AS n"
TRANSFER = f"""
\\set source random(1, {ACCOUNTS})
\\set target 1 + (:source + random(0, {ACCOUNTS - 2})) % {ACCOUNTS}
\\set id random(1, 9000000000000000000)
BEGIN;
SELECT account_id, balance FROM accounts WHERE account_id IN (:source, :target) ORDER BY account_id FOR UPDATE;
INSERT INTO entries (transfer_id, side, account_id, amount) VALUES (:id, 'debit', :source, 100);
INSERT INTO entries (transfer_id, side, account_id, amount) VALUES (:id, 'credit', :target, 100);
UPDATE accounts SET balance = balance - 100 WHERE account_id = :source;
UPDATE accounts SET balance = balance + 100 WHERE account_id = :target;
COMMIT;
"""  # noqa: E501 - pgbench takes one statement a line
LOCK = """
    SELECT account_id, balance FROM accounts WHERE account_id IN (%(source)s, %(target)s)
    ORDER BY account_id FOR UPDATE
"""
ENTER = """
    INSERT INTO entries (transfer_id, side, account_id, amount)
    VALUES (%(id)s, 'debit', %(source)s, 100)
"""
ENTER_TOO = ENTER.replace("'debit', %(source)s", "'credit', %(target)s")
PAY = "UPDATE accounts SET balance = balance - 100 WHERE account_id = %(source)s"
PAY_IN = "UPDATE accounts SET balance = balance + 100 WHERE account_id = %(target)s"
ASSUMED_RATE = 2_500
BEST_OF = (8, 32)  # connections; one alone is always slower
RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


class Textbook:
    """The textbook's tables in a database of their own, for a ratio within a round."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._script = url, make_textbook(url, folder)

    def best_per_s(self, seconds: float) -> float:
        """Return the best rate of transfers; `seconds` for each number of connections."""
        return max(
            textbook_rate(self._url, self._script, connections=number, seconds=seconds)
            for number in BEST_OF
        )


def make_textbook(url: str, folder: Path) -> Path:
    """Make the tables and the script; return the script."""
    with psycopg.connect(url) as conn:
        conn.execute(SCHEMA)
        conn.execute(FILL, (ACCOUNTS,))
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("VACUUM (ANALYZE)")
    script = folder / "transfer.sql"
    script.write_text(TRANSFER)
    return script


def textbook_rate(url: str, script: Path, *, connections: int, seconds: float) -> float:
    """Return transfers per second with that many connections."""
    # pgbench counts whole seconds only, so it is told how many transactions to make.
    transactions = max(10, int(ASSUMED_RATE * seconds / connections))
    return _pgbench(conninfo_to_dict(url), script, connections, "-t", str(transactions))


def psycopg_rate(url: str, *, connections: int, seconds: float) -> float:
    """Return transfers per second of the same transaction, written in Python."""
    ends_at = time.perf_counter() + seconds
    with ThreadPoolExecutor(connections) as callers:
        done = callers.map(lambda _: _transfer_until(url, ends_at), range(connections))
    return sum(done) / seconds


def _transfer_until(url: str, ends_at: float) -> int:
    count = 0
    with psycopg.connect(url) as conn:
        conn.prepare_threshold = 0
        while time.perf_counter() < ends_at:
            source, target = random.sample(range(1, ACCOUNTS + 1), 2)
            values = {"source": source, "target": target, "id": random.getrandbits(62)}
            for statement in (LOCK, ENTER, ENTER_TOO, PAY, PAY_IN):
                conn.execute(statement.encode(), values)
            conn.commit()
            count += 1
    return count


def _pgbench(known: Mapping[str, object], script: Path, connections: int, *amount: str) -> float:
    command = [
        str(binaries() / "pgbench"),
        *("--no-vacuum", "--protocol=prepared", "--file", str(script)),
        *("--client", str(connections), "--jobs", str(min(connections, 2)), *amount),
        *("--host", str(known["host"]), "--username", str(known["user"])),
        str(known["dbname"]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = RATE.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench failed: {done.stdout}{done.stderr}")
    return float(found.group(1))
