"""The days of an account with stripes are those of the same account without."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger.books import open_day
from projections.account_balances import AccountDay, select_account_days
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log
from tests.fix_api import BOOK, ApiCaller, leg, operation

OPERATIONS = "/v1/operations"
OPEN = dt.date(2026, 1, 31)
TWINS = ("M-wide", "M-plain")


def days_of(database_url: str, number: str, *, limit: int = 100, **dates: str) -> list[AccountDay]:
    """Read the days page by page, in one snapshot each, as the API does."""
    found: list[AccountDay] = []
    cursor: str | None = None
    with connect_to(database_url) as conn:
        while True:
            page = select_account_days(conn, BOOK, number, cursor=cursor, limit=limit, **dates)
            assert len(page.items) <= limit
            found += page.items
            if (cursor := page.next_cursor) is None:
                return found


def figures(days: list[AccountDay]) -> list[tuple[Any, ...]]:
    """Return what a day says of the whole, but for the version, which is a stream's."""
    return [
        (day.currency, day.business_date, day.debit_minor, day.credit_minor, day.closing_minor)
        for day in days
    ]


def set_stripes(api: ApiCaller, number: str, stripes: int, name: str) -> None:
    body = {"operation_id": name, "command": "stripes", "stripes": stripes}
    assert api.post(f"/v1/accounts/{number}/commands", body).status_code == 200


def days_of_trade(api: ApiCaller, seed: int, side: str) -> Iterator[int]:
    """Post the same on both accounts for nine days, the stripes of one changing; some rest."""
    chosen = random.Random(seed)
    inward, outward = ("credit", "debit") if side == "credit" else ("debit", "credit")
    for day in range(9):
        with psycopg.connect(api.database_url, autocommit=True) as conn:
            if day:
                open_day(conn, BOOK, OPEN + dt.timedelta(days=day), principal="local")
        if day in (1, 3, 4, 6):
            set_stripes(api, TWINS[0], {1: 4, 3: 2, 4: 0, 6: 3}[day], f"n-{day}")
        for no in range(0 if day in (3, 5) else 5):
            kind, business_type = chosen.choice(
                [(inward, "recharge"), (inward, "recharge"), (outward, "fee")]
            )
            amount_minor = chosen.randint(1, 60)
            answers = {
                api.post(
                    OPERATIONS,
                    operation(
                        f"{number}-{day}-{no}",
                        leg(kind, number, amount_minor),
                        business_type=business_type,
                    ),
                ).status_code
                for number in TWINS
            }
            assert len(answers) == 1, "striping changes no verdict"
        yield day


@pytest.mark.parametrize("side", ["credit", "debit"])
def test_days_are_those_of_an_account_without_stripes(api: ApiCaller, side: str) -> None:
    api.open(*TWINS, normal_side=side)
    for _ in days_of_trade(api, 7, side):
        pass
    consume_log(api.database_url)

    plain = days_of(api.database_url, "M-plain")
    assert len(plain) == 7
    for limit in (1, 2, 100):
        assert figures(days_of(api.database_url, "M-wide", limit=limit)) == figures(plain)
    for dates in (
        {"from_date": "2026-02-04"},
        {"to_date": "2026-02-04"},
        {"from_date": "2026-02-05", "to_date": "2026-02-07"},
    ):
        wide = days_of(api.database_url, "M-wide", limit=1, **dates)
        assert figures(wide) == figures(days_of(api.database_url, "M-plain", **dates))


def test_a_day_says_where_it_was_booked_and_the_unstriped_one_says_what_it_said(
    api: ApiCaller,
) -> None:
    api.open(*TWINS)
    for _ in days_of_trade(api, 3, "credit"):
        pass
    consume_log(api.database_url)

    for day in days_of(api.database_url, "M-wide"):
        assert sum(part.closing_minor for part in day.parts) == day.closing_minor
        assert day.parts[0].account == "M-wide" or day.business_date >= "2026-02-01"
    last = api.get("/v1/accounts/M-wide/days").json()["data"]["items"][-1]
    balance = api.get("/v1/accounts/M-wide").json()
    assert (last["closing"], last["credit"], last["debit"]) == (
        balance["balance"],
        balance["day_credits"],
        balance["day_debits"],
    )
    lies = {part["account"]: part["balance"] for part in balance["striped"]["parts"]}
    closed = {part["account"]: part["closing"] for part in last["parts"]}
    assert closed == {name: lies[name] for name in closed}
    assert sum(closed.values()) == sum(lies.values())
    plain = api.get("/v1/accounts/M-plain/days").json()["data"]["items"][-1]
    assert set(plain) == {
        *("currency", "business_date", "debit", "credit", "closing", "last_version")
    }
    (stripe, *_) = (name for name in lies if name != "M-wide" and lies[name])
    part = api.get(f"/v1/accounts/{stripe}/days").json()["data"]["items"][-1]
    assert (part["closing"], "parts" in part) == (lies[stripe], False)


def test_a_cursor_that_is_no_date_is_refused(api: ApiCaller) -> None:
    api.open("M-wide")
    set_stripes(api, "M-wide", 2, "n")
    for cursor in ("WyJub25zZW5zZSIsIkNOWSJd", "nonsense"):
        answer = api.get("/v1/accounts/M-wide/days", cursor=cursor)
        assert answer.status_code == 400
