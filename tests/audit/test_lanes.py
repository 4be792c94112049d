"""The audit over books that several lanes made, that were rebuilt, and that changed the bus."""

from __future__ import annotations

import psycopg
import pytest

from consumers.lost_results import resend_results
from consumers.rebuild import rebuild
from consumers.results import insert_outbox_in_tx
from infra import audit
from ledger.statuses import apply_results_in_tx
from projections.tables import connect_to
from tests.audit import story
from tests.consumers.caught_up import consume_kafka, consume_log, relay_all


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
    assert verdict.notes == ("29 results are on their way to the ledger",)
    # when they have been delivered
    with connect_to(database_url) as conn:
        resend_results(conn, deliver_in_tx=apply_results_in_tx)
    assert verdict_of(database_url).notes == ()
    # then the books stay as good when the bus is changed and when they are rebuilt
    consume_log(database_url)
    assert verdict_of(database_url).difference is None
    rebuild(database_url)
    assert verdict_of(database_url).difference is None


def test_an_outbox_is_no_difference(database_url: str) -> None:
    story.tell(database_url)
    with connect_to(database_url) as conn:
        resend_results(conn, deliver_in_tx=insert_outbox_in_tx)
    assert verdict_of(database_url).difference is None
