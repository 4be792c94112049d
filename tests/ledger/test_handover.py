"""What passes between API processes: the same on the other side, whatever its reader is given."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from ledger import errors
from ledger import operation as op
from ledger.api import encode, problem_of
from ledger.api_parse import Parser
from ledger.business_types import load_business_types
from ledger.events import BookedLeg, Issue, TouchedAccount
from ledger.handover import (
    LENGTH_BYTES,
    MESSAGE_BYTES_MAX,
    BrokenLine,
    Messages,
    Told,
    decode_posting,
    decode_told,
    framed,
    job_of,
    posting_of,
    results_of,
    told_of,
)
from ledger.job import Job
from ledger.principals import SCOPES, Principal
from tests.ledger.builders import BOOK, credit, open_account, post

PRINCIPAL = Principal("gateway", frozenset(SCOPES))
FULL = {
    "operation_id": "o-1",
    "business_type": "hold",
    "legs": [
        {
            "kind": "hold",
            "account": "C-1",
            "amount": 2**63 - 1,
            "currency": "CNY",
            "hold_id": "h",
            "expires_at": "2026-02-03T04:05:06.789012+08:00",
        },
        {"kind": "credit", "account": "账户", "amount": 1, "currency": "CNY", "part": "p"},
    ],
    "amounts": {"fee": 60, "tax": {"amount": 7, "currency": "USD"}},
    "orders": {"trade": "t", "channel": ["c-1", "c-2"]},
    "original_operation_id": "o-0",
    "value_date": "2026-01-31",
    "description": 'a "quoted" one',
}
ANSWER = op.Answer(
    operation_id="o-1",
    status="accepted",
    replayed=True,
    position=2**62,
    business_date="2026-01-31",
    booked_at="2026-01-31T01:02:03.000000Z",
    accounting_status="pending",
    accounts=(TouchedAccount("C-1", "CNY", 5, None, 0, 0, 3, -2, 1, 2),),
    legs=(
        BookedLeg(1, "credit", "C-1", "customer", "2001.01", "CNY", 7, 3, 5, 0, "credit"),
        BookedLeg(2, "hold", "C-1", "", "", "CNY", 7, 3, 5, 0, "debit", "h", "p", "C-2"),
    ),
    issues=(Issue("suspense", 1, "S", "C-9", 7, "CNY", "closed"),),
)


def parsed(body: dict[str, object]) -> op.Submission:
    """Parse a request as the API does."""
    parser = Parser(load_business_types(), op.OPERATION_BYTES_MAX)
    return parser.operation(json.dumps(body).encode(), None, BOOK, PRINCIPAL)


def payloads(data: bytes) -> list[bytes]:
    return list(Messages().of(data))


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_posting_is_the_same_job_on_the_other_side(dry_run: bool) -> None:
    job = Job(book_id=BOOK, submissions=(parsed(FULL),), dry_run=dry_run)
    posting = posting_of(7, job)
    assert posting is not None
    (payload,) = payloads(framed(posting))
    arrived = decode_posting(payload)
    assert arrived.number == 7
    assert job_of(arrived) == job
    (submission,) = job_of(arrived).submissions
    assert isinstance(submission.body, op.Operation)
    assert submission.fingerprint == op.fingerprint_of(BOOK, parsed(FULL).body)
    expires_at = submission.body.legs[0].expires_at
    assert expires_at == dt.datetime(2026, 2, 2, 20, 5, 6, 789012, tzinfo=dt.UTC)


def test_what_is_no_single_operation_stays_where_it_is() -> None:
    one = post("recharge", credit("C-1", 1))
    other = post("recharge", credit("C-1", 1))
    assert posting_of(1, Job(book_id=BOOK, submissions=(one, other))) is None
    assert posting_of(1, Job(book_id=BOOK, submissions=(one,), atomic=True)) is None
    assert posting_of(1, Job(book_id=BOOK, submissions=(open_account("C-2"),))) is None


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        op.Answer(
            operation_id="o-2",
            status="rejected",
            position=1,
            business_date="2026-01-31",
            booked_at="",
            accounting_status=None,
            code="insufficient_funds",
            leg_no=2,
            account="C-1",
            detail="5 < 7",
        ),
        op.Answer(
            operation_id="o-3",
            status="booked",
            position=None,
            business_date="",
            booked_at="",
            accounting_status="pending",
            dry_run=True,
        ),
    ],
)
def test_an_answer_makes_the_same_json_on_the_other_side(answer: op.Answer) -> None:
    (payload,) = payloads(framed(told_of(7, [answer])))
    results = results_of(decode_told(payload))
    assert results == [answer]
    assert isinstance(results, list)
    assert encode(results[0]) == encode(answer)


@pytest.mark.parametrize(
    "error",
    [
        errors.Overloaded("9 operations are waiting"),
        errors.OperationIdReused("other body"),
        errors.InvalidRequest("no", code="refused_by_store", field="legs", leg_no=2),
        errors.BufferFull("C-1", account="C-1"),
    ],
)
def test_an_error_is_the_same_problem_on_the_other_side(error: errors.LedgerError) -> None:
    (whole, of_one) = payloads(framed(told_of(7, error)) + framed(told_of(8, [error])))
    raised = results_of(decode_told(whole))
    assert isinstance(raised, errors.LedgerError)
    assert problem_of(raised) == problem_of(error)
    listed = results_of(decode_told(of_one))
    assert isinstance(listed, list)
    assert isinstance(listed[0], errors.LedgerError)
    assert problem_of(listed[0]) == problem_of(error)


def test_messages_are_cut_wherever_the_bytes_are() -> None:
    told = [framed(told_of(number, [ANSWER])) for number in range(3)]
    data = b"".join([*told, bytes(LENGTH_BYTES)])
    for step in (1, 3, 5, 100, len(data)):
        messages = Messages()
        found: list[bytes] = []
        for start in range(0, len(data), step):
            found += messages.of(data[start : start + step])
        assert found == [*(each[LENGTH_BYTES:] for each in told), b""]


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(BrokenLine):
        payloads((MESSAGE_BYTES_MAX + 1).to_bytes(LENGTH_BYTES))
    with pytest.raises(BrokenLine):
        results_of(Told(1, None))
