"""Amounts as text to integers in minor units, exactly: no float, no rounding.

Invariant: `parse_minor` returns the very number that is written or refuses it by code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from infra.csv_import.row_errors import FieldRefused, RowErrorCode
from ledger.money import AMOUNT_MAX

DIGITS_MAX = 40  # far beyond 2^63 and far below what int() refuses


@dataclass(frozen=True)
class AmountFormat:
    """How a number is written: at most `decimals` decimals, scaled to the `exponent`."""

    decimals: int
    exponent: int
    decimal_separator: str = "."
    thousands_separator: str = ""


@cache
def _pattern(form: AmountFormat) -> re.Pattern[str]:
    point = re.escape(form.decimal_separator)
    whole = "[0-9]+"
    if form.thousands_separator:
        comma = re.escape(form.thousands_separator)
        whole = f"[0-9]{{1,3}}(?:{comma}[0-9]{{3}})+|[0-9]+"
    return re.compile(f"([+-]?)({whole})(?:{point}([0-9]+))?")


def parse_minor(text: str, form: AmountFormat) -> int:
    """Return the signed amount in minor units: '-12.5' CZK → -1250.

    Refuses anything but digits, one sign and the format's separators; more decimals than
    the format has, also when they are zeros; and what leaves the signed 64-bit range.
    """
    if len(text) > DIGITS_MAX:
        raise FieldRefused(RowErrorCode.AMOUNT_OUT_OF_RANGE, "the number is too long")
    match = _pattern(form).fullmatch(text)
    if match is None:
        raise FieldRefused(RowErrorCode.AMOUNT_MALFORMED, f"{text!r} is not an amount")
    sign, whole, decimals = match.group(1), match.group(2), match.group(3) or ""
    if len(decimals) > form.decimals:
        raise FieldRefused(
            RowErrorCode.AMOUNT_DECIMALS, f"{text!r} has more than {form.decimals} decimals"
        )
    if form.thousands_separator:
        whole = whole.replace(form.thousands_separator, "")
    value = int(whole + decimals.ljust(form.exponent, "0"))
    if value > AMOUNT_MAX:
        raise FieldRefused(RowErrorCode.AMOUNT_OUT_OF_RANGE, f"{text!r} exceeds 2^63-1")
    return -value if sign == "-" else value
