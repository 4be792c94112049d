"""Accounting decisions are events in the ledger's log, each with its maker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from accounting.decisions import (
    OPERATIONS_PER_ORDER_MAX,
    AccountingDecisions,
    DecisionRefused,
    GivenLine,
    MessageSetAside,
    OverrideApproved,
    OverrideProposed,
    OverrideRejected,
    RepairRequested,
    RulesetPublished,
    decode_decision,
    in_orders,
)
from consumers.messages import Unreadable
from consumers.set_aside import is_set_aside
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


def test_another_message_at_the_place_of_one_set_aside_is_not_passed_over(
    database_url: str,
) -> None:
    """A topic that was deleted and made anew gives the same offsets to other messages."""

    def unreadable(raw: bytes, topic: str = "t") -> Unreadable:
        return Unreadable("foreign", topic=topic, partition=0, at_offset=1, raw=raw)

    with decision_log(database_url) as decisions, connect_to(database_url) as conn:
        decisions.set_aside("t", 0, 1, b"x", reason="r", maker="m")
        assert is_set_aside(conn, unreadable(b"x"))
        assert not is_set_aside(conn, unreadable(b"y"))
        assert decisions.set_aside("t", 0, 1, b"y", reason="r", maker="m") is not None
        assert is_set_aside(conn, unreadable(b"y"))
        assert not is_set_aside(conn, unreadable(b"x", topic="log"))


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


LINES = [GivenLine("debit", "1001", "CNY", 5, "C-1")]


def propose(decisions: AccountingDecisions) -> UUID:
    """Propose lines for operation a of book main, as alice."""
    return decisions.propose_override(
        "main", "a", LINES, accounting_date="2026-01-31", maker="alice", note="by hand"
    )


def test_a_rejected_override_cannot_be_approved_and_names_who_rejected_it(
    database_url: str,
) -> None:
    with decision_log(database_url) as decisions:
        override_id = propose(decisions)
        decisions.reject_override(override_id, checker="bob", note="wrong subject")
        with pytest.raises(DecisionRefused, match="bob has rejected") as approved:
            decisions.approve_override(override_id, checker="carol")
        with pytest.raises(DecisionRefused) as rejected:
            decisions.reject_override(override_id, checker="carol")

    assert approved.value.code == rejected.value.code == "already_rejected"
    with connect_to(database_url) as conn:
        rows = conn.execute(
            "SELECT topic, state FROM ledger.stored_events ORDER BY notification_id"
        ).fetchall()
    proposed, said_no = (decode_decision(topic, state) for topic, state in rows)
    assert proposed == OverrideProposed("main", "a", "2026-01-31", tuple(LINES), "alice", "by hand")
    assert said_no == OverrideRejected("main", "a", "bob", "wrong subject")


def test_the_maker_may_take_a_proposal_back_but_not_approve_it(database_url: str) -> None:
    with decision_log(database_url) as decisions:
        override_id = propose(decisions)
        with pytest.raises(DecisionRefused, match="two people"):
            decisions.approve_override(override_id, checker="alice")
        assert decisions.reject_override(override_id, checker="alice") > 0


def test_a_proposal_of_another_book_is_unknown(database_url: str) -> None:
    with decision_log(database_url) as decisions:
        override_id = propose(decisions)
        for decide in (decisions.approve_override, decisions.reject_override):
            with pytest.raises(DecisionRefused) as refused:
                decide(override_id, checker="bob", book_id="other")
            assert refused.value.code == "unknown_override"


def test_of_two_people_who_decide_at_once_one_is_told_of_the_other(database_url: str) -> None:
    with decision_log(database_url) as decisions:
        override_id = propose(decisions)

    def decide(checker: str) -> str:
        with decision_log(database_url) as decisions:
            try:
                decisions.approve_override(override_id, checker=checker)
            except DecisionRefused as refused:
                return refused.code
            return "approved"

    with ThreadPoolExecutor(4) as pool:
        told = sorted(pool.map(decide, ("bob", "carol", "dave", "eve")))

    assert told == ["already_approved"] * 3 + ["approved"]
