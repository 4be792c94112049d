"""The backlog: what is late or stuck is told everywhere, and above a hard limit the API waits."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import ValidationError

from infra.backlog_watch import BacklogWatch
from infra.cli.books import backlog_pairs
from infra.first_start import publish_first_rules
from infra.settings import Settings
from ledger.backlog import BacklogGate, BacklogLimits, held_back_types
from ledger.business_types import load_business_types
from ledger.errors import BacklogTooLong, UnknownName
from projections.backlog import select_backlog
from projections.positions import stop_lane
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log
from tests.fix_api import ApiCaller, api_over, credit, debit, operation
from tests.waiting import wait_until

OPERATIONS = "/v1/operations"
LIMIT = 5


@pytest.fixture
def small(database_url: str, tmp_path: Path) -> Iterator[ApiCaller]:
    """The application with a small hard limit, and nobody who consumes."""
    limits = {"backlog_operations_soft": 2, "backlog_operations_hard": LIMIT}
    with api_over(database_url, tmp_path, backlog_look_s=0.05, **limits) as api:
        publish_first_rules(database_url, "main", maker="local")
        api.open("C-1", "M-1")
        yield api


def recharge(api: ApiCaller, number: int) -> httpx.Response:
    return api.post(OPERATIONS, operation(f"r-{number}", credit("C-1", 1_000)))


def payment(operation_id: str) -> dict[str, Any]:
    return operation(operation_id, debit("C-1", 10), credit("M-1", 10), business_type="payment")


def refund(operation_id: str, original: str) -> dict[str, Any]:
    legs = (debit("M-1", 1), credit("C-1", 1))
    return operation(operation_id, *legs, business_type="refund", original_operation_id=original)


def fill(api: ApiCaller) -> None:
    """Book until the API pushes back."""
    api.post(OPERATIONS, operation("first", credit("C-1", 10_000)))
    assert api.post(OPERATIONS, payment("paid")).status_code == 201
    numbers = iter(range(10_000))
    wait_until(lambda: recharge(api, next(numbers)).status_code == 503, "the API pushes back")


def test_above_the_hard_limit_payments_wait_and_refunds_pass_until_accounting_has_drained(
    small: ApiCaller, database_url: str
) -> None:
    fill(small)

    refused = small.post(OPERATIONS, payment("p-1"))
    refunded = small.post(OPERATIONS, refund("back-1", "paid"))
    status = small.get("/v1/status").json()["backlog"]
    ready = small.http.get("/health/ready")
    consume_log(database_url)
    wait_until(
        lambda: small.post(OPERATIONS, payment("p-1")).status_code == 201, "payments pass again"
    )

    assert (refused.status_code, refused.json()["code"]) == (503, "backlog")
    assert refused.json()["retriable"] is True
    assert int(refused.headers["retry-after"]) >= 1
    assert refunded.status_code == 201, refunded.text
    assert status["level"] == "hard"
    assert "payment" in status["held_back"]
    assert "refund" not in status["held_back"]
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert "over the hard limit" in ready.json()["backlog"]
    assert small.get("/v1/status").json()["backlog"]["level"] == "ok"


def test_a_batch_in_a_backlog_says_so_line_by_line_and_records_nothing_of_what_waits(
    small: ApiCaller,
) -> None:
    fill(small)

    lines = [payment("p-1"), refund("back-1", "paid"), payment("p-2")]
    first, second, third = small.post_lines("/v1/operations:batch", *lines)

    assert [line.get("code") for line in (first, third)] == ["backlog", "backlog"]
    assert [line.get("operation_id") for line in (first, third)] == ["p-1", "p-2"]
    assert first["retriable"] is True
    assert second["status"] == "booked"
    assert small.get("/v1/operations/p-1").status_code == 404


def test_an_atomic_batch_with_a_line_that_waits_decides_nothing(small: ApiCaller) -> None:
    fill(small)

    lines = [refund("back-1", "paid"), payment("p-1")]
    first, second = small.post_lines("/v1/operations:batch", *lines, atomic="true")

    assert (first["code"], second["code"]) == ("atomic_batch_refused", "backlog")
    assert small.get("/v1/operations/back-1").status_code == 404


def test_metrics_and_status_name_the_lag_the_oldest_and_what_is_parked(
    api: ApiCaller, database_url: str
) -> None:
    api.open("C-1")
    recharge(api, 1)
    consume_log(database_url)  # the book has no rules: parked
    recharge(api, 2)

    facts = api.get("/v1/status").json()["backlog"]["facts"]
    metrics = api.get("/metrics").text

    assert facts["lag_operations"] == 1
    assert facts["oldest"]["operation_id"] == "r-1"
    assert facts["oldest"]["status"] == "parked"
    [parked] = facts["open"]
    assert (parked["status"], parked["count"]) == ("parked", 1)
    assert "daybook_lag_operations 1.0" in metrics
    assert f'daybook_open_operations{{reason="{parked["reason"]}",status="parked"}} 1.0' in metrics
    assert "daybook_backlog_readable 1.0" in metrics


def test_metrics_need_a_key_that_may_read(api: ApiCaller) -> None:
    key = api.make_key("post")
    answer = api.http.get("/metrics", headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted")


def test_the_command_says_what_is_late_and_stuck_in_words_and_is_silent_when_nothing_is(
    small: ApiCaller, database_url: str
) -> None:
    fill(small)
    late = dict(backlog_pairs(small.get("/v1/status").json()["backlog"]))
    consume_log(database_url)
    wait_until(
        lambda: small.get("/v1/status").json()["backlog"]["held_back"] == [], "nothing is held back"
    )
    calm = backlog_pairs(small.get("/v1/status").json()["backlog"])

    assert late["backlog"] == "over the hard limit"
    assert "payment" in str(late["held back"])
    assert str(late["oldest open"]).startswith("first (pending), booked 0:")
    assert calm == []


def test_the_status_of_one_book_names_no_operation_of_another(
    api: ApiCaller, database_url: str
) -> None:
    api.open("C-1")
    recharge(api, 1)
    with psycopg.connect(database_url, autocommit=True) as conn:
        now = dt.datetime.now(dt.UTC)
        assert select_backlog(conn, now, book_id="main").oldest is not None
        other = select_backlog(conn, now, book_id="other")

    assert other.oldest is None
    assert other.lag_operations == 1


@pytest.mark.parametrize("position", [0, 12_768, 32_767, 2**31 - 1])
def test_wherever_the_log_stands_the_backlog_can_be_read(database_url: str, position: int) -> None:
    """A position and its distance each fit a small integer of the server; their sum does not."""
    consume_log(database_url)
    with connect_to(database_url) as conn:
        conn.execute("UPDATE positions SET position = %s", (position,))
        found = select_backlog(conn, dt.datetime.now(dt.UTC))

    assert (found.position, found.oldest) == (position, None)


def test_a_stopped_lane_degrades_the_readiness_and_keeps_the_traffic(
    api: ApiCaller, database_url: str
) -> None:
    consume_log(database_url)
    with connect_to(database_url) as conn:
        stop_lane(conn, 0, "offset 7 cannot be read")

    ready = api.http.get("/health/ready")

    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["lanes"] == "lane 0: offset 7 cannot be read"
    assert 'daybook_lane_stopped{lane="0"} 1.0' in api.get("/metrics").text


def test_a_level_that_changes_is_said_once(
    api: ApiCaller, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = BacklogGate(BacklogLimits(operations_soft=1, operations_hard=2), frozenset({"payment"}))
    watch = BacklogWatch(gate, lambda: connect_to(database_url), look_s=1)
    api.open("C-1")
    said: list[str] = []
    for number in range(3):
        recharge(api, number)
        for _ in range(2):
            watch.look()
        said.append("".join(capsys.readouterr()))  # where lines go, an earlier test may have set
    consume_log(database_url)
    watch.look()

    assert said[0] == ""
    assert said[1].count("backlog_over_soft_limit") == 1
    assert said[2].count("backlog_over_hard_limit") == 1
    assert "daybook status" in said[2]
    assert "".join(capsys.readouterr()).count("backlog_within_limits") == 1
    assert gate.held_back == frozenset()
    watch.close()


@pytest.mark.parametrize(
    ("lag", "level"),
    [((2, 0.0), "ok"), ((3, 0.0), "soft"), ((0, 11.0), "soft"), ((9, 0.0), "hard")],
)
def test_a_limit_is_passed_only_above_it(lag: tuple[int, float], level: str) -> None:
    limits = BacklogLimits(operations_soft=2, operations_hard=8, seconds_soft=10)
    assert limits.level(*lag) == level


def test_no_limit_is_ever_passed_when_all_are_zero() -> None:
    assert BacklogLimits().level(10**9, 10.0**9) == "ok"


def test_what_returns_money_is_not_among_all_types_and_cannot_be_named() -> None:
    types = load_business_types()
    returning = {code for code, kind in types.types.items() if kind.returns_money}

    assert returning
    assert held_back_types(types, ["*"]) == frozenset(types.types) - returning
    assert held_back_types(types, ["payment"]) == {"payment"}
    for code in returning:
        with pytest.raises(UnknownName, match="never held back"):
            held_back_types(types, [code])
    with pytest.raises(UnknownName, match="nobody declared"):
        held_back_types(types, ["payments"])


def test_only_named_types_wait() -> None:
    gate = BacklogGate(BacklogLimits(operations_hard=1), frozenset({"payment"}))
    gate.note(2, 0.0)

    gate.admit("recharge")
    with pytest.raises(BacklogTooLong):
        gate.admit("payment")
    assert gate.refused == 1


def test_a_hard_limit_below_the_soft_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="below the soft one"):
        Settings(home=tmp_path, backlog_operations_soft=10, backlog_operations_hard=5)
