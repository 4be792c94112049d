"""Admission: who is pushed back while many wait, on a clock of the test's own, and over HTTP."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from ledger import operation as op
from ledger.admission import ROOM_MIN, Admission, AdmissionLimits, returning_types
from ledger.business_types import load_business_types
from ledger.errors import Overloaded
from ledger.job import Job
from tests.fix_api import ApiCaller, api_over, credit, leg, operation
from tests.ledger import builders as b
from tests.waiting import wait_until

OPERATIONS = "/v1/operations"
PAYMENT = b'{"business_type":"payment"}'
LOCK_LOG = "SELECT pg_advisory_xact_lock(1145393475, hashtext('ledger'))"
SELECT_TIMES_BOOKED = """SELECT count(*) FROM ledger.stored_events
    WHERE topic = 'ledger.recorded:OperationBooked' AND position(%s::bytea IN state) > 0"""


class Door:
    """An admission with 80 free requests, a bound of 50 ms, and its clock."""

    def __init__(self, *, wait_s_max: float = 0.05, requests_free: int = 80) -> None:
        self.now_s = 1_000.0
        self.admission = Admission(
            AdmissionLimits(wait_s_max=wait_s_max, requests_free=requests_free),
            returning_types(load_business_types()),
            lambda: self.now_s,
        )
        self.tickets = itertools.count()
        self.asked: list[int] = []

    def come(self, count: int) -> None:
        """Let postings in without asking."""
        for _ in range(count):
            self.admission.came()
            self.asked.append(next(self.tickets))
            self.admission.taken(self.asked[-1])

    def answer(self, count: int) -> None:
        """Answer the oldest postings."""
        for _ in range(count):
            self.admission.settled(self.asked.pop(0))
            self.admission.left()

    def offer(self, count: int, body: bytes = PAYMENT) -> int:
        """Let postings come as a connection does; return how many were refused."""
        refused = 0
        for _ in range(count):
            if self.refuses(body):
                refused += 1
            else:
                self.come(1)
        return refused

    def refuses(self, body: bytes = PAYMENT, *, waited_s: float = 0.0) -> bool:
        """Say whether a posting that comes is refused."""
        return not self.admission.has_room(lambda: waited_s) and self.admission.refuses(body)

    def run(self, seconds: float, *, offered_per_s: int, answered_per_s: int) -> tuple[int, int]:
        """Let time pass in steps of 10 ms; return how many were refused, and inside at most."""
        refused = most = 0
        for _ in range(round(seconds * 100)):
            self.now_s += 0.01
            refused += self.offer(offered_per_s // 100)
            most = max(most, self.admission.inside)
            self.answer(min(answered_per_s // 100, len(self.asked)))
        return refused, most


def overloaded(**limits: Any) -> Door:
    door = Door(**limits)
    door.come(80)
    door.now_s += 0.06
    assert not door.admission.has_room(lambda: 0.0)
    return door


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
    ("inside", "age_s", "refused"),
    [
        (0, 0.0, False),  # nothing waits
        (79, 9.0, False),  # a slow disk, not many callers
        (80, 0.05, False),  # many, but not for long
        (80, 0.051, True),
    ],
)
def test_an_overload_begins_when_many_are_inside_and_the_oldest_has_waited_for_long(
    inside: int, age_s: float, refused: bool
) -> None:
    door = Door()
    door.come(inside)
    door.now_s += age_s
    assert door.refuses() is refused
    assert door.admission.overloaded is refused
    assert refuses(lambda: door.admission.look(PAYMENT)) is refused
    assert refuses(lambda: door.admission.admit(job("payment"))) is refused
    assert door.admission.refused == 3 * refused


def test_in_an_overload_so_many_are_inside_as_are_answered_within_the_bound() -> None:
    door = Door(requests_free=400)
    door.run(1.0, offered_per_s=4_000, answered_per_s=2_000)
    assert door.admission.overloaded
    refused, most = door.run(5.0, offered_per_s=4_000, answered_per_s=2_000)
    assert 98 <= most <= 100  # 2,000 a second for 50 ms
    assert 9_900 <= refused <= 10_100


def test_the_room_is_never_so_small_that_batches_are_nor_larger_than_what_is_free() -> None:
    slow = Door(requests_free=400)
    slow.run(3.0, offered_per_s=2_000, answered_per_s=100)
    assert slow.admission.room == ROOM_MIN
    fast = Door(requests_free=400)
    fast.run(3.0, offered_per_s=20_000, answered_per_s=10_000)
    assert fast.admission.room == 400


def test_an_overload_ends_when_hardly_anybody_was_sent_away_for_a_second() -> None:
    door = Door(requests_free=400)
    door.run(2.0, offered_per_s=4_000, answered_per_s=2_000)
    refused, _ = door.run(0.9, offered_per_s=1_000, answered_per_s=2_000)
    assert door.admission.overloaded
    assert refused < 100
    door.run(0.6, offered_per_s=1_000, answered_per_s=2_000)
    assert not door.admission.overloaded
    # A quiet hour is one, too, although nobody came to look.
    door.run(2.0, offered_per_s=4_000, answered_per_s=2_000)
    assert door.admission.overloaded
    door.answer(len(door.asked))
    door.now_s += 3_600
    assert not door.refuses()
    assert not door.admission.overloaded


def test_what_returns_money_keeps_its_lane_unless_something_else_rides_along() -> None:
    admission = overloaded().admission
    for kind in ("refund", "release", "withdrawal_failed"):
        assert not refuses(lambda kind=kind: admission.admit(job(kind)))
        body = json.dumps({"business_type": kind}).encode()
        assert not admission.refuses(body)
        assert not refuses(lambda body=body: admission.look(body))
    assert not refuses(lambda: admission.admit(job("refund", "release")))
    assert refuses(lambda: admission.admit(job("refund", "payment")))


def test_a_freeze_does_not_wait_and_the_opening_of_an_account_does() -> None:
    admission = overloaded().admission
    freeze = b.command("C-1", op.FreezeAccount(freeze_id="f-1", authority="court"))
    assert not refuses(lambda: admission.admit(Job(book_id="main", submissions=(freeze,))))
    opening = Job(book_id="main", submissions=(b.open_account("C-2"),))
    assert refuses(lambda: admission.admit(opening))


def test_a_type_spelled_with_escapes_is_parsed_before_it_is_judged() -> None:
    admission = overloaded().admission
    assert not admission.refuses(b'{"business_type":"\\u0072efund"}')
    assert admission.refuses(b'{"business_type":"payment","note":"a refund"}')


def test_who_was_the_last_to_be_let_in_is_not_sent_away_inside() -> None:
    door = overloaded()
    door.answer(80 - ROOM_MIN + 1)
    assert door.offer(2) == 1
    assert door.admission.inside == door.admission.room
    assert not refuses(lambda: door.admission.look(PAYMENT))
    assert not refuses(lambda: door.admission.admit(job("payment")))


def test_in_an_overload_who_waited_too_long_before_it_was_read_is_refused() -> None:
    door = overloaded()
    door.answer(80)
    assert door.refuses(waited_s=0.06)
    assert not door.refuses(waited_s=0.05)
    door.now_s += 0.9
    assert door.refuses(waited_s=0.06)
    door.now_s += 0.1  # for a second there were only old ones: better they than none
    door.admission.overloaded = True
    assert not door.refuses(waited_s=0.06)


def test_outside_of_an_overload_nobody_asks_how_long_it_waited() -> None:
    door = Door()
    door.come(79)
    assert not door.refuses(waited_s=99)


def test_a_ticket_is_settled_once() -> None:
    door = Door()
    door.come(2)
    door.now_s += 9
    door.admission.settled(0)
    door.admission.settled(0)
    door.admission.settled("nobody")
    assert door.admission.waiting == 1
    assert door.admission.oldest_s == 9


def test_without_a_bound_nobody_is_pushed_back() -> None:
    door = Door(wait_s_max=0)
    door.come(10_000)
    door.now_s += 99
    assert not door.refuses()
    assert not refuses(lambda: door.admission.admit(job("payment")))


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
