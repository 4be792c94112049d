"""A flash sale ends exactly: with two engines at once, and with one killed in the middle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from ledger import operation as op
from ledger.audit import verify
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.flash_sale import final, prepare, sell
from tests.waiting import wait_until

SALES = 400
KILLED_AFTER = 120  # acknowledged operations


def booked(ledger: Ledger) -> dict[str, int]:
    found = ledger.rows("SELECT number, balance FROM ledger.accounts WHERE number IN ('M-1','FEE')")
    return {number: int(balance) for number, balance in found}


def waits(ledger: Ledger) -> int:
    return len(ledger.rows("SELECT account_id FROM ledger.accepted"))


def ends_exactly(ledger: Ledger) -> None:
    wait_until(lambda: not waits(ledger), "all that was accepted to be applied")
    assert booked(ledger) == final(SALES)
    with psycopg.connect(ledger.database_url) as conn:
        assert verify(conn).difference is None


@contextmanager
def selling(database_url: str, first: int, last: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.ledger.flash_sale", database_url]
    with subprocess.Popen(
        [*command, str(first), str(last)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


def test_two_engines_sell_for_one_merchant(database_url: str) -> None:
    statuses: set[str] = set()
    with running_ledger(database_url) as ledger:
        prepare(ledger)
        with selling(database_url, 0, SALES // 2) as other:
            sell(ledger, SALES // 2, SALES, lambda answer: statuses.add(answer.status))
            other.communicate(timeout=120)
        assert other.returncode == 0
        assert statuses == {"accepted", "booked"}  # a sale; a refund, whose money goes elsewhere
        ends_exactly(ledger)


def test_a_kill_in_the_middle_loses_and_doubles_nothing(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        prepare(ledger)
    with selling(database_url, 0, SALES) as killed:
        assert killed.stdout is not None
        acknowledged = {killed.stdout.readline().strip() for _ in range(KILLED_AFTER)}
        killed.kill()
        acknowledged |= {line.strip() for line in killed.stdout if line.endswith("\n")}
    # what was acknowledged is on record before anybody asks again
    told: dict[str, op.Answer] = {}
    with running_ledger(database_url) as ledger:
        sell(ledger, 0, SALES, lambda answer: told.update({answer.operation_id: answer}))
        assert {told[operation_id].replayed for operation_id in acknowledged} == {True}
        assert len(told) > len(acknowledged)
        ends_exactly(ledger)
