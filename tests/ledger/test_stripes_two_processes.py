"""Two API processes on one database, one account with stripes under load: exact to the end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.audit import verify
from tests.fix_api import ApiCaller, credit, debit, leg, operation, server_over
from tests.ledger.test_api_stripes import OPERATIONS, spread

CALLERS, STEPS = 8, 60
CHANGES = {10: 2, 20: 8, 30: 0, 40: 5, 50: 3}  # the first caller's step: over how many from then on
SELECT_GATHERED = """
    SELECT count(*) FROM ledger.stored_events
    WHERE topic = 'ledger.recorded:OperationBooked'
      AND convert_from(state, 'UTF8')::json ->> 'business_type' = 'stripe_gather'
"""


@pytest.fixture
def processes(database_url: str, tmp_path: Path) -> Iterator[list[ApiCaller]]:
    """The callers of two processes on one database; the merchant is open."""
    with (
        server_over(database_url, tmp_path) as (first, _),
        server_over(database_url, tmp_path) as (second, _),
    ):
        first.open("M-1")
        assert spread(first, "M-1", 4).status_code == 200
        yield [first, second]


def steps_of(caller: int) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Say what a caller posts: the operation, and what it adds to balance and held."""
    chosen = random.Random(caller)
    for no in range(STEPS):
        name, amount = f"{caller}-{no}", chosen.randint(1, 40)
        match chosen.choice(["credit", "credit", "credit", "debit", "hold"]):
            case "credit":
                yield operation(name, credit("M-1", amount)), amount, 0
            case "debit":
                amount *= 3
                yield operation(name, debit("M-1", amount), business_type="fee"), -amount, 0
            case _:
                held = leg("hold", "M-1", amount, hold_id=name)
                yield operation(name, held, business_type="hold"), 0, amount
                taken = chosen.randint(1, amount)
                kind, business_type = chosen.choice(
                    [("capture", "payment_capture"), ("release", "release")]
                )
                ended = leg(kind, "M-1", taken, hold_id=name)
                body = operation(f"{name}-end", ended, business_type=business_type)
                yield body, -taken if kind == "capture" else 0, -taken


def post_all(processes: list[ApiCaller], caller: int) -> Counter[str]:
    """Post a caller's steps, by turns to either process; add up what was acknowledged."""
    found: Counter[str] = Counter()
    for no, (body, balance, held) in enumerate(steps_of(caller)):
        turn = (caller + no) % 2
        if caller == 0 and no in CHANGES:
            assert spread(processes[turn], "M-1", CHANGES[no]).status_code == 200
        answer = processes[turn].post(OPERATIONS, body)
        code = answer.json().get("code", "booked")
        assert answer.status_code == (201 if code == "booked" else 422), answer.text
        found[f"process {turn}: {code}"] += 1
        if code == "booked":
            found["balance"] += balance
            found["held"] += held
            again = processes[1 - turn].post(OPERATIONS, body)
            assert again.json()["position"] == answer.json()["position"]
    return found


def test_what_was_acknowledged_is_the_balance_whichever_process_booked_it(
    processes: list[ApiCaller],
) -> None:
    totals: Counter[str] = Counter()
    with ThreadPoolExecutor(CALLERS) as callers:
        for found in callers.map(lambda caller: post_all(processes, caller), range(CALLERS)):
            totals.update(found)

    assert totals["process 0: booked"] > STEPS
    assert totals["process 1: booked"] > STEPS
    codes = {name.split(": ")[1] for name in totals if ": " in name}
    assert codes >= {"booked", "insufficient_funds"}
    assert codes <= {"booked", "insufficient_funds", "unknown_hold"}  # whose hold was refused
    for api in processes:
        state = api.get("/v1/accounts/M-1").json()
        assert (state["balance"], state["held"]) == (totals["balance"], totals["held"])
        assert state["striped"]["stripes"] == 3
        assert sum(part["balance"] for part in state["striped"]["parts"]) == state["balance"]
        assert min(part["balance"] for part in state["striped"]["parts"][1:]) >= 0
    with psycopg.connect(processes[0].database_url, autocommit=True) as conn:
        (gathered,) = conn.execute(SELECT_GATHERED).fetchone() or (0,)
        assert gathered > 10
        assert verify(conn).difference is None
