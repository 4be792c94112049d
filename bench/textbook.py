"""What people do without us: one synchronous SQL transaction per transfer.

Two entries, two balance updates, both accounts locked in order, a transfer id that is unique:
the smallest table design that is safe and idempotent. The caller is `pgbench` of the same
PostgreSQL with prepared statements, so this baseline pays for no application code, no JSON and
no HTTP: it flatters the textbook.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
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
ASSUMED_RATE = 2_500
RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


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
