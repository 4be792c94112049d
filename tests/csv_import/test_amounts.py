"""Amounts in text become exact integers or are refused by code."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.csv_import.amounts import AmountFormat, parse_minor
from infra.csv_import.row_errors import FieldRefused
from ledger.money import AMOUNT_MAX

CENTS = AmountFormat(decimals=2, exponent=2)
GERMAN = AmountFormat(decimals=2, exponent=2, decimal_separator=",", thousands_separator=".")


@pytest.mark.parametrize(
    ("text", "form", "minor"),
    [
        ("700.00", CENTS, 70000),
        ("700", CENTS, 70000),
        ("0.1", CENTS, 10),
        ("-12.50", CENTS, -1250),
        ("+12.50", CENTS, 1250),
        ("007.00", CENTS, 700),
        ("1.234.567,89", GERMAN, 123456789),
        ("1234567,89", GERMAN, 123456789),
        ("12", AmountFormat(decimals=0, exponent=0), 12),
        ("12", AmountFormat(decimals=0, exponent=2), 1200),
        ("92233720368547758.07", CENTS, AMOUNT_MAX),
    ],
)
def test_an_amount_is_read_exactly(text: str, form: AmountFormat, minor: int) -> None:
    assert parse_minor(text, form) == minor


@pytest.mark.parametrize(
    ("text", "form", "code"),
    [
        ("1.000", CENTS, "amount_decimals"),
        ("1.5", AmountFormat(decimals=0, exponent=2), "amount_decimals"),
        ("1,50", CENTS, "amount_malformed"),
        ("1.", CENTS, "amount_malformed"),
        (".5", CENTS, "amount_malformed"),
        ("1e3", CENTS, "amount_malformed"),
        ("NaN", CENTS, "amount_malformed"),
        ("inf", CENTS, "amount_malformed"),
        ("0x10", CENTS, "amount_malformed"),
        ("1_000", CENTS, "amount_malformed"),
        ("--1", CENTS, "amount_malformed"),
        ("1 000", CENTS, "amount_malformed"),
        ("१२", CENTS, "amount_malformed"),
        ("true", CENTS, "amount_malformed"),
        ("1.23,45", GERMAN, "amount_malformed"),
        ("12.3456,00", GERMAN, "amount_malformed"),
        ("92233720368547758.08", CENTS, "amount_out_of_range"),
        ("9" * 5000, CENTS, "amount_out_of_range"),
    ],
)
def test_anything_else_is_refused_by_code(text: str, form: AmountFormat, code: str) -> None:
    with pytest.raises(FieldRefused) as refused:
        parse_minor(text, form)

    assert refused.value.code == code


@given(st.integers(min_value=-AMOUNT_MAX, max_value=AMOUNT_MAX))
def test_every_amount_survives_being_written_and_read(minor: int) -> None:
    assert parse_minor(f"{Decimal(minor).scaleb(-2):f}", CENTS) == minor
