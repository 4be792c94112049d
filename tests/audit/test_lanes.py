"""The audit over books that several lanes made, that were rebuilt, and that changed the bus."""

from __future__ import annotations

import psycopg
import pytest

from accounting.ruleset_files import shipped_ruleset
from consumers.lost_results import resend_results
from consumers.rebuild import rebuild
from consumers.results import insert_outbox_in_tx
from infra import audit
from infra.decision_log import decision_log
from ledger.statuses import apply_results_in_tx
from projections.tables import connect_to
from tests.audit import story
from tests.consumers.caught_up import consume_kafka, consume_log, relay_all
from tests.consumers.test_completeness import passed_over
from tests.ledger import builders as b
from tests.ledger.booking import running_ledger


def verdict_of(database_url: str) -> audit.Verdict:
    with psycopg.connect(database_url) as conn:
        return audit.verify(conn)


def test_rebuilt_books_pass(database_url: str) -> None:
    story.tell(database_url)
    rebuild(database_url)
    assert verdict_of(database_url).difference is None


@pytest.mark.kafka
def test_books_made_by_three_lanes_pass_and_results_on_their_way_are_said(
    database_url: str, kafka_bootstrap: str, topic_name: str
) -> None:
    def consume(url: str) -> None:
        relay_all(url, kafka_bootstrap, topic_name, partitions=3)
        consume_kafka(url, kafka_bootstrap, topic_name)

    # given books made over Kafka, whose results are still in the outbox
    story.tell(database_url, consume)
    verdict = verdict_of(database_url)
    assert verdict.difference is None
    assert verdict.notes == ("40 results are on their way to the ledger",)
    # when they have been delivered
    with connect_to(database_url) as conn:
        resend_results(conn, deliver_in_tx=apply_results_in_tx)
    assert verdict_of(database_url).notes == ()
    # then the books stay as good when the bus is changed and when they are rebuilt
    consume_log(database_url)
    assert verdict_of(database_url).difference is None
    rebuild(database_url)
    assert verdict_of(database_url).difference is None


def test_between_lanes_what_follows_two_may_still_wait_for_the_one_that_is_final_now(
    database_url: str,
) -> None:
    """A wake-up can be missed until the next sweep; nothing waits for one out of turn, though."""
    with running_ledger(database_url) as ledger:
        story.publish(database_url, story.without(shipped_ruleset(), "hold"))
        ledger.open("C-1", "M-1")
        ledger.post(
            b.post("recharge", b.credit("C-1", 9)),
            b.post("hold", b.hold("C-1", 2, "H-1"), operation_id="first"),
            b.post("hold", b.hold("C-1", 3, "H-2"), operation_id="second"),
            b.post(
                "payment_capture",
                *(b.capture("C-1", 2, "H-1"), b.capture("C-1", 3, "H-2"), b.credit("M-1", 5)),
                operation_id="both",
            ),
        )
    consume_log(database_url)
    passed_over(database_url, lanes=2)
    assert verdict_of(database_url).difference is None
    wait_for(database_url, "second")
    difference = verdict_of(database_url).difference
    assert difference is not None
    assert (difference.column, difference.expected) == ("waits_for", "first")
    wait_for(database_url, "first")

    story.publish(database_url, shipped_ruleset())
    with decision_log(database_url) as decisions:
        decisions.request_repair(b.BOOK, ["first"], maker="alice")
    consume_log(database_url)
    assert waits_for(database_url) == ["second"]
    passed_over(database_url, lanes=2)
    wait_for(database_url, "first")
    assert verdict_of(database_url).difference is None

    consume_log(database_url)
    assert waits_for(database_url) == ["second"]
    assert verdict_of(database_url).difference is None


def waits_for(database_url: str) -> list[str]:
    """What anything waits for."""
    with connect_to(database_url) as conn:
        rows = conn.execute("SELECT waits_for FROM outcomes WHERE status = 'waiting'")
        return [name for (name,) in rows]


def wait_for(database_url: str, original_id: str) -> None:
    """Put what waits behind another one, behind the consumers' back."""
    with connect_to(database_url) as conn:
        conn.execute("UPDATE outcomes SET waits_for = %s WHERE status = 'waiting'", (original_id,))


def test_an_outbox_is_no_difference(database_url: str) -> None:
    story.tell(database_url)
    with connect_to(database_url) as conn:
        resend_results(conn, deliver_in_tx=insert_outbox_in_tx)
    assert verdict_of(database_url).difference is None
