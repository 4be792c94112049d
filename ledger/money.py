"""Money: integers in minor units with an ISO 4217 code beside them; no float comes near.

Invariant: an amount is 1 … AMOUNT_MAX; a total that would leave the signed 64-bit range
is refused before anything is written (`amount_overflow`).
"""

from __future__ import annotations

import iso4217

AMOUNT_MAX = 2**63 - 1

EXPONENTS: dict[str, int] = {
    currency.code: int(currency.exponent or 0) for currency in iso4217.Currency
}


def is_currency(code: str) -> bool:
    """Tell whether `code` is a current ISO 4217 code (source: the `iso4217` package)."""
    return code in EXPONENTS


def format_minor(amount_minor: int, currency: str) -> str:
    """Show minor units in major units: 12345 CNY → '123.45', 12345 JPY → '12345'."""
    exponent = EXPONENTS.get(currency, 0)
    if exponent == 0:
        return str(amount_minor)
    sign = "-" if amount_minor < 0 else ""
    whole, part = divmod(abs(amount_minor), 10**exponent)
    return f"{sign}{whole}.{part:0{exponent}d}"
