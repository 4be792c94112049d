"""A chart and rules are validated as a whole, with errors that name file, rule and line."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.rules import RuleError, Ruleset, load_ruleset
from accounting.ruleset import InvalidRulesetError, ruleset_from_content
from accounting.ruleset_files import SHIPPED, shipped_ruleset
from tests.accounting.operation_text import loaded, valid

CHART = """\
version = "test"
[[subject]]
code = "1002"
name = "Bank"
class = "asset"
[[subject]]
code = "2001"
name = "Deposits"
class = "liability"
[[subject]]
code = "2001.01"
name = "Customers"
class = "liability"
parent = "2001"
controlled = true
[[subject]]
code = "9001"
name = "Guarantees"
class = "off_balance"
"""
RULE = """\
[[rule]]
id = "r"
business_type = "recharge"
effective_from = 2026-01-01
amounts = { fee = "optional" }
lines = [
  { take = "credit", as = "deposited" },  # a comment with "quotes" and [brackets]
  { debit = "1002", amount = "deposited" },
]
"""
RULE_STARTS = CHART.count("\n") + 1
SUBJECT = '[[subject]]\ncode = "3001"\nname = "New"\nclass = "common"\n'

SMALL = {
    "format": 1,
    "version": "1",
    "chart": {
        "levels": ["one", "two"],
        "suspense_subject": "2001.01",
        "currencies": ["CNY"],
        "subjects": [
            {"code": "1002", "name": "Bank", "class": "asset"},
            {"code": "2001", "name": "Deposits", "class": "liability"},
            {"code": "2001.01", "name": "C", "class": "liability", "parent": "2001"},
        ],
    },
    "rules": [
        {
            "id": "r",
            "business_type": "recharge",
            "effective_from": "2026-01-01",
            "amounts": {"fee": "optional"},
            "vouchers": [
                [
                    {"take": "credit", "subject": ["2001"], "as": "x"},
                    {"debit": "1002", "amount": "x"},
                ]
            ],
        }
    ],
}


def changed(old: str, new: str, text: str = CHART + RULE) -> str:
    assert old in text
    return text.replace(old, new, 1)


def rule_with(lines: str, head: str = "") -> str:
    """A rule with other lines; its first line stands 6 lines below its header."""
    return (
        CHART
        + '[[rule]]\nid = "r"\nbusiness_type = "t"\neffective_from = 2026-01-01\n'
        + (head or 'amounts = { fee = "optional" }')
        + f"\nlines = [\n{lines}\n]\n"
    )


# Each case: the content, then the code of the finding, the line it names, and its owner.
WRONG_CHARTS = {
    "unknown_field": (CHART + SUBJECT + "kind = 1\n", 24, "3001"),
    "missing_field": (changed('name = "Bank"\n', ""), 2, "1002"),
    "wrong_type": (changed("controlled = true", 'controlled = "yes"'), 15, "2001.01"),
    "bad_code": (changed('code = "1002"', 'code = "10 02"', CHART), 3, "10 02"),
    "unknown_class": (changed('"asset"', '"assets"', CHART), 5, "1002"),
    "duplicate_subject": (CHART + changed("3001", "1002", SUBJECT), 20, "1002"),
    "dangling_parent": (CHART + SUBJECT + 'parent = "3000"\n', 24, "3001"),
    "class_mismatch": (CHART + SUBJECT + 'parent = "9001"\n', 23, "3001"),
    "controlled_not_leaf": (
        changed('name = "Deposits"\n', 'name = "Deposits"\ncontrolled = true\n'),
        6,
        "2001",
    ),
    "dangling_suspense": (
        changed("[[subject]]", '[chart]\nsuspense_subject = "2001"\n[[subject]]', CHART),
        3,
        "2001",
    ),
    "too_deep": (changed("[[subject]]", '[chart]\nlevels = ["one"]\n[[subject]]'), 16, "2001.01"),
}
WRONG_RULES = {
    "bad_date": (changed("= 2026-01-01", '= "2026-02-30"'), 3, "r"),
    "bad_date_range": (changed("amounts =", "effective_to = 2025-12-31\namounts ="), 4, "r"),
    "duplicate_rule": (
        CHART + RULE + changed('"recharge"', '"other"', RULE),
        RULE.count("\n") + 1,
        "r",
    ),
    "overlapping_rules": (
        CHART
        + changed("amounts", "effective_to = 2026-12-31\namounts", RULE)
        + changed('"r"', '"r2"', changed("2026-01-01", "2026-12-31", RULE)),
        RULE.count("\n") + 4,
        "r2",
    ),
    "no_lines": (CHART + RULE[: RULE.index("lines")], 0, "r"),
    "two_bodies": (CHART + RULE + 'vouchers = [[{ take = "credit" }]]\n', 0, "r"),
    "non_posting_with_lines": (CHART + RULE + "non_posting = true\n", 0, "r"),
    "bad_name": (changed("{ fee =", "{ Fee ="), 4, "r"),
    "bad_line": (changed('{ debit = "1002",', '{ debit = "1002", credit = "1002",'), 7, "r"),
    "bad_amount": (changed('amount = "deposited"', 'amount = "2 * deposited"'), 7, "r"),
    "dangling_subject": (changed('debit = "1002"', 'debit = "1003"'), 7, "r"),
    "subject_not_leaf": (changed('debit = "1002"', 'debit = "2001"'), 7, "r"),
    "amount_on_controlled": (changed('debit = "1002"', 'debit = "2001.01"'), 7, "r"),
    "unknown_amount": (changed('amount = "deposited"', 'amount = "deposit"'), 7, "r"),
    "duplicate_name": (changed('as = "deposited"', 'as = "fee"'), 6, "r"),
    "overlapping_takes": (
        rule_with('{ take = "debit" },\n{ take = "capture", subject = "2001" },'),
        7,
        "r",
    ),
    "mixed_take": (
        rule_with('{ take = "debit", subject = ["9001", "2001"] }, { take = "credit" }'),
        6,
        "r",
    ),
    "unbalanced_rule": (changed('amount = "deposited"', 'amount = "deposited + fee"'), 0, "r"),
}


def findings(content: Ruleset | list[RuleError]) -> list[RuleError]:
    assert isinstance(content, list), "expected errors"
    return content


def test_the_right_chart_and_rule_are_accepted(tmp_path: Path) -> None:
    valid(tmp_path, CHART + RULE)


@pytest.mark.parametrize("code", WRONG_CHARTS)
def test_a_wrong_chart_is_refused_with_file_subject_and_line(code: str, tmp_path: Path) -> None:
    text, line, subject = WRONG_CHARTS[code]

    errors = findings(loaded(tmp_path, text))

    named = [(e.code, e.line, e.rule) for e in errors]
    assert (code, line, subject) in named
    assert {Path(e.file).name for e in errors} == {"books.toml"}


@pytest.mark.parametrize("code", WRONG_RULES)
def test_a_wrong_rule_is_refused_with_file_rule_and_line(code: str, tmp_path: Path) -> None:
    text, lines_below, rule = WRONG_RULES[code]

    errors = findings(loaded(tmp_path, text))

    named = [(e.code, e.line, e.rule) for e in errors]
    assert (code, RULE_STARTS + lines_below, rule) in named
    assert str(errors[0]).startswith(f"{tmp_path / 'books.toml'}:{errors[0].line}: {rule}:")


def test_a_cycle_is_named_at_each_subject_that_forms_it(tmp_path: Path) -> None:
    ring = "".join(
        f'[[subject]]\ncode = "{code}"\nname = "n"\nclass = "common"\nparent = "{parent}"\n'
        for code, parent in (("A", "B"), ("B", "C"), ("C", "A"), ("D", "A"), ("E", "E"))
    )

    errors = findings(loaded(tmp_path, 'version = "test"\n' + ring))

    assert [(e.rule, e.line, e.code) for e in errors] == [
        ("A", 6, "parent_cycle"),
        ("B", 11, "parent_cycle"),
        ("C", 16, "parent_cycle"),
        ("E", 26, "parent_cycle"),
    ]
    assert errors[0].message == "parents form a cycle: A > B > C > A"


def test_all_errors_of_all_files_are_given_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(changed('class = "asset"', 'class = "assets"', CHART))
    (tmp_path / "b.toml").write_text(changed("2026-01-01", '"soon"', RULE))

    errors = findings(load_ruleset(tmp_path))

    assert [(Path(e.file).name, e.line, e.code) for e in errors] == [
        ("a.toml", 5, "unknown_class"),
        ("b.toml", 4, "bad_date"),
    ]


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        ('{ take = "credit" }', "credits exceed by the legs of line 1"),
        (
            '{ take = "debit", as = "x" }, { credit = "1002", amount = "x - fee" }',
            "debits exceed by fee",
        ),
        (
            '{ take = "debit", as = "x" }, { credit = "1002", amount = "fee" }',
            "cannot balance when no optional amount is given: debits exceed by x",
        ),
    ],
)
def test_a_rule_that_can_never_balance_is_shown_to_be_so(
    lines: str, verdict: str, tmp_path: Path
) -> None:
    errors = findings(loaded(tmp_path, rule_with(lines)))

    assert [e.code for e in errors] == ["unbalanced_rule"]
    assert verdict in errors[0].message


@pytest.mark.parametrize(
    "lines",
    [
        '{ take = "debit" }, { take = "credit" }',
        '{ take = "debit" }, { take = "credit" }, { credit = "1002", amount = "fee" }',
        '{ debit = "9001", amount = "fee" }',
        '{ take = "credit", subject = "9001" }',
    ],
)
def test_what_may_balance_and_what_is_single_entry_is_accepted(lines: str, tmp_path: Path) -> None:
    valid(tmp_path, rule_with(lines))


def test_broken_files_are_findings_and_not_exceptions(tmp_path: Path) -> None:
    assert [e.code for e in findings(load_ruleset(tmp_path))] == ["no_files"]
    assert [e.code for e in findings(load_ruleset(SHIPPED, tmp_path / "no.toml"))] == ["no_files"]

    (tmp_path / "x.toml").write_text('version = "1"\n\nnot toml\n')
    (tmp_path / "y.toml").write_bytes(b'version = "1"\n# \xff\n')
    errors = findings(load_ruleset(tmp_path))
    assert [(e.code, e.line) for e in errors] == [("not_toml", 3), ("not_utf8", 2)]


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (CHART + "ruel = 1\n", "unknown_field", 20),
        ("what = 1\n" + CHART, "unknown_field", 1),
        (changed('version = "test"\n', "", CHART), "missing_field", 0),
        (changed('"test"', "7", CHART), "wrong_type", 1),
        (CHART + "[rule]\nid = 'r'\n", "wrong_type", 20),
        ("chart = 7\n" + CHART, "wrong_type", 1),
        ("subject = [7]\nversion = 'x'\n", "wrong_type", 1),
    ],
)
def test_what_is_not_a_table_of_the_format_is_refused(
    text: str, code: str, line: int, tmp_path: Path
) -> None:
    errors = findings(loaded(tmp_path, text))

    assert (code, line) in [(e.code, e.line) for e in errors]


def test_the_label_and_the_chart_table_are_given_once(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('version = "1"\n[chart]\nlevels = ["one"]\n')
    (tmp_path / "b.toml").write_text('version = "1"\n[chart]\nlevels = ["one"]\n')

    errors = findings(load_ruleset(tmp_path))

    assert [(e.code, e.line) for e in errors] == [
        ("duplicate_setting", 1),
        ("duplicate_setting", 2),
    ]


def test_the_hash_does_not_depend_on_format_order_comments_or_files(tmp_path: Path) -> None:
    one = tmp_path / "one"
    two = tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "all.toml").write_text(CHART + RULE)
    first, *subjects = CHART.split("[[subject]]")
    (two / "z.toml").write_text(
        "# a comment\r\n" + first + "".join("[[subject]]" + s for s in reversed(subjects))
    )
    (two / "a.toml").write_text(
        """
