"""The command line, on accounts with stripes."""

from __future__ import annotations

from infra.cli.exit_codes import ExitCode
from tests.infra.commands import Daybook
from tests.infra.test_cli import open_customer


def test_an_account_with_stripes_shows_one_balance_and_where_it_lies(daybook: Daybook) -> None:
    open_customer(daybook, "M-wide")
    assert daybook("accounts", "stripes", "M-wide", "2", "--reason", "sale").code == ExitCode.OK
    daybook("post", "recharge", "--credit", "M-wide=5.00")
    shown = daybook("accounts", "show", "M-wide").out
    assert "5.00 on STRIPE-" in shown
    assert daybook("accounts", "show", "M-wide", "--json").json["balance"] == 500
    assert daybook("post", "fee", "--debit", "M-wide=2.00").code == ExitCode.OK
    listed = daybook("accounts", "events", "M-wide").out
    assert "STRIPE-" in listed
    assert "5.00" in listed
    assert daybook("accounts", "events", "M-wide", "--json").json[-1]["balance"] == 300
    assert "STRIPE-" not in daybook("accounts", "list").out
    assert "stripes 2" in daybook("accounts", "register", "M-wide").out
    assert daybook("accounts", "stripes", "M-wide", "65").code != ExitCode.OK
    replayed = daybook("audit", "replay", "M-wide")
    assert replayed.code == ExitCode.OK, replayed.err
