"""Accounting decisions are events in the ledger's log, each with its maker."""

from __future__ import annotations

from uuid import uuid4

import pytest

from accounting.decisions import (
    OPERATIONS_PER_ORDER_MAX,
    AccountingDecisions,
    DecisionRefused,
    GivenLine,
    MessageSetAside,
    OverrideApproved,
    RepairRequested,
    RulesetPublished,
    decode_decision,
    in_orders,
)
from infra.decision_log import decision_log
from projections.positions import select_head
from projections.tables import connect_to

DOCUMENT = {"format": 1, "rules": [{"lines": []}]}


def publish(decisions: AccountingDecisions, ruleset_hash: str, **more: str) -> int | None:
    """Publish some content for book main."""
    return decisions.publish_ruleset(
        "main", DOCUMENT, ruleset_hash=ruleset_hash, label="v1", maker="alice", **more
    )


def test_each_decision_is_read_back_from_the_log_as_it_was_made(database_url: str) -> None:
    with decision_log(database_url) as decisions:
        publish(decisions, "h1")
        decisions.request_repair("main", ["a", "b"], maker="alice", ruleset_hash="h1", note="n")
        lines = [GivenLine("debit", "1001", "CNY", 5, "C-1")]
        override_id = decisions.propose_override(
            "main", "a", lines, accounting_date="2026-01-31", maker="alice"
        )
        decisions.approve_override(override_id, checker="bob")
        decisions.set_aside("t", 3, 9, b"\xff\x00", reason="foreign", maker="olga")

    with connect_to(database_url) as conn:
        rows = conn.execute(
            "SELECT topic, state FROM ledger.stored_events ORDER BY notification_id"
        ).fetchall()
    made = [decode_decision(topic, state) for topic, state in rows]
    assert made[1] == RulesetPublished("main", "v1", "h1", "0001-01-01", "alice", DOCUMENT)
    assert made[2] == RepairRequested("main", ("a", "b"), "alice", "h1", "n")
    assert made[4] == OverrideApproved("main", "a", "2026-01-31", tuple(lines), "alice", "bob")
    assert made[5] == MessageSetAside("t", 3, 9, "/wA=", "foreign", "olga")


def test_a_decision_answers_with_its_position_in_the_log(database_url: str) -> None:
    with decision_log(database_url) as decisions, connect_to(database_url) as conn:
        assert publish(decisions, "h1") == select_head(conn)
        assert decisions.request_repair("main", ["a"], maker="m") == select_head(conn)


def test_the_same_content_is_published_once_in_a_row(database_url: str) -> None:
    with decision_log(database_url) as decisions:
        assert publish(decisions, "h1") is not None
        assert publish(decisions, "h1") is None
        assert publish(decisions, "h1", effective_from="2026-02-01") is not None
        assert publish(decisions, "h2") is not None
        assert publish(decisions, "h1") is not None  # back to the first: in force again


def test_a_message_is_set_aside_once(database_url: str) -> None:
    with decision_log(database_url) as decisions:
        assert decisions.set_aside("t", 0, 1, b"x", reason="r", maker="m") is not None
        assert decisions.set_aside("t", 0, 1, b"x", reason="r", maker="m") is None


def test_an_order_names_one_to_a_thousand_operations(database_url: str) -> None:
    with decision_log(database_url) as decisions:
        for count in (0, OPERATIONS_PER_ORDER_MAX + 1):
            with pytest.raises(DecisionRefused, match="1 to 1000"):
                decisions.request_repair("main", ["x"] * count, maker="m")
    sizes = [len(chunk) for chunk in in_orders([str(number) for number in range(2500)])]
    assert sizes == [1000, 1000, 500]
    long = [f"{number:04}" + "é" * 124 for number in range(1000)]
    assert [operation_id for chunk in in_orders(long) for operation_id in chunk] == long
    assert len(list(in_orders(long))) == 2


def test_a_decision_that_no_message_can_carry_is_refused(database_url: str) -> None:
    with decision_log(database_url) as decisions:
        with pytest.raises(DecisionRefused, match="do not fit a message"):
            decisions.publish_ruleset(
                "main", {"x": "y" * 300_000}, ruleset_hash="h", label="l", maker="alice"
            )
        assert decisions.set_aside("t", 0, 1, b"x" * 600_000, reason="big", maker="olga")


def test_an_unknown_override_cannot_be_approved(database_url: str) -> None:
    with decision_log(database_url) as decisions, pytest.raises(DecisionRefused) as refused:
        decisions.approve_override(uuid4(), checker="bob")

    assert refused.value.code == "unknown_override"