[[rule]]
vouchers = [[
  { as = "deposited", take = "credit" },
  { amount = "  + deposited", debit = "1002" },
]]
amounts.fee = "optional"
effective_from = "2026-01-01"
non_posting = false
business_type = "recharge"
id = "r"
"""
    )

    a, b = load_ruleset(one), load_ruleset(two)

    assert isinstance(a, Ruleset), a
    assert isinstance(b, Ruleset), b
    assert a.hash == b.hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"Bank"', '"Banks"'),
        ("controlled = true", "controlled = false"),
        ("2026-01-01", "2026-01-02"),
        ('"optional"', '"required"'),
        ('"test"', '"test-2"'),
    ],
)
def test_any_change_of_meaning_changes_the_hash(old: str, new: str, tmp_path: Path) -> None:
    before = valid(tmp_path, CHART + RULE).hash

    assert valid(tmp_path, changed(old, new)).hash != before


def test_the_document_survives_json_and_is_validated_before_it_is_published() -> None:
    ruleset = shipped_ruleset()
    document = json.loads(json.dumps(ruleset.to_document()))

    again = ruleset_from_content(document)

    assert isinstance(again, Ruleset)
    assert again.hash == ruleset.hash
    posting = next(rule for rule in document["rules"] if "vouchers" in rule)
    posting["vouchers"] = [[{"debit": "none", "amount": "x"}]]
    errors = findings(ruleset_from_content(document))
    assert {e.code for e in errors} >= {"dangling_subject"}


@pytest.mark.parametrize(
    "document", [{}, {"version": 1}, {"version": "1", "chart": {}, "rules": 3}]
)
def test_a_document_without_the_shape_of_a_ruleset_is_refused(document: dict[str, object]) -> None:
    assert [e.code for e in findings(ruleset_from_content(document))] == ["wrong_type"]


def test_a_document_of_an_unknown_format_is_not_read_back() -> None:
    with pytest.raises(InvalidRulesetError, match="unknown ruleset format 2"):
        Ruleset.from_document({"format": 2})
    with pytest.raises(InvalidRulesetError, match="not the shape"):
        Ruleset.from_document({"format": 1, "version": "1"})
    with pytest.raises(InvalidRulesetError, match="missing field 'id'"):
        Ruleset.from_document({"format": 1, "version": "1", "chart": {}, "rules": [{}]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.text(max_size=3), inside),
    max_leaves=4,
)


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_damaged_in_a_document_is_a_finding_and_not_an_exception(
    data: st.DataObject,
) -> None:
    document = json.loads(json.dumps(SMALL))
    at = document
    while isinstance(at, dict | list) and at:
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or data.draw(st.integers(0, 3)) == 0:
            at[key] = data.draw(JSON)
            break
        at = at[key]

    found = ruleset_from_content(document)

    assert isinstance(found, Ruleset) or all(error.code and error.message for error in found)


@settings(max_examples=300)
@given(
    st.integers(0, len(CHART + RULE)), st.integers(0, 9), st.text("[]{}=\"',#\n \\.1a", max_size=3)
)
def test_whatever_is_damaged_in_a_file_is_a_finding_with_a_line_of_that_file(
    start: int, length: int, put: str
) -> None:
    text = (CHART + RULE)[:start] + put + (CHART + RULE)[start + length :]

    with TemporaryDirectory() as folder:
        found = loaded(Path(folder), text)

    if not isinstance(found, Ruleset):
        assert all(0 <= error.line <= text.count("\n") + 1 for error in found)
