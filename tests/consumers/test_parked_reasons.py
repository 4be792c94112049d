"""Each business failure parks with its own reason and rules; what depends on it waits for it."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import psycopg
import pytest

from accounting import periods
from accounting.ruleset import Ruleset
from accounting.ruleset_files import shipped_ruleset
from consumers.rebuild import rebuild
from consumers.repair import explain
from infra import audit
from infra.decision_log import decision_log
from projections.outcomes import PARKED, WAITING
from projections.parked import ParkedOperation, select_parked
from projections.tables import connect_to
from tests.audit import story
from tests.consumers.caught_up import consume_log, statuses
from tests.consumers.test_order import changed
from tests.consumers.written_log import BOOK, DAY, MERCHANT, WrittenLog, leg
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger

CLOSED = "2025-12-31"
EXPECTED = {
    "no rule": ("no_rule", f"lottery on {DAY}"),
    "unmapped subject": ("unmapped_subject", "leg 1: credit C-1 on subject 2999.99"),
    "closed period": ("closed_period", f"{CLOSED} is closed through {CLOSED}"),
    "unbalanced": ("unbalanced", "voucher 1: debits - credits = 7 CNY"),
    "unknown currency": ("unknown_currency", "USD"),
    "missing named amount": ("missing_named_amount", "fee"),
}


def strict_rules() -> Ruleset:
    """The shipped rules, for one currency only, with a fee that fees must name."""
    document = copy.deepcopy(shipped_ruleset().to_document())
    document["chart"]["currencies"] = ["CNY"]
    (transfer,) = (rule for rule in document["rules"] if rule["business_type"] == "transfer")
    transfer["amounts"] = {"fee": "required"}
    return Ruleset.from_document(document)


def open_items(database_url: str) -> dict[str, ParkedOperation]:
    with connect_to(database_url) as conn:
        return {each.operation_id: each for each in select_parked(conn, BOOK).items}


def test_each_business_failure_parks_with_its_reason_and_the_rules_tried(
    database_url: str,
) -> None:
    written = WrittenLog(database_url)
    rules = strict_rules()
    position = written.publish(rules)
    changed(written, periods.CLOSE, CLOSED)
    moved = [leg("debit", "C-1", 500), leg("credit", "M-1", 493, MERCHANT)]
    written.commit(
        written.operation("no rule", [leg("credit", "C-1", 5)], business_type="lottery"),
        written.operation("unmapped subject", [leg("credit", "C-1", 5, "2999.99")]),
        written.recharge("closed period", day=CLOSED),
        written.operation("unbalanced", moved, business_type="payment"),
        written.recharge("unknown currency", currency="USD"),
        written.operation("missing named amount", moved, business_type="transfer"),
        written.recharge("everything else flows"),
    )

    consume_log(database_url)

    assert statuses(database_url).pop("everything else flows") == ("vouchered", None)
    found = open_items(database_url)
    assert {name: (each.reason, each.detail) for name, each in found.items()} == EXPECTED
    for each in found.values():
        assert each.ruleset_hash == rules.hash
        assert each.first_attempt_position == each.attempt_position == each.position > position
        assert each.first_attempt_at == each.last_attempt_at is not None


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A ledger whose rules know neither holds nor payments, with money on C-1."""
    with running_ledger(database_url) as running:
        story.publish(database_url, story.without(shipped_ruleset(), "hold", "payment"))
        running.open("C-1")
        running.open("M-1", type="merchant", subject=MERCHANT)
        running.post(b.post("recharge", b.credit("C-1", 10_000)))
        yield running


