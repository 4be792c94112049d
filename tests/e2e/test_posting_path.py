"""The spine: an operation over HTTP becomes a balanced trial balance, on either bus."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from infra.demo.figures import Figures
from infra.demo.payment_day import OPERATIONS_MIN, SEED, payment_day
from infra.demo.run import run_day
from infra.demo.system import System
from tests.e2e.conftest import Running
from tests.e2e.load import client_of, open_customer, recharge
from tests.e2e.silence import no_progress, silent


def closing(trial_balance: dict[str, object]) -> dict[str, Decimal]:
    """Closing balance by subject, debits positive; totals of the chart left out."""
    found = {}
    for line in trial_balance["lines"]:  # type: ignore[attr-defined]
        if not line["is_total"]:
            columns = line["columns"]
            minor = columns["closing_debit"] - columns["closing_credit"]
            found[line["subject"]] = Decimal(minor) / 100
    return found


def test_a_single_sided_recharge_with_a_fee_becomes_a_balanced_trial_balance(
    on_each_bus: System,
) -> None:
    open_customer(on_each_bus)
    with client_of(on_each_bus) as client:
        answer = client.post("/v1/operations", recharge("T-1")).value
        assert answer["accounts"][0]["balance"] == 100_00
        sheet = client.get("/v1/trial-balance", operation_id="T-1")["data"]

    assert closing(sheet) == {
        "1131.01": Decimal("100.00"),
        "2001.01": Decimal("-100.00"),
        "2202.01": Decimal("-0.60"),
        "6001.01": Decimal("0.60"),
    }
    assert [total["ties"] for total in sheet["totals"]] == [True]


def test_the_result_travels_back_to_the_operation(on_each_bus: System) -> None:
    open_customer(on_each_bus)
    with client_of(on_each_bus) as client:
        client.post("/v1/operations", recharge("T-1"))
        client.get("/v1/trial-balance", operation_id="T-1")
        status = None
        while status in (None, "pending"):  # the test's own timeout bounds it
            status = client.get("/v1/operations/T-1")["accounting_status"]
    assert status == "vouchered"


@pytest.mark.kafka
def test_both_buses_give_the_same_vouchers_for_the_same_day(
    tmp_path: Path, running: Running, kafka_bootstrap: str, second_database_url: str
) -> None:
    on_log = posted_day(running)
    on_kafka = posted_day(
        running,
        home=tmp_path / "second",
        database_url=second_database_url,
        bus="kafka",
        kafka_bootstrap=kafka_bootstrap,
    )
    assert on_log.passed
    assert on_kafka.passed
    assert on_log.vouchers == on_kafka.vouchers > 0
    assert on_log.voucher_hash == on_kafka.voucher_hash
    assert on_log.trial_balance == on_kafka.trial_balance


def posted_day(running: Running, **overrides: object) -> Figures:
    day = payment_day(OPERATIONS_MIN, SEED)
    with running(**overrides) as system:
        url = system.settings.database_url
        assert url is not None
        return run_day(day, SEED, system, url, progress=no_progress, say=silent)
