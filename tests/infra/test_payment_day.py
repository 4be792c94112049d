"""The generated day: repeatable, and answered by the real engine exactly as foretold."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from accounting.rules import NonPosting, Parked, voucher_for
from accounting.ruleset_files import SHIPPED_EXAMPLES, shipped_ruleset
from infra.demo.maker import Step
from infra.demo.payment_day import (
    BUSINESS_DATE,
    OPERATIONS,
    OPERATIONS_MIN,
    payment_day,
    with_expiry,
)
from ledger.books import open_book
from ledger.business_types import load_business_types
from ledger.codec import decode_event
from ledger.engine import Engine
from ledger.events import OperationBooked
from ledger.job import Job
from ledger.operation import Answer, Change, OpenAccount, Operation, Submission, fingerprint_of

BOOK = "demo"
SELECT_BOOKED = """
    SELECT topic, state FROM ledger.stored_events
    WHERE topic = 'ledger.recorded:OperationBooked' ORDER BY notification_id
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        open_book(conn, BOOK, "Demo", BUSINESS_DATE, principal="test")
    engine = Engine(
        lambda: psycopg.connect(database_url, autocommit=True), load_business_types()
    ).start()
    yield engine
    engine.stop()


def submission(body: Operation | OpenAccount | Change, account: str | None = None) -> Submission:
    fingerprint = fingerprint_of(BOOK, body, account)
    return Submission(BOOK, "test", body.operation_id or "", fingerprint, body, account)


def posted(engine: Engine, submissions: list[Submission]) -> list[str]:
    results = engine.post(Job(book_id=BOOK, submissions=tuple(submissions)), 60)
    answers = []
    for result in results:
        assert isinstance(result, Answer), result
        answers.append(result.code or result.status)
    return answers


def post_day(engine: Engine, size: int, shuffle: random.Random) -> list[Step]:
    day = payment_day(size)
    opened = posted(engine, [submission(account) for account in day.accounts])
    assert set(opened) == {"booked"}
    assert set(posted(engine, [submission(c, a) for a, c in day.changes])) == {"booked"}
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=30)
    sent = []
    for stage in day.stages:
        steps = [with_expiry(step, soon) for step in stage.steps]
        shuffle.shuffle(steps)
        answers = posted(engine, [submission(step.operation) for step in steps])
        foretold = [step.expected for step in steps]
        wrong = [(a, s) for a, f, s in zip(answers, foretold, steps, strict=True) if a != f]
        assert not wrong, f"{stage.name}: {wrong[0]}"
        sent += steps
    return sent


def test_one_seed_gives_one_day_and_another_seed_another() -> None:
    assert payment_day(500) == payment_day(500)
    assert payment_day(500).stages != payment_day(500, seed=1).stages


def test_the_default_day_has_at_least_twenty_thousand_operations() -> None:
    assert payment_day().operations >= OPERATIONS > 20_000


def test_operation_ids_are_unique_and_carry_the_business_date() -> None:
    day = payment_day(1_000)
    ids = [step.operation.operation_id or "" for stage in day.stages for step in stage.steps]
    assert len(ids) == len(set(ids))
    midnight_ms = int(dt.datetime.combine(BUSINESS_DATE, dt.time(), dt.UTC).timestamp() * 1000)
    day_ms = 24 * 3600 * 1000
    assert all(0 < int(i.replace("-", "")[:12], 16) - midnight_ms < day_ms for i in ids)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("size", [OPERATIONS_MIN, 3_000])
def test_every_operation_is_answered_as_foretold_in_any_order_within_its_stage(
    engine: Engine, seed: int, size: int
) -> None:
    post_day(engine, size, random.Random(seed))


def test_only_voucher_sales_find_no_rule_until_theirs_is_added(
    engine: Engine, database_url: str
) -> None:
    post_day(engine, OPERATIONS_MIN, random.Random(0))
    with psycopg.connect(database_url) as conn:
        rows = conn.execute(SELECT_BOOKED).fetchall()
    booked = [decode_event(topic, bytes(state)) for topic, state in rows]

    shipped = shipped_ruleset()
    with_sale = shipped_ruleset(SHIPPED_EXAMPLES / "voucher_sale.toml")
    parked: Counter[str] = Counter()
    for operation in booked:
        assert isinstance(operation, OperationBooked)
        outcome = voucher_for(operation, shipped)
        if isinstance(outcome, Parked):
            parked[operation.business_type] += 1
            assert not isinstance(voucher_for(operation, with_sale), Parked | NonPosting)
    assert set(parked) == {"voucher_sale"}


def test_the_must_book_recharge_of_the_frozen_account_lies_in_suspense(engine: Engine) -> None:
    sent = post_day(engine, OPERATIONS_MIN, random.Random(0))
    frozen = next(
        s
        for s in sent
        if s.operation.legs
        and s.operation.legs[-1].account == "C-FROZEN"
        and s.operation.business_type == "recharge"
    )
    [answer] = engine.post(Job(book_id=BOOK, submissions=(submission(frozen.operation),)), 60)
    assert isinstance(answer, Answer)
    assert answer.replayed
    [issue] = answer.issues
    assert (issue.account, issue.intended_account) == ("SUSPENSE-CNY", "C-FROZEN")
