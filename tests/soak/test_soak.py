"""The soak itself: a few rounds agree, the same seed is the same history, and a lie is found."""

from __future__ import annotations

import psycopg
import pytest

from tests.e2e.load import client_of
from tests.soak.comparison import Differs, compare
from tests.soak.drive import started
from tests.soak.history import Caller, Step, first_accounts, with_suspense
from tests.soak.model import PARKED, Model

SEED = 7
LIES = {  # what is found out: the lie, and the truth again
    "accounts": (
        "UPDATE ledger.accounts SET balance = balance + 1 WHERE number = 'M-HOT'",
        "UPDATE ledger.accounts SET balance = balance - 1 WHERE number = 'M-HOT'",
    ),
    "statuses": (
        "UPDATE projections.outcomes SET reason = reason || '!' WHERE status = 'parked'",
        "UPDATE projections.outcomes SET reason = rtrim(reason, '!') WHERE status = 'parked'",
    ),
    "trial balance by day": (
        "UPDATE projections.gl_balances SET debit_minor = debit_minor + 1 WHERE credit_minor = 0",
        "UPDATE projections.gl_balances SET debit_minor = debit_minor - 1 WHERE credit_minor = 0",
    ),
}


SELECT_GATHERED = """
    SELECT count(*) FROM projections.outcomes WHERE operation_id LIKE 'daybook:gather:%'
"""


def history(seed: int) -> list[Step]:
    """One caller's round on a model of its own."""
    model = Model("2026-01-30", accounts=with_suspense(first_accounts()))
    return list(Caller(model, seed, 1, 0).steps(200))


def test_a_seed_is_one_history_and_another_seed_another() -> None:
    assert history(SEED) == history(SEED)
    assert history(SEED) != history(SEED + 1)


def test_a_history_has_answers_of_many_kinds() -> None:
    answers = {step.expected for seed in range(5) for step in history(seed)}
    assert answers >= {
        "booked",
        "insufficient_funds",
        "unknown_account",
        "account_frozen",
        "hold_exceeded",
        "payout_stage",
        "unknown_original",
        "original_not_booked",
        "refund_exceeds_part",
        "operation_id_reused",
    }


def test_a_history_changes_stripes_of_accounts_that_money_leaves() -> None:
    changed = {
        (step.account, step.body["stripes"])
        for step in history(SEED)
        if step.body.get("command") == "stripes"
    }
    assert {number for number, _ in changed if number} > {"M-HOT"}
    assert len({stripes for _, stripes in changed}) >= 3


@pytest.mark.slow
def test_rounds_agree_and_a_system_that_lies_is_found_out() -> None:
    said: list[str] = []
    with started(SEED, said.append, steps=30) as soak:
        soak.round()
        soak.round()
        assert len(said) == 2
        assert soak.model.open(PARKED) != []
        url = soak.scene.database_url
        with psycopg.connect(url, autocommit=True) as conn, client_of(soak.scene) as client:
            (gathered,) = conn.execute(SELECT_GATHERED).fetchone() or (0,)
            assert gathered, "nothing had to be brought home from stripes"
            for what, (lie, truth) in LIES.items():
                conn.execute(lie.encode())
                with pytest.raises(Differs, match=f"^{what}: "):
                    compare(client, url, soak.model)
                conn.execute(truth.encode())
            compare(client, url, soak.model)