def test_what_follows_a_parked_operation_waits_whatever_partition_it_is_in(
    ledger: Ledger, database_url: str
) -> None:
    ledger.post(
        b.post("hold", b.hold("C-1", 3_000, "H"), operation_id="the hold"),
        b.post("payment", b.debit("C-1", 700), b.credit("M-1", 700), operation_id="the payment"),
    )
    ledger.post(
        b.post(
            "payment_capture",
            b.capture("C-1", 1_000, "H"),
            b.credit("M-1", 1_000),
            operation_id="a capture of its hold",
        ),
        b.post("release", b.release("C-1", 500, "H"), operation_id="a release of its hold"),
        b.post(
            "refund",
            b.debit("M-1", 100),  # M-1 comes first: it travels in the partition of M-1
            b.credit("C-1", 100),
            operation_id="a refund of it",
            original_operation_id="the payment",
        ),
        b.post(
            "correction",
            b.debit("M-1", 30),
            b.credit("C-1", 30),
            operation_id="a correction of it",
            original_operation_id="the payment",
        ),
        b.post("transfer", b.debit("C-1", 1), b.credit("M-1", 1), operation_id="another"),
    )

    consume_log(database_url)

    assert statuses(database_url)["another"] == ("vouchered", None)
    with connect_to(database_url) as conn:
        items = select_parked(conn, b.BOOK).items
    assert {each.operation_id: (each.status, each.waits_for) for each in items} == {
        "the hold": (PARKED, None),
        "the payment": (PARKED, None),
        "a capture of its hold": (WAITING, "the hold"),
        "a release of its hold": (WAITING, "the hold"),
        "a refund of it": (WAITING, "the payment"),
        "a correction of it": (WAITING, "the payment"),
    }
    story.publish(database_url, shipped_ruleset())
    with decision_log(database_url) as decisions:
        decisions.request_repair(b.BOOK, ["the hold", "the payment"], maker="alice")
    consume_log(database_url)

    after = statuses(database_url)
    assert after["a capture of its hold"] == after["a refund of it"] == ("vouchered", None)
    assert after["a correction of it"] == ("vouchered", None)
    assert after["a release of its hold"] == after["the hold"] == ("non_posting", None)


def test_what_follows_several_waits_for_one_after_the_other_and_shows_them_all(
    ledger: Ledger, database_url: str
) -> None:
    """It waited for one only, and was vouchered while the opener of its other hold was parked."""
    ledger.post(
        b.post("hold", b.hold("C-1", 300, "H-1"), operation_id="first"),
        b.post("hold", b.hold("C-1", 200, "H-2"), operation_id="second"),
        b.post("payment", b.debit("C-1", 9), b.credit("M-1", 9), operation_id="paid"),
    )
    ledger.post(
        *(
            b.post(
                "payment_capture",
                b.capture("C-1", 100, "H-2"),
                b.capture("C-1", 150, "H-1"),
                b.credit("M-1", 250),
                operation_id=name,
                original_operation_id="paid",
            )
            for name in ("all three", "woken")
        )
    )
    seen = []

    def look() -> None:
        consume_log(database_url)
        with psycopg.connect(database_url) as conn:
            assert audit.verify(conn).difference is None
        assert rebuild(database_url, swap=False).difference is None
        item = open_items(database_url).get("all three")
        seen.append(item and (item.depends_on, item.waits_for))

    look()
    story.publish(database_url, shipped_ruleset())
    with connect_to(database_url) as conn:
        explained = explain(conn, BOOK, "all three")
    for named in (["second"], ["paid"], ["first"]):
        with decision_log(database_url) as decisions:
            decisions.request_repair(b.BOOK, [*named, "all three"], maker="alice")
        look()

    depends_on = ("paid", "second", "first")
    assert seen == [(depends_on, "paid"), (depends_on, "paid"), (depends_on, "first"), None]
    assert [(each.operation_id, each.status) for each in explained.depends_on] == [
        (name, PARKED) for name in depends_on
    ]
    with connect_to(database_url) as conn:
        rows = conn.execute(
            "SELECT status, attempt_position = (SELECT max(position) FROM repair_orders)"
            " FROM outcomes WHERE operation_id IN ('all three', 'woken')"
        ).fetchall()
    assert rows == [("vouchered", True)] * 2  # after the last of them
