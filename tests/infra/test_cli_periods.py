"""`daybook day cut` and `daybook period …` against a running system."""

from __future__ import annotations

import datetime as dt

from infra.cli.exit_codes import ExitCode
from infra.demo.payment_day import BUSINESS_DATE
from tests.infra.commands import Daybook
from tests.infra.test_cli_repair import new_key, park

DAY = BUSINESS_DATE.isoformat()
NEXT = (BUSINESS_DATE + dt.timedelta(days=1)).isoformat()
RULE = "accounting/shipped/examples/voucher_sale.toml"


def test_a_day_is_cut_a_late_repair_is_dated_into_the_open_day_and_a_period_closed(
    daybook: Daybook,
) -> None:
    park(daybook, "C-cut", "late-1")
    assert daybook("day", "cut", DAY).code == ExitCode.REFUSED
    assert daybook("day", "open", NEXT).code == ExitCode.OK

    cut = daybook("day", "cut", DAY, "--note", "evening")
    assert cut.code == ExitCode.OK
    for words in (f"through {DAY} the book is cut", "no_rule", "50.00", "1 operations, 1 of them"):
        assert words in cut.out
    assert "was cut already" in daybook("day", "cut", DAY).out
    (listed,) = daybook("day", "cuts", "--json").json
    assert (listed["operation_ids"], listed["note"]) == (["late-1"], "evening")
    assert "evening" in daybook("day", "cuts").out

    daybook("rules", "publish", "--with", RULE)
    assert f"1 dated into the open day {NEXT}" in daybook("repair", "retry").out
    vouchers = daybook("vouchers", "--operation", "late-1")
    assert f"{NEXT} (of {DAY})" in vouchers.out
    numbered = daybook("vouchers", "--to", DAY)
    assert (numbered.code, "no." in numbered.out) == (ExitCode.OK, True)

    checker = new_key(daybook, "bob", "approve", "read")
    change = daybook("period", "close", DAY, "--note", "January", "--json").json
    approve = ("period", "approve", change["change_id"])
    assert daybook(*approve).code == ExitCode.REFUSED
    assert daybook(*approve, "--key", checker).code == ExitCode.OK
    shown = daybook("period", "list").out
    for words in ("closed through", DAY, "close_proposed", "bob", "January"):
        assert words in shown
    back = daybook("period", "reopen", DAY, "--json").json
    assert daybook("period", "reject", back["change_id"], "--key", checker).code == ExitCode.OK
    assert daybook("period", "list", "--json").json["closed_through"] == DAY
