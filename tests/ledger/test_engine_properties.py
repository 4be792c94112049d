"""Properties of the engine on real PostgreSQL: any history it books passes the audit."""

from __future__ import annotations

import itertools

import msgspec
import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import operation as op
from ledger.audit import replay, verify
from tests.ledger import builders as b
from tests.ledger.booking import running_ledger
from tests.ledger.test_batch_properties import NUMBERS, submissions

_days = itertools.count(1)


def told_apart(day: list[op.Submission]) -> list[op.Submission]:
    """The same day under ids of its own, so that one database can have many."""
    prefix = f"day-{next(_days)}-"
    told = []
    for each in day:
        body = each.body
        if isinstance(body, op.Operation):
            original = body.original_operation_id
            original = prefix + original if original is not None else None
            body = msgspec.structs.replace(
                body, operation_id=prefix + each.operation_id, original_operation_id=original
            )
        told.append(b.submission(prefix + each.operation_id, body, account=each.account))
    return told


def test_any_history_balances_and_folds_to_the_heads(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open(*NUMBERS, credit_limit_minor=40)

        @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(submissions(), st.integers(0, 12))
        def any_day(day: list[op.Submission], cut: int) -> None:
            told = told_apart(day)
            for batch in (told[:cut], told[cut:], told):
                if batch:
                    ledger.post(*batch)
            with psycopg.connect(database_url) as conn:
                verdict = verify(conn)
                assert verdict.difference is None
                for number in NUMBERS:
                    events = replay(conn, b.BOOK, number).events
                    assert events[-1].version == len(events)

        any_day()
