"""Accounts over HTTP: their state, their tree, lists in a total order, streams and registers."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from ledger import loading
from ledger.statuses import AccountingResult, apply_results_in_tx
from tests.fix_api import ApiCaller, credit, debit, leg, operation

OPERATIONS = "/v1/operations"


def command(api: ApiCaller, number: str, operation_id: str, **fields: Any) -> dict[str, Any]:
    """Change an account's standing; return the answer."""
    body = {"operation_id": operation_id, **fields}
    answer = api.post(f"/v1/accounts/{number}/commands", body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def all_numbers(api: ApiCaller, limit: int, **filters: str) -> list[str]:
    """Walk the list page by page."""
    numbers: list[str] = []
    cursor: str | None = None
    while True:
        query = {**filters, "limit": limit} | ({"cursor": cursor} if cursor else {})
        page = api.get("/v1/accounts", **query).json()
        assert len(page["items"]) <= limit
        numbers += [item["account"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return numbers


def test_an_account_shows_everything_users_look_for(api: ApiCaller) -> None:
    api.open("C-1", credit_limit=500)
    api.credit("C-1", 1_000)
    api.post(OPERATIONS, operation("h", leg("hold", "C-1", 100, hold_id="h"), business_type="hold"))
    command(api, "C-1", "reserve", command="reserve", reserve=50)
    command(api, "C-1", "limit", command="limit", business_type="fee", per_day_count=3)

    state = api.get("/v1/accounts/C-1").json()

    assert state["available"] == 1_000 - 100 - 50 + 500
    assert (state["balance"], state["held"], state["frozen"], state["reserve"]) == (
        1000,
        100,
        0,
        50,
    )
    assert (state["previous_balance"], state["day_debits"], state["day_credits"]) == (0, 0, 1_000)
    assert (state["status"], state["payment_status"], state["opened_by"]) == (
        "open",
        "normal",
        "local",
    )
    assert state["limits"][0] | {"per_day_count": 3} == state["limits"][0]
    assert "rolled_up" not in state


def test_an_account_without_floor_has_no_available_amount(api: ApiCaller) -> None:
    api.open("C-1", credit_limit=None)

    assert api.get("/v1/accounts/C-1").json()["available"] is None


def test_the_next_day_rolls_the_previous_balance_and_counts_from_nothing(api: ApiCaller) -> None:
    api.open("C-1")
    api.credit("C-1", 1_000)
    api.post(OPERATIONS, operation("f-1", debit("C-1", 30), business_type="fee"))
    api.post("/v1/books/main/day", {"business_date": "2026-02-01"})
    before = api.get("/v1/accounts/C-1").json()

    answers = [
        api.post(OPERATIONS, operation(number, leg_of("C-1", amount), business_type="fee")).json()
        for number, leg_of, amount in (("f-2", debit, 10), ("f-3", credit, 5), ("f-4", debit, 2))
    ]

    assert day_of(before) == (0, 30, 1_000)  # until the day's first booking
    assert [day_of(answer["accounts"][0]) for answer in answers] == [
        (970, 10, 0),
        (970, 10, 5),
        (970, 12, 5),
    ]
    assert {answer["business_date"] for answer in answers} == {"2026-02-01"}


def day_of(touched: dict[str, Any]) -> tuple[int, int, int]:
    """Give what an account says of its day: balance before it, debits, credits."""
    return touched["previous_balance"], touched["day_debits"], touched["day_credits"]


def test_a_parent_shows_the_sum_of_its_tree(api: ApiCaller) -> None:
    api.open("M")
    api.open("M.1", "M.2", parent="M")
    api.open("M.1.1", parent="M.1")
    api.open("M.1.d", parent="M.1", normal_side="debit", credit_limit=None)
    for number, amount in (("M", 1), ("M.1", 20), ("M.2", 300), ("M.1.1", 4_000)):
        api.credit(number, amount)
    api.post(OPERATIONS, operation("d", debit("M.1.d", 50_000), business_type="adjustment"))

    top = api.get("/v1/accounts/M").json()["rolled_up"]
    middle = api.get("/v1/accounts/M.1").json()["rolled_up"]

    assert (top["accounts"], top["balance"]) == (5, 1 + 20 + 300 + 4_000 - 50_000)
    assert (middle["accounts"], middle["balance"], middle["available"]) == (
        3,
        20 + 4_000 - 50_000,
        None,
    )


def test_sums_beyond_64_bits_are_shown_exactly(api: ApiCaller) -> None:
    largest = 2**63 - 1
    api.open("M")
    api.open("M.1", "M.2", parent="M", credit_limit=largest)
    for number in ("M.1", "M.2"):
        api.credit(number, largest)

    child = api.get("/v1/accounts/M.1").json()
    tree = api.get("/v1/accounts/M").json()["rolled_up"]

    assert child["available"] == 2 * largest
    assert (tree["balance"], tree["available"]) == (2 * largest, 4 * largest)


def test_a_stale_version_is_refused_and_the_right_one_is_not(api: ApiCaller) -> None:
    api.open("C-1")
    etag = api.get("/v1/accounts/C-1").headers["etag"]
    api.credit("C-1", 1)
    position = api.position()
    change = {"operation_id": "x", "command": "reserve", "reserve": 1}

    stale = api.post("/v1/accounts/C-1/commands", change, headers={"If-Match": etag})
    after = api.position()
    fresh = api.get("/v1/accounts/C-1").headers["etag"]
    booked = api.post("/v1/accounts/C-1/commands", change, headers={"If-Match": fresh})

    assert (stale.status_code, stale.json()["code"]) == (412, "version_mismatch")
    assert after == position
    assert booked.status_code == 200
    assert (etag, fresh) == ('"1"', '"2"')


def test_a_close_tells_the_engine_which_operations_it_need_not_read(
    api: ApiCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    look = loading.has_unvouchered_in_tx

    def watched(cursor: Any, book_id: str, number: str, ended_through: int = 0) -> bool:
        told.append((number, ended_through))
        return look(cursor, book_id, number, ended_through)

    monkeypatch.setattr(loading, "has_unvouchered_in_tx", watched)
    api.open("C-1")
    api.post(OPERATIONS, operation("in", credit("C-1", 5)))
    api.post(OPERATIONS, operation("out", debit("C-1", 5), business_type="withdrawal"))
    close = {"operation_id": "close-1", "command": "close"}
    assert api.post("/v1/accounts/C-1/commands", close).json()["code"] == "unvouchered_remains"
    with psycopg.connect(api.database_url) as conn:
        results = [AccountingResult("main", each, "vouchered", None, 1) for each in ("in", "out")]
        apply_results_in_tx(conn, results)

    closed = api.post("/v1/accounts/C-1/commands", {**close, "operation_id": "close-2"})

    assert closed.status_code == 200
    assert told == [("C-1", 0), ("C-1", 3), ("BUFFER-C-1", 0)]


def test_a_command_again_gets_the_first_answer(api: ApiCaller) -> None:
    api.open("C-1")
    change = {"operation_id": "x", "command": "reserve", "reserve": 7}
    first = api.post("/v1/accounts/C-1/commands", change)
    again = api.post("/v1/accounts/C-1/commands", change)
    other = api.post("/v1/accounts/C-1/commands", {**change, "reserve": 8})

    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert other.json()["code"] == "operation_id_reused"


def test_pages_of_accounts_neither_repeat_nor_skip(api: ApiCaller) -> None:
    numbers = [f"C-{number:02}" for number in range(7)]
    api.open(*reversed(numbers))

    assert all_numbers(api, 3) == numbers
    assert all_numbers(api, 7) == numbers


def test_accounts_are_found_by_owner_subject_parent_and_status(api: ApiCaller) -> None:
    api.open("A", "B", owner="U-1")
    api.open("C", owner="U-2", subject="2002", parent="A")
    command(api, "B", "close", command="close")

    assert all_numbers(api, 5, owner="U-1") == ["A", "B"]
    assert all_numbers(api, 5, owner="U-1", status="open") == ["A"]
    assert all_numbers(api, 5, subject="2002") == ["C"]
    assert all_numbers(api, 5, parent="A") == ["C"]


def test_events_of_an_account_come_by_version(api: ApiCaller) -> None:
    api.open("C-1")
    for _ in range(3):
        api.credit("C-1", 10)

    first = api.get("/v1/accounts/C-1/events", limit=3).json()
    rest = api.get("/v1/accounts/C-1/events", cursor=first["next_cursor"]).json()

    items = first["items"] + rest["items"]
    assert [item["version"] for item in items] == [1, 2, 3, 4]
    assert [item["event"] for item in items] == ["AccountOpened"] + ["AccountCredited"] * 3
    assert [item["fact"].get("balance") for item in items] == [None, 10, 20, 30]
    assert rest["next_cursor"] is None


def test_the_register_says_who_when_why_and_by_which_order(api: ApiCaller) -> None:
    api.open("C-1")
    api.credit("C-1", 100)
    order = {"authority": "court-3", "order": "2026-17", "reason": "suit"}
    command(api, "C-1", "f-1", command="freeze", freeze_id="whole", **order)
    command(api, "C-1", "i-1", command="court_inquiry", **order)
    frozen = leg("freeze", "C-1", 40, freeze_id="part", **order)
    clerk = api.make_key("post", principal="clerk")
    body = operation("f-2", frozen, business_type="freeze")
    assert api.post(OPERATIONS, body, key=clerk).status_code == 201
    lifted = {"authority": "court-3", "order": "2026-18", "reason": "paid"}
    command(api, "C-1", "u-1", command="unfreeze", freeze_id="whole", **lifted)

    items = api.get("/v1/accounts/C-1/register").json()["items"]

    assert [(item["event"], item["principal"]) for item in items] == [
        ("AccountOpened", "local"),
        ("AccountFrozen", "local"),
        ("CourtInquiryRegistered", "local"),
        ("AmountFrozen", "clerk"),
        ("AccountUnfrozen", "local"),
    ]
    assert {name: items[3]["fact"][name] for name in order} == order
    assert {name: items[4]["fact"][name] for name in order} == lifted


def test_open_holds_and_freezes_in_force_are_listed(api: ApiCaller) -> None:
    api.open("C-1")
    api.credit("C-1", 100)
    for hold_id in ("b", "a"):
        held = leg("hold", "C-1", 10, hold_id=hold_id)
        api.post(OPERATIONS, operation(f"hold-{hold_id}", held, business_type="hold"))
    released = leg("release", "C-1", 4, hold_id="a")
    api.post(OPERATIONS, operation("release", released, business_type="release"))
    order = {"authority": "court-3", "order": "2026-17", "reason": "suit"}
    command(api, "C-1", "f-1", command="freeze", freeze_id="whole", **order)

    holds = api.get("/v1/accounts/C-1/holds").json()["items"]
    freezes = api.get("/v1/accounts/C-1/freezes").json()["items"]

    assert [(hold["hold_id"], hold["amount"]) for hold in holds] == [("a", 6), ("b", 10)]
    assert freezes == [{"freeze_id": "whole", "amount": None, **order}]


def test_books_keep_their_accounts_apart(api: ApiCaller) -> None:
    opened = {"book_id": "other", "name": "Other", "open_business_date": "2026-03-01"}
    assert api.post("/v1/books", opened).status_code == 201
    api.open("C-1")
    api.credit("C-1", 5)
    there = {"Daybook-Book": "other"}

    before = api.post(OPERATIONS, operation("r", credit("C-1", 7)), headers=there)
    api.post("/v1/accounts", {**_opening("C-1"), "operation_id": "o"}, headers=there)
    booked = api.post(OPERATIONS, operation("r2", credit("C-1", 7)), headers=there)

    assert before.status_code == 201  # a recharge is must-book: it waits in suspense
    assert before.json()["issues"][0]["reason"] == "unknown_account"
    assert booked.json()["business_date"] == "2026-03-01"
    assert api.balance("C-1") == 5


def _opening(number: str) -> dict[str, Any]:
    fields = {"owner": "U-1", "type": "customer", "subject": "2001.01", "currency": "CNY"}
    return {"account": number, **fields}
