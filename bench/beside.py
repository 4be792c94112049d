"""What runs beside the postings: `python -m bench.beside KIND DATABASE_URL`, until it is stopped.

`audit`: `audit verify` over ledger and books, again and again. `accounts`: what a report at a day's
end reads, in one snapshot: every head and every account's day. `vacuum`: VACUUM of everything that
changes, at the pace of autovacuum. Each round is a line on standard output, so that it can be
counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import IsolationLevel

from infra.audit import verify
from ledger.heads import HEAD_COLUMNS, account_from_row
from ledger.priority import GivesWay, after_postings, server_goes_after_postings

READ_AT_ONCE = 1_000
PAUSE_S = 0.05
SELECT_ACCOUNTS = f"SELECT {HEAD_COLUMNS} FROM ledger.accounts ORDER BY account_id"
SELECT_DAYS = """
    SELECT book_id, account, currency, business_date, lane, debit_minor, credit_minor, closing_minor
    FROM projections.account_balances_daily ORDER BY book_id, account, currency, business_date
"""


def audit(url: str) -> None:
    """Verify everything once. Raises `RuntimeError` when something differs."""
    with after_postings(), psycopg.connect(url, autocommit=True) as conn:
        server_goes_after_postings(conn)
        verdict = verify(conn)
    if not verdict.passed:
        raise RuntimeError(f"the books differ under load: {verdict.difference}")


def read_accounts(url: str) -> None:
    """Read every account and its days in one snapshot; it gives way as an audit does."""
    with after_postings(), psycopg.connect(url) as conn:
        server_goes_after_postings(conn)
        conn.isolation_level = IsolationLevel.REPEATABLE_READ
        conn.read_only = True
        gives_way = GivesWay()
        for account in _rows(conn, SELECT_ACCOUNTS):
            account_from_row(account)
            gives_way.between()
        for _ in _rows(conn, SELECT_DAYS):
            gives_way.between()


def _rows(conn: psycopg.Connection[Any], query: str) -> Any:
    with conn.cursor(name="rows") as cursor:
        cursor.itersize = READ_AT_ONCE
        cursor.execute(query.encode())
        yield from cursor


KINDS: dict[str, Callable[[str], None]] = {
    "audit": audit,
    "accounts": read_accounts,
}


def main() -> None:
    """Do the one thing until the process is stopped."""
    kind, url = sys.argv[1:]
    while True:
        KINDS[kind](url)
        sys.stdout.write(f"{kind}\n")
        sys.stdout.flush()
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
