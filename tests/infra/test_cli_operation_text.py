"""Operations as a person writes them: exact amounts, named legs, nothing guessed."""

from __future__ import annotations

import pytest
import typer

from infra.cli.operation_text import leg_of, minor_of, new_operation_id, operation_of
from infra.cli.posting import read_operations
from ledger.operation import Leg, RequestedAmount


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("100.00", "CNY", 10_000),
        ("100", "CNY", 10_000),
        ("0.6", "CNY", 60),
        ("100", "JPY", 100),
        ("1.005", "KWD", 1_005),
        ("92233720368547758.07", "CNY", 2**63 - 1),
    ],
)
def test_an_amount_in_major_units_becomes_minor_units_exactly(
    text: str, currency: str, minor: int
) -> None:
    assert minor_of(text, currency) == minor


@pytest.mark.parametrize(
    ("text", "currency"),
    [
        ("1.005", "CNY"),
        ("1.0", "JPY"),
        ("1e3", "CNY"),
        ("-1", "CNY"),
        ("", "CNY"),
        (".5", "CNY"),
        ("1,000.00", "CNY"),
        ("92233720368547758.08", "CNY"),
        ("1.00", "XXQ"),
    ],
)
def test_an_amount_that_is_not_exact_is_refused_and_never_rounded(text: str, currency: str) -> None:
    with pytest.raises(typer.BadParameter):
        minor_of(text, currency)


def test_holds_may_expire_and_nothing_else() -> None:
    words = {"amounts": (), "currency": "CNY", "operation_id": "h-1"}
    legs = [("debit", "C-1=1.00"), ("hold", "C-1=2.00@H-1")]
    made = operation_of("hold", legs=legs, expires_at="2026-01-31T12:00:00+08:00", **words)
    expiries = [leg.expires_at and leg.expires_at.isoformat() for leg in made.legs]
    assert expiries == [None, "2026-01-31T12:00:00+08:00"]
    for without in ("2026-01-31T12:00:00", "noon"):
        with pytest.raises(typer.BadParameter):
            operation_of("hold", legs=legs, expires_at=without, **words)
    with pytest.raises(typer.BadParameter):
        operation_of("fee", legs=legs[:1], expires_at="2026-01-31T12:00:00Z", **words)


def test_a_leg_is_account_and_amount_and_for_holds_the_hold() -> None:
    assert leg_of("credit", "C-1=100.00", "CNY") == Leg("credit", "C-1", 10_000, "CNY")
    held = Leg("hold", "C-1", 5_000, "CNY", hold_id="H-1")
    assert leg_of("hold", "C-1=50.00@H-1", "CNY") == held


@pytest.mark.parametrize(
    ("kind", "text"),
    [("credit", "C-1"), ("credit", "=1.00"), ("hold", "C-1=1.00"), ("debit", "C-1=1.00@H-1")],
)
def test_a_leg_that_cannot_be_read_is_refused(kind: str, text: str) -> None:
    with pytest.raises(typer.BadParameter):
        leg_of(kind, text, "CNY")


def test_options_become_one_operation_with_an_id() -> None:
    operation = operation_of(
        "payment",
        legs=[("debit", "C-1=100.00"), ("credit", "M-1=99.40")],
        amounts=["fee=0.60"],
        currency="CNY",
        orders=["trade=T-1", "channel=X-1", "channel=X-2"],
    )
    assert [leg.amount_minor for leg in operation.legs] == [10_000, 9_940]
    assert operation.amounts == {"fee": RequestedAmount(60, "CNY")}
    assert operation.orders is not None
    assert (operation.orders.trade, operation.orders.channel) == ("T-1", ("X-1", "X-2"))
    assert operation.operation_id


def test_new_ids_are_uuids_of_version_7_in_order_of_time() -> None:
    first, second = new_operation_id(), new_operation_id()
    assert first[14] == second[14] == "7"
    assert first[:13] <= second[:13]


def test_a_file_may_be_one_object_an_array_or_lines() -> None:
    one = b'{"operation_id": "a"}'
    assert len(read_operations(one)) == 1
    assert len(read_operations(b"[" + one + b"," + one + b"]")) == 2
    assert read_operations(one + b"\n\n" + one + b"\n") == [one, one]


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (b'{"operation_id": "a"}\n{"operation_id"', "line 2"),
        (b'{"operation_id": "a"}\n[1]\n', "line 2"),
        (b'{"business_type": "fee"}', "line 1 has no operation_id"),
    ],
)
def test_a_broken_file_names_the_line_and_nothing_is_sent(raw: bytes, named: str) -> None:
    with pytest.raises(typer.BadParameter, match=named):
        read_operations(raw)
