"""Any history, posted in any cut, repaired at any time: the books and the audit agree."""

from __future__ import annotations

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting.ruleset_files import shipped_ruleset
from infra import audit
from infra.decision_log import decision_log
from ledger.operation import SetBuffering, SetStripes, Submission
from projections.gl_balances import select_trial_balance
from projections.tables import connect_to
from tests.audit import story
from tests.consumers.caught_up import consume_log, log_consumer
from tests.ledger import builders as b
from tests.ledger.booking import running_ledger
from tests.ledger.test_batch_properties import NUMBERS, submissions
from tests.ledger.test_engine_properties import told_apart

TYPES = ("transfer", "recharge", "fee", "refund")


def order_repair(database_url: str) -> None:
    """Order a retry of everything that is parked."""
    with connect_to(database_url) as conn:
        rows = conn.execute("SELECT operation_id FROM outcomes WHERE status = 'parked' LIMIT 900")
        parked = [operation_id for (operation_id,) in rows]
    if parked:
        with decision_log(database_url) as decisions:
            decisions.request_repair(b.BOOK, parked, maker="alice")


def test_any_history_gives_books_that_balance_and_pass_the_audit(database_url: str) -> None:
    shipped = shipped_ruleset()
    with running_ledger(database_url) as ledger:
        story.publish(database_url, shipped)
        ledger.open(*NUMBERS, credit_limit_minor=40)
        ledger.answer(b.command("C-2", SetStripes(stripes=3)))
        ledger.answer(b.command("C-3", SetBuffering(buffer_ms=100, agreement="A-1")))

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(submissions(), st.sampled_from(TYPES), st.integers(0, 12), st.integers(1, 5))
        def any_day(day: list[Submission], missing: str, cut: int, few: int) -> None:
            told = told_apart(day)
            # given rules that lack one business type for the first part of the day
            story.publish(database_url, story.without(shipped, missing))
            if told[:cut]:
                ledger.post(*told[:cut])
            consume_log(database_url, operations_max=few)
            story.publish(database_url, shipped)
            order_repair(database_url)
            if told[cut:]:
                ledger.post(*told[cut:])
            # when a consumer has seen a part of it, and then the rest
            with log_consumer(database_url, operations_max=few) as consumer:
                consumer.step()
            with psycopg.connect(database_url) as conn:
                assert audit.verify(conn).difference is None
            consume_log(database_url)
            # then nothing differs, and the trial balance ties
            with psycopg.connect(database_url) as conn:
                assert audit.verify(conn).difference is None
            with connect_to(database_url) as conn:
                assert select_trial_balance(conn, b.BOOK).ties

        any_day()
