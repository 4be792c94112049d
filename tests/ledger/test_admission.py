"""Admission: who is pushed back while many wait, on a clock of the test's own, and over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from ledger.admission import Admission, AdmissionLimits, returning_types
from ledger.business_types import load_business_types
from ledger.errors import Overloaded
from ledger.job import Job
from tests.fix_api import ApiCaller, api_over, credit, leg, operation
from tests.ledger import builders as b
from tests.waiting import wait_until

OPERATIONS = "/v1/operations"
LOCK_LOG = "SELECT pg_advisory_xact_lock(1145393475, hashtext('ledger'))"
SELECT_TIMES_BOOKED = """SELECT count(*) FROM ledger.stored_events
    WHERE topic = 'ledger.recorded:OperationBooked' AND position(%s::bytea IN state) > 0"""


class Queue:
    """An admission with three free requests, 100 free operations, 50 ms, and its clock."""

    def __init__(self, *, wait_s_max: float = 0.05) -> None:
        self.now_s = 1_000.0
        self.admission = Admission(
            AdmissionLimits(wait_s_max=wait_s_max, requests_free=3, operations_free=100),
            returning_types(load_business_types()),
            lambda: self.now_s,
        )

    def wait(self, *sizes: int, for_s: float) -> None:
        for number, size in enumerate(sizes):
            self.admission.taken(("waiting", number), size)
        self.now_s += for_s


def job(*business_types: str) -> Job:
    given = tuple(b.post(kind, b.credit("C-1", 1)) for kind in business_types)
    return Job(book_id="main", submissions=given)


def refuses(admit: Callable[[], None]) -> bool:
    try:
        admit()
    except Overloaded:
        return True
    return False


@pytest.mark.parametrize(
    ("sizes", "age_s", "refused"),
    [
        ((), 0.0, False),  # nothing waits: a batch of any size is taken
        ((1, 1), 9.0, False),  # a slow disk, few callers
        ((99, 1, 1), 0.05, False),  # many, but not for long
        ((1, 1, 1), 0.051, True),
        ((100,), 0.051, True),  # one request of as much as two batches
        ((99,), 9.0, False),
    ],
)
def test_who_comes_while_many_wait_for_long_is_pushed_back(
    sizes: tuple[int, ...], age_s: float, refused: bool
) -> None:
    queue = Queue()
    queue.wait(*sizes, for_s=age_s)
    assert queue.admission.pushes_back is refused
    assert refuses(lambda: queue.admission.admit(job(*["payment"] * 200))) is refused
    assert refuses(lambda: queue.admission.look(b'{"business_type":"payment"}')) is refused
    assert queue.admission.refused == 2 * refused


def test_what_returns_money_keeps_its_lane_unless_something_else_rides_along() -> None:
    queue = Queue()
    queue.wait(1, 1, 1, for_s=9)
    for kind in ("refund", "release", "withdrawal_failed"):
        assert not refuses(lambda kind=kind: queue.admission.admit(job(kind)))
        body = json.dumps({"business_type": kind}).encode()
        assert not refuses(lambda body=body: queue.admission.look(body))
    assert not refuses(lambda: queue.admission.admit(job("refund", "release")))
    assert refuses(lambda: queue.admission.admit(job("refund", "payment")))


def test_a_type_spelled_with_escapes_is_parsed_before_it_is_judged() -> None:
    queue = Queue()
    queue.wait(1, 1, 1, for_s=9)
    assert not refuses(lambda: queue.admission.look(b'{"business_type":"\\u0072efund"}'))
    assert refuses(lambda: queue.admission.look(b'{"business_type":"payment","note":"a refund"}'))


def test_answers_make_room_whatever_their_order() -> None:
    queue = Queue()
    queue.wait(1, 1, 1, for_s=9)
    queue.admission.settled(("waiting", 1))
    queue.admission.settled(("waiting", 1))
    queue.admission.settled("nobody")
    assert not queue.admission.pushes_back
    queue.admission.taken("late", 98)
    assert queue.admission.pushes_back
    queue.admission.settled(("waiting", 0))
    queue.admission.settled(("waiting", 2))
    assert queue.admission.oldest_s == 0
    assert not queue.admission.pushes_back


def test_without_a_bound_nobody_is_pushed_back() -> None:
    queue = Queue(wait_s_max=0)
    queue.wait(*[1_000] * 10, for_s=99)
    assert not refuses(lambda: queue.admission.admit(job("payment")))


def test_while_commits_stand_still_payments_are_refused_and_refunds_wait_and_are_booked_once(
    database_url: str, tmp_path: Path
) -> None:
    bounds = {"queue_wait_ms_max": 20, "queue_requests_free": 2}
    with api_over(database_url, tmp_path, **bounds) as api, ThreadPoolExecutor(8) as callers:
        api.open("C-1")
        api.credit("C-1", 1_000)
        held = operation("h", leg("hold", "C-1", 100, hold_id="h"), business_type="hold")
        assert api.post(OPERATIONS, held).status_code == 201
        with psycopg.connect(database_url) as blocker:
            blocker.execute(LOCK_LOG)
            waiting = [_post_soon(api, callers, f"r-{number}") for number in range(2)]
            wait_until(lambda: _shown(api, "requests") == 2, "two requests to wait")
            wait_until(lambda: _shown(api, "oldest_seconds") > 0.02, "them to wait for long")

            refused = api.post(OPERATIONS, operation("late", credit("C-1", 1)))
            batch = api.post("/v1/operations:batch", [operation("late", credit("C-1", 1))])
            freed = operation("rel", leg("release", "C-1", 100, hold_id="h"))
            release = callers.submit(api.post, OPERATIONS, freed | {"business_type": "release"})
            time.sleep(0.1)
            assert not release.done()
        answers = [future.result() for future in (*waiting, release)]

        assert [answer.status_code for answer in answers] == [201, 201, 201]
        for answer in (refused, batch):
            assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        booked = {name: _times_booked(database_url, name) for name in ("r-0", "r-1", "rel", "late")}
        assert booked == {"r-0": 1, "r-1": 1, "rel": 1, "late": 0}
        assert api.post(OPERATIONS, operation("late", credit("C-1", 1))).status_code == 201
        assert "daybook_overload_refused_total 2.0" in api.get("/metrics").text


def _post_soon(api: ApiCaller, callers: ThreadPoolExecutor, name: str) -> Future[httpx.Response]:
    return callers.submit(api.post, OPERATIONS, operation(name, credit("C-1", 1)))


def _shown(api: ApiCaller, name: str) -> float:
    for line in api.get("/metrics").text.splitlines():
        if line.startswith(f"daybook_waiting_{name} "):
            return float(line.split()[1])
    raise AssertionError("the metric is not there")


def _times_booked(database_url: str, name: str) -> int:
    with psycopg.connect(database_url) as conn:
        row = conn.execute(SELECT_TIMES_BOOKED, (f'"operation_id":"{name}"'.encode(),)).fetchone()
    assert row is not None
    return int(row[0])
