"""`daybook repair …` against a running system: filters, dry runs, keys, overrides by two people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consumers.repair import Repaired
from infra.cli.exit_codes import ExitCode
from infra.cli.override_file import override_of
from infra.cli.repair import _closer
from infra.cli.repair_words import age_words, amounts_words
from infra.demo.payment_day import BUSINESS_DATE
from tests.infra.commands import Daybook

VOUCHER_SALE = "accounting/shipped/examples/voucher_sale.toml"
DAY = BUSINESS_DATE.isoformat()
LINES = """
note = "agreed by telephone"
[[lines]]
side = "debit"
subject = "2001.01"
account = "{account}"
currency = "CNY"
amount = "50.00"
[[lines]]
side = "credit"
subject = "5001.01"
currency = "CNY"
amount = "50.00"
"""


def park(daybook: Daybook, account: str, *operation_ids: str) -> None:
    """Sell vouchers of 50.00, for which the shipped rules have no rule."""
    opened = ("--owner", "U-1", "--type", "customer", "--subject", "2001.01")
    assert daybook("accounts", "open", account, *opened).code == ExitCode.OK
    assert daybook("post", "recharge", "--credit", f"{account}=1000.00").code == ExitCode.OK
    for operation_id in operation_ids:
        words = ("post", "voucher_sale", "--id", operation_id, "--debit", f"{account}=50.00")
        assert daybook(*words).code == ExitCode.OK
    daybook("trial-balance", "--operation", operation_ids[-1])


def new_key(daybook: Daybook, principal: str, *scopes: str) -> str:
    """Make a key of a principal."""
    words = [word for scope in scopes for word in ("--scope", scope)]
    return daybook("keys", "create", principal, *words).out.strip()


def ids_of(items: list[dict[str, Any]]) -> list[str]:
    """The operations of a list."""
    return [item["operation_id"] for item in items]


def test_the_list_shows_age_reason_amount_and_counts_and_can_be_narrowed(daybook: Daybook) -> None:
    park(daybook, "C-list", "list-1", "list-2")
    mine = ("repair", "list", "--account", "C-list")

    shown = daybook(*mine)
    assert shown.code == ExitCode.NO
    for words in ("no_rule", "50.00 CNY", "100.00 CNY", "2 operations", "age"):
        assert words in shown.out
    assert ids_of(daybook(*mine, "--json").json) == ["list-1", "list-2"]
    assert ids_of(daybook(*mine, "--limit", "1", "--json").json) == ["list-1"]
    assert "the 1 oldest of 2 operations" in daybook(*mine, "--limit", "1").out
    summary = daybook(*mine, "--summary")
    assert "list-1" not in summary.out
    (count,) = daybook(*mine, "--summary", "--json").json["counts"]
    assert (count["reason"], count["count"], count["amounts"]) == ("no_rule", 2, {"CNY": 100_00})
    assert count["oldest_age_s"] > 0
    for other in (
        ("--reason", "unbalanced"),
        ("--type", "payment"),
        ("--to", "2001-01-01"),
        ("--from", "2999-01-01"),
    ):
        nothing = daybook(*mine, *other)
        assert (nothing.code, "(none)" in nothing.out) == (ExitCode.OK, True)
    assert ids_of(daybook(*mine, "--from", DAY, "--to", DAY, "--json").json) == ["list-1", "list-2"]
    assert daybook(*mine, "--from", "yesterday").code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--reason", "norule"), "no_rule, unknown_currency"),
        (("--type", "paymnet"), "no business type 'paymnet'"),
        (("--from", "2026-02-02", "--to", "2026-02-01"), "comes before"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_never_answered_with_nothing_is_parked(
    daybook: Daybook, words: tuple[str, ...], says: str
) -> None:
    for command in (("list",), ("retry",), ("retry", "--dry-run")):
        refused = daybook("repair", *command, *words)
        assert refused.code == ExitCode.USAGE
        assert says in refused.err


def test_a_book_operation_or_ruleset_nobody_knows_is_refused_before_anything_is_ordered(
    daybook: Daybook,
) -> None:
    park(daybook, "C-named", "named-1")
    mine = ("repair", "retry", "named-1")
    first = daybook("repair", "explain", "named-1", "--json").json["parked"]

    for words in (
        ("--book", "nobody", "repair", "list"),
        ("--book", "nobody", "repair", "retry"),
        (*mine, "named-2"),
        (*mine, "named-2", "--dry-run"),
        (*mine, "--rules", "deadbeef"),
        (*mine, "--rules", ""),
        (*mine, "--rules", "deadbeef", "--dry-run"),
    ):
        refused = daybook(*words)
        assert (refused.code, "not_found" in refused.err) == (ExitCode.REFUSED, True), words
    assert daybook(*mine, "--limit", "1").code == ExitCode.USAGE
    assert daybook("repair", "explain", "named-1", "--json").json["parked"]["reason"] == "no_rule"

    begins = first["ruleset_hash"][:12]
    tried = daybook(*mine, "--rules", begins, "--json").json
    assert [each["reason"] for each in tried["operations"]] == ["no_rule"]


def test_an_operation_that_needs_no_retry_is_said_to_be_vouchered(daybook: Daybook) -> None:
    opened = ("--owner", "U-1", "--type", "customer", "--subject", "2001.01")
    assert daybook("accounts", "open", "C-fine", *opened).code == ExitCode.OK
    daybook("post", "recharge", "--credit", "C-fine=1.00", "--id", "fine-1")
    daybook("trial-balance", "--operation", "fine-1")

    tried = daybook("repair", "retry", "fine-1")

    assert (tried.code, "fine-1 is vouchered" in tried.out) == (ExitCode.OK, True)
    assert "it is vouchered" in daybook("repair", "explain", "fine-1").err
    assert "not in the books" in daybook("repair", "explain", "fine-2").err


def test_a_dry_run_prints_the_lines_it_would_make_in_major_units(daybook: Daybook) -> None:
    park(daybook, "C-dry", "dry-1")
    mine = ("repair", "retry", "--account", "C-dry")
    parked = daybook(*mine, "--dry-run")
    assert parked.code == ExitCode.NO
    assert "1 would be tried: 1 parked no_rule" in parked.out
    published = daybook("rules", "publish", "--with", VOUCHER_SALE, "--json").json
    daybook("trial-balance", "--min-position", str(published["position"]))

    dry = daybook(*mine, "--dry-run")

    assert dry.code == ExitCode.OK
    for words in ("dry-1", "vouchered", DAY, "2001.01", "C-dry", "50.00", "CNY"):
        assert words in dry.out
    assert daybook("repair", "list", "--account", "C-dry").code == ExitCode.NO
    [lines] = [item["vouchers"][0]["lines"] for item in daybook(*mine, "--dry-run", "--json").json]
    assert [line["amount"] for line in lines] == [50_00, 50_00]
    assert daybook(*mine, "--note", "rule added").code == ExitCode.OK
    daybook("rules", "publish")


def test_a_retry_is_ordered_by_the_principal_of_a_key_with_the_scope(daybook: Daybook) -> None:
    park(daybook, "C-key", "key-1")
    mine = ("repair", "retry", "key-1")
    reader, ruth = new_key(daybook, "reader", "read"), new_key(daybook, "ruth", "repair")

    for key in (reader, "dbk_unknown"):
        assert daybook(*mine, "--key", key).code == ExitCode.REFUSED
    tried = daybook(*mine, "--key", ruth, "--json")

    assert tried.code == ExitCode.NO
    assert "still open: 1 no_rule" in daybook(*mine, "--key", ruth).out
    [order] = tried.json["orders"]
    parked = daybook("repair", "explain", "key-1")
    assert "last attempt" in parked.out
    assert (
        daybook("repair", "explain", "key-1", "--json").json["parked"]["attempt_position"] > order
    )


def test_an_override_from_a_file_needs_two_keys_of_two_principals(
    daybook: Daybook, tmp_path: Path
) -> None:
    park(daybook, "C-over", "over-1", "over-2")
    alice = new_key(daybook, "alice", "repair", "read", "approve")
    bob = new_key(daybook, "bob", "approve", "read")
    file = tmp_path / "lines.toml"
    file.write_text(LINES.format(account="C-over"))
    propose = ("repair", "override", "propose")

    made = daybook(*propose, "over-1", "--lines", str(file), "--key", alice, "--json")
    assert made.code == ExitCode.OK, made.err
    override_id = made.json["override_id"]
    listed = daybook("repair", "override", "list")
    for words in (override_id, "alice", "50.00 CNY", "agreed by telephone"):
        assert words in listed.out
    same = daybook("repair", "override", "approve", override_id, "--key", alice)
    assert same.code == ExitCode.REFUSED
    assert "same_principal" in same.err
    approved = daybook("repair", "override", "approve", override_id, "--key", bob)
    assert approved.code == ExitCode.OK, approved.err
    assert "approved by bob, performed" in approved.out
    assert "over-1: vouchered" in approved.out
    [voucher] = daybook("vouchers", "--operation", "over-1", "--json").json or [{}]
    assert voucher["rule_id"] == "override"

    second = daybook(*propose, "over-2", "--lines", str(file), "--key", alice, "--json").json
    rejected = daybook(
        "repair", "override", "reject", second["override_id"], "--note", "no", "--key", bob
    )
    assert "rejected by bob" in rejected.out
    assert daybook("repair", "override", "list", "--json").json == []
    everything = daybook("repair", "override", "list", "--all", "--json").json
    assert [item["status"] for item in everything] == ["approved", "rejected"]
    assert "alice" in daybook("repair", "override", "show", override_id).out
    assert daybook("repair", "override", "show", "nonsense").code == ExitCode.REFUSED


def test_a_proposal_that_another_has_overtaken_says_so(daybook: Daybook, tmp_path: Path) -> None:
    park(daybook, "C-twice", "twice-1")
    alice = new_key(daybook, "alice", "repair", "read", "approve")
    bob = new_key(daybook, "bob", "approve", "read")
    file = tmp_path / "lines.toml"
    file.write_text(LINES.format(account="C-twice"))
    propose = ("repair", "override", "propose", "twice-1", "--lines", str(file), "--key", alice)
    one, other = [daybook(*propose, "--json").json["override_id"] for _ in range(2)]

    assert "reject this" not in daybook("repair", "override", "list").out
    assert daybook("repair", "override", "approve", one, "--key", bob).code == ExitCode.OK
    assert "the operation is vouchered: reject this" in daybook("repair", "override", "list").out
    gone = daybook("repair", "override", "reject", other, "--note", "overtaken", "--key", bob)
    assert gone.code == ExitCode.OK, gone.err
    assert daybook("repair", "override", "list", "--json").json == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.toml", LINES.replace('"50.00"', "50"), "text in major units"),
        ("x.toml", LINES.replace('"50.00"', '"50.001"'), "no amount in CNY"),
        ("x.toml", LINES.replace("debit", "left"), "lines[0].side"),
        ("x.toml", LINES + 'colour = "red"', "colour"),
        ("x.toml", "lines = [", "x.toml"),
        ("x.json", '{"note": "no lines"}', "lines"),
    ],
)
def test_a_file_that_is_not_exactly_an_override_is_refused_with_the_place(
    daybook: Daybook, tmp_path: Path, name: str, text: str, words: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    refused = daybook("repair", "override", "propose", "any", "--lines", str(file))
    assert refused.code == ExitCode.USAGE
    assert words in refused.err.replace("\n", " ")


def test_the_same_lines_in_toml_and_json_are_the_same_body() -> None:
    lines = [
        {"side": "debit", "subject": "2001.01", "account": "C", "currency": "CNY", "amount": "50"},
        {"side": "credit", "subject": "5001.01", "currency": "CNY", "amount": "50.00"},
    ]
    given = {"accounting_date": "2026-02-01", "note": "agreed by telephone", "lines": lines}
    as_json = override_of(json.dumps(given).encode(), "-")
    as_toml = override_of(
        f"accounting_date = 2026-02-01\n{LINES.format(account='C')}".encode(), "lines.toml"
    )
    assert as_json == as_toml
    assert [line["amount"] for line in as_json["lines"]] == [50_00, 50_00]


def test_explain_shows_the_chain_of_what_waits(daybook: Daybook) -> None:
    park(daybook, "C-chain", "chain-1")
    daybook(
        "post", "refund", "--id", "chain-2", "--credit", "C-chain=50.00", "--original", "chain-1"
    )
    daybook("trial-balance", "--operation", "chain-2")

    front, behind = (daybook("repair", "explain", name) for name in ("chain-1", "chain-2"))

    assert "chain-2 (for chain-1)" in front.out
    assert behind.out.count("chain-1 (parked no_rule)") == 2  # depends on it, and waits for it
    assert "first attempt" in front.out


@pytest.mark.parametrize(
    ("age_s", "words"),
    [
        (None, ""),
        (0.4, "0 s"),
        (59, "59 s"),
        (61, "1 min"),
        (3_660, "1 h 1 min"),
        (90_061, "1 d 1 h"),
    ],
)
def test_an_age_is_said_in_its_two_greatest_units(age_s: float | None, words: str) -> None:
    assert age_words(age_s) == words


def test_amounts_without_money_are_not_shown() -> None:
    assert amounts_words({"": 0}) == ""
    assert amounts_words({"CNY": 1_234_56, "JPY": 7}) == "1,234.56 CNY, 7 JPY"


def test_what_was_dated_into_another_day_is_said_with_how_many_and_why_others_are_open() -> None:
    cut = "dated into the open day 2026-02-02: 2026-01-31 is cut"
    report = [
        Repaired("a", "vouchered", None, cut, 9),
        Repaired("b", "vouchered", None, cut, 9),
        Repaired("c", "vouchered", None, None, 9),
        Repaired("d", "parked", "no_rule", "voucher_sale", 9),
    ]
    assert list(_closer(report)) == ["still open: 1 no_rule", f"2 {cut}"]
