"""Every shipped rule by example: the operation as booked, then its voucher."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import ledger.events
from accounting.rules import Ruleset, voucher_for
from accounting.ruleset_files import SHIPPED_EXAMPLES, shipped_ruleset
from tests.accounting.operation_text import operation, outcome_text, words

SHIPPED = shipped_ruleset()
LEDGER_TYPES = Path(ledger.events.__file__).parent / "business_types.toml"

EXAMPLES = {
    "opening_balance": [
        (
            """
            credit C-1    2001.01     100.00 CNY
            debit  BANK-1 1002.01.02   80.00 CNY
            bank                       20.00 CNY
            """,
            """
            Dr 1002.01.02 BANK-1  80.00 CNY
            Cr 2001.01 C-1       100.00 CNY
            Dr 1002.01.01         20.00 CNY
            Dr 4101.01           100.00 CNY
            Cr 4101.01           100.00 CNY
            """,
        ),
        ("", "parked nothing_to_post"),
    ],
    "recharge": [
        (
            """
            credit C-1 2001.01  100.00 CNY
            fee                   0.60 CNY
            """,
            """
            Dr 1131.01      100.00 CNY
            Cr 2001.01 C-1  100.00 CNY
            Dr 6001.01        0.60 CNY
            Cr 2202.01        0.60 CNY
            """,
        ),
        (
            """
            debit  CARDS 1131.02.01 100.00 CNY
            credit C-1   2001.01    100.00 CNY
            """,
            """
            Dr 1131.02.01 CARDS  100.00 CNY
            Cr 2001.01    C-1    100.00 CNY
            """,
        ),
        (
            "credit SUSPENSE 2241.01 100.00 CNY for C-9",
            """
            Dr 1131.01           100.00 CNY
            Cr 2241.01 SUSPENSE  100.00 CNY
            """,
        ),
    ],
    "withdrawal": [
        (
            """
            debit C-1 2001.01  50.00 CNY
            fee                 1.00 CNY
            channel_fee         0.20 CNY
            """,
            """
            Dr 2001.01 C-1  50.00 CNY
            Cr 1002.01.01   49.00 CNY
            Cr 5001.02       1.00 CNY
            Dr 6001.01       0.20 CNY
            Cr 2202.01       0.20 CNY
            """,
        ),
        (
            """
            debit  C-1    2001.01     50.00 CNY
            credit BANK-1 1002.01.02  50.00 CNY
            """,
            """
            Dr 2001.01    C-1     50.00 CNY
            Cr 1002.01.02 BANK-1  50.00 CNY
            """,
        ),
    ],
    "withdrawal_hold": [("hold C-1 2001.01 50.00 CNY", "non-posting")],
    "withdrawal_sent": [("", "non-posting")],
    "withdrawal_succeeded": [
        (
            """
            capture C-1     2001.01  50.00 CNY
            credit  PENDING 2242.02  50.00 CNY
            """,
            """
            Dr 2001.01 C-1      50.00 CNY
            Cr 2242.02 PENDING  50.00 CNY
            """,
        ),
        (
            """
            capture C-1 2001.01  50.00 CNY
            fee                   1.00 CNY
            """,
            """
            Dr 2001.01 C-1  50.00 CNY
            Cr 2242.01      49.00 CNY
            Cr 5001.02       1.00 CNY
            """,
        ),
    ],
    "withdrawal_settled": [
        (
            """
            debit PENDING 2242.02  50.00 CNY
            channel_fee             0.20 CNY
            """,
            """
            Dr 2242.02 PENDING  50.00 CNY
            Cr 1002.01.01       50.00 CNY
            Dr 6001.01           0.20 CNY
            Cr 2202.01           0.20 CNY
            """,
        ),
        (
            "settled 49.00 CNY",
            """
            Dr 2242.01     49.00 CNY
            Cr 1002.01.01  49.00 CNY
            """,
        ),
    ],
    "withdrawal_failed": [("release C-1 2001.01 50.00 CNY", "non-posting")],
    "settlement": [
        (
            """
            debit M-1 2002.01  99.40 CNY
            fee                 0.40 CNY
            """,
            """
            Dr 2002.01 M-1  99.40 CNY
            Cr 1002.01.01   99.00 CNY
            Cr 5001.02       0.40 CNY
            """,
        ),
    ],
    "channel_settlement": [
        (
            """
            received   99.40 CNY
            fees_kept   0.60 CNY
            """,
            """
            Dr 1002.01.01   99.40 CNY
            Dr 2202.01       0.60 CNY
            Cr 1131.01     100.00 CNY
            """,
        ),
    ],
    "payment": [
        (
            """
            debit  C-1 2001.01  100.00 CNY
            credit M-1 2002.01   99.40 CNY
            fee                   0.60 CNY
            """,
            """
            Dr 2001.01 C-1  100.00 CNY
            Cr 2002.01 M-1   99.40 CNY
            Cr 5001.01        0.60 CNY
            """,
        ),
        (
            """
            debit  C-1    2001.01   97.00 CNY
            debit  COUPON 2003.01    3.00 CNY
            credit M-1    2002.01   98.00 CNY
            credit AGENT  2002.02    1.40 CNY
            fee                      0.60 CNY
            """,
            """
            Dr 2001.01 C-1     97.00 CNY
            Dr 2003.01 COUPON   3.00 CNY
            Cr 2002.01 M-1     98.00 CNY
            Cr 2002.02 AGENT    1.40 CNY
            Cr 5001.01          0.60 CNY
            """,
        ),
    ],
    "payment_capture": [
        (
            """
            capture C-1 2001.01  30.00 CNY
            release C-1 2001.01  20.00 CNY
            credit  M-1 2002.01  29.80 CNY
            fee                   0.20 CNY
            """,
            """
            Dr 2001.01 C-1  30.00 CNY
            Cr 2002.01 M-1  29.80 CNY
            Cr 5001.01       0.20 CNY
            """,
        ),
    ],
    "refund": [
        (
            """
            debit  M-1    2002.01   99.40 CNY
            credit C-1    2001.01   97.00 CNY
            credit COUPON 2003.01    3.00 CNY
            fee                      0.60 CNY
            """,
            """
            Dr 2002.01 M-1     99.40 CNY
            Dr 5001.01          0.60 CNY
            Cr 2001.01 C-1     97.00 CNY
            Cr 2003.01 COUPON   3.00 CNY
            """,
        ),
        (
            """
            debit  M-1 2002.01  40.00 CNY
            credit C-1 2001.01  40.00 CNY
            """,
            """
            Dr 2002.01 M-1  40.00 CNY
            Cr 2001.01 C-1  40.00 CNY
            """,
        ),
    ],
    "transfer": [
        (
            """
            debit  C-1 2001.01  10.00 CNY
            credit C-2 2001.01  10.00 CNY
            """,
            """
            Dr 2001.01 C-1  10.00 CNY
            Cr 2001.01 C-2  10.00 CNY
            """,
        ),
        (
            """
            debit  C-1 2001.01  10.00 CNY
            credit C-2 2001.01   9.00 CNY
            """,
            "parked unbalanced",
        ),
    ],
    "interest": [
        (
            "credit C-1 2001.01 1.23 CNY",
            """
            Dr 6011.01      1.23 CNY
            Cr 2001.01 C-1  1.23 CNY
            """,
        ),
        (
            "debit LOAN-1 1303.01 4.56 CNY",
            """
            Dr 1303.01 LOAN-1  4.56 CNY
            Cr 5011.01         4.56 CNY
            """,
        ),
    ],
    "fee": [
        (
            "debit C-1 2001.01 5.00 CNY",
            """
            Dr 2001.01 C-1  5.00 CNY
            Cr 5001.03      5.00 CNY
            """,
        ),
        (
            "credit C-1 2001.01 5.00 CNY",
            """
            Dr 5001.03      5.00 CNY
            Cr 2001.01 C-1  5.00 CNY
            """,
        ),
    ],
    "adjustment": [
        (
            "credit C-1 2001.01 0.10 CNY",
            """
            Dr 6711.01      0.10 CNY
            Cr 2001.01 C-1  0.10 CNY
            """,
        ),
        (
            "debit C-1 2001.01 0.10 CNY",
            """
            Dr 2001.01 C-1  0.10 CNY
            Cr 5301.01      0.10 CNY
            """,
        ),
    ],
    "correction": [
        (
            """
            debit C-1 2001.01  100.00 CNY
            clearing_credit    100.00 CNY
            """,
            """
            Dr 2001.01 C-1  100.00 CNY
            Cr 1131.01      100.00 CNY
            """,
        ),
        (
            """
            debit  C-1 2001.01  100.00 CNY
            credit C-2 2001.01  100.00 CNY
            """,
            """
            Dr 2001.01 C-1  100.00 CNY
            Cr 2001.01 C-2  100.00 CNY
            """,
        ),
    ],
    "suspense_clear": [
        (
            """
            debit  SUSPENSE 2241.01  100.00 CNY
            credit C-1      2001.01  100.00 CNY
            """,
            """
            Dr 2241.01 SUSPENSE  100.00 CNY
            Cr 2001.01 C-1       100.00 CNY
            """,
        ),
        (
            "debit SUSPENSE 2241.01 100.00 CNY",
            """
            Dr 2241.01 SUSPENSE  100.00 CNY
            Cr 1002.01.01        100.00 CNY
            """,
        ),
    ],
    "guarantee": [
        ("guarantee 500.00 CNY", "Dr 9001.01 500.00 CNY"),
        ("guarantee_returned 200.00 CNY", "Cr 9001.01 200.00 CNY"),
        ("", "parked nothing_to_post"),
    ],
    "history_opening": [
        (
            "credit C-1 2001.01 700.00 CZK",
            """
            Cr 2001.01 C-1  700.00 CZK
            Dr 4101.01      700.00 CZK
            """,
        ),
    ],
    "history_credit": [
        (
            "credit C-1 2001.01 700.00 CZK",
            """
            Dr 1002.01.01   700.00 CZK
            Cr 2001.01 C-1  700.00 CZK
            """,
        ),
    ],
    "history_debit": [
        (
            "debit C-1 2001.01 14.60 CZK",
            """
            Dr 2001.01 C-1  14.60 CZK
            Cr 1002.01.01   14.60 CZK
            """,
        ),
    ],
    "account_note": [("", "non-posting")],
    "hold": [("hold C-1 2001.01 10.00 CNY", "non-posting")],
    "release": [("release C-1 2001.01 10.00 CNY", "non-posting")],
    "hold_expiry": [("release C-1 2001.01 10.00 CNY", "non-posting")],
    "freeze": [("freeze C-1 2001.01 10.00 CNY", "non-posting")],
    "unfreeze": [("unfreeze C-1 2001.01 10.00 CNY", "non-posting")],
}


@pytest.mark.parametrize(
    ("business_type", "booked", "books"),
    [(name, booked, books) for name, cases in EXAMPLES.items() for booked, books in cases],
)
def test_the_shipped_rule_posts_the_operation_as_the_example_shows(
    business_type: str, booked: str, books: str
) -> None:
    outcome = voucher_for(operation(business_type, booked), SHIPPED)

    assert outcome_text(outcome) == words(books)


def test_every_shipped_rule_has_an_example() -> None:
    assert SHIPPED.business_types() == sorted(EXAMPLES)


def test_only_the_demo_s_business_type_is_known_to_the_ledger_without_a_rule() -> None:
    known = tomllib.loads(LEDGER_TYPES.read_text(encoding="utf-8"))["types"]

    assert set(known) - set(SHIPPED.business_types()) == {"voucher_sale"}


def test_a_gift_voucher_sale_is_parked_until_the_example_rule_is_added() -> None:
    sale = operation(
        "voucher_sale",
        """
        debit C-1 2001.01  95.00 CNY
        discount            5.00 CNY
        """,
    )
    with_rule = shipped_ruleset(SHIPPED_EXAMPLES / "voucher_sale.toml")

    assert outcome_text(voucher_for(sale, SHIPPED)) == ["parked no_rule"]
    assert outcome_text(voucher_for(sale, with_rule)) == words(
        """
        Dr 2001.01 C-1   95.00 CNY
        Dr 6021.01        5.00 CNY
        Cr 2004.01      100.00 CNY
        """
    )
    assert with_rule.version == "payment-company-1+voucher_sale"
    assert with_rule.hash != SHIPPED.hash


def test_the_shipped_chart_has_three_levels_and_all_seven_classes() -> None:
    chart = SHIPPED.chart

    assert max(chart.level(code) for code in chart.subjects) == 3
    assert {subject.subject_class for subject in chart.subjects.values()} == {
        "asset",
        "liability",
        "common",
        "equity",
        "income",
        "expense",
        "off_balance",
    }


def test_a_published_document_is_the_same_ruleset_when_read_back() -> None:
    again = Ruleset.from_document(SHIPPED.to_document())

    assert again.hash == SHIPPED.hash
    assert again.to_document() == SHIPPED.to_document()
