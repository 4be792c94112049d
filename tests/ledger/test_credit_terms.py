"""A signed credit agreement: its limit lets money out of an account on its days, and only then."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
import pytest

from ledger import audit
from ledger import operation as op
from ledger.account import Accepted, Account, CreditTerms
from ledger.errors import RejectionReason as R
from ledger.reads import AccountState, select_account
from tests.fix_api import ApiCaller, operation
from tests.fix_api import debit as debit_of
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.test_buffers import buffer, given, hot

NEXT_DAY = "2026-02-01"
COMMANDS = "/v1/accounts/M-1/commands"


def signed(limit_minor: int = 500, *, agreement: str = "L-3", **days: str) -> op.SetCreditLimit:
    dates = {name: dt.date.fromisoformat(day) for name, day in days.items()}
    return op.SetCreditLimit(credit_limit_minor=limit_minor, agreement=agreement, **dates)


def in_credit(first: str | None, last: str | None, **facts: Any) -> Account:
    terms = CreditTerms("L-3", first, last)
    return b.account("M-1", credit_limit_minor=500, credit_terms=terms, **facts)


DAYS: dict[str, tuple[str | None, str | None, bool]] = {
    "open at both ends": (None, None, True),
    "its first day": (b.DAY, None, True),
    "its last day": (None, b.DAY, True),
    "its only day": (b.DAY, b.DAY, True),
    "the day before it": (NEXT_DAY, None, False),
    "the day after it": (None, "2026-01-30", False),
}


@pytest.mark.parametrize("kind", ["debit", "hold"])
@pytest.mark.parametrize("case", DAYS)
def test_the_limit_lets_money_out_on_the_days_of_its_agreement_only(case: str, kind: str) -> None:
    first, last, in_force = DAYS[case]
    leg = b.debit("M-1", 500) if kind == "debit" else b.hold("M-1", 500)
    business_type = "fee" if kind == "debit" else "hold"
    one_more = b.leg("debit", "M-1", 1)

    decided = b.decide(
        b.loaded(in_credit(first, last)), b.post(business_type, leg), b.post("fee", one_more)
    )

    assert b.reasons(decided) == [None if in_force else R.INSUFFICIENT_FUNDS, R.INSUFFICIENT_FUNDS]


def test_the_day_of_the_operation_counts_and_not_that_of_the_account() -> None:
    ended = in_credit(None, b.DAY, business_date=b.DAY)
    begun = in_credit(NEXT_DAY, None, business_date=b.DAY)
    assert (ended.available_minor, ended.available_on(NEXT_DAY)) == (500, 0)
    assert (begun.available_minor, begun.available_on(NEXT_DAY)) == (0, 500)
    for account, reason in ((ended, R.INSUFFICIENT_FUNDS), (begun, None)):
        state = b.loaded(account, open_date=NEXT_DAY)
        decided = b.decide(state, b.post("fee", b.debit("M-1", 1)))
        assert b.reasons(decided) == [reason]


def test_under_a_partial_stop_an_agreement_that_has_ended_does_not_cover_the_stopped_amount() -> (
    None
):
    stop = {"payment_status": "partial_stop", "partial_amount_minor": 100}
    account = in_credit(None, b.DAY, business_date=b.DAY, balance_minor=110, **stop)
    state = b.loaded(account, open_date=NEXT_DAY)
    decided = b.decide(state, b.post("fee", b.debit("M-1", 11)), b.post("fee", b.debit("M-1", 10)))
    assert b.reasons(decided) == [R.ACCOUNT_PARTIAL_STOP, None]


def test_what_was_held_in_credit_is_captured_after_the_agreement_has_ended() -> None:
    state = b.loaded(in_credit(None, b.DAY))
    held = b.decide(state, b.post("hold", b.hold("M-1", 500)))
    tomorrow = b.loaded(held.touched["M-1"], open_date=NEXT_DAY, originals={"op": None})
    openers = {hold.operation_id for hold in held.touched["M-1"].holds.values()}
    tomorrow.originals.update(dict.fromkeys(openers))

    decided = b.decide(tomorrow, b.post("payment", b.capture("M-1", 500)))

    assert b.reasons(decided) == [None]
    after = decided.touched["M-1"]
    assert (after.balance_minor, after.available_minor) == (-500, -500)


def test_a_debit_of_a_hot_account_takes_its_credit_before_what_waits() -> None:
    account = hot(credit_limit_minor=500, credit_terms=CreditTerms("L-3", b.DAY, b.DAY))
    waiting = buffer(accepted=Accepted(b.AT, 1, 0, 40), balance_minor=40)
    state = given(account, waiting)

    within = b.decide(state, b.post("fee", b.debit("M-1", 500)))
    with_what_waits = b.decide(state, b.post("fee", b.debit("M-1", 540)))
    beyond = b.decide(state, b.post("fee", b.debit("M-1", 541)))

    assert within.touched["M-1"].balance_minor == -500
    assert "BUFFER-M-1" not in within.touched
    assert with_what_waits.touched["M-1"].balance_minor == -500
    assert with_what_waits.touched["BUFFER-M-1"].accepted is None
    assert b.reasons(beyond) == [R.INSUFFICIENT_FUNDS]


def test_a_signed_limit_without_a_first_day_is_in_force_from_the_day_it_is_booked() -> None:
    state = b.loaded(b.account("M-1"))
    after = b.decide(state, b.command("M-1", signed())).touched["M-1"]
    assert after.credit_terms == CreditTerms("L-3", b.DAY, None)
    unsigned = b.decide(state, b.command("M-1", signed(agreement=""))).touched["M-1"]
    assert (unsigned.credit_limit_minor, unsigned.credit_terms) == (500, None)
    # and the next limit takes the agreement of the one before it away
    again = b.decide(b.loaded(after), b.command("M-1", signed(agreement=""))).touched["M-1"]
    assert again.credit_terms is None


# --- in the database ----------------------------------------------------------------------


def read(ledger: Ledger, number: str = "M-1") -> AccountState:
    with psycopg.connect(ledger.database_url, autocommit=True) as conn:
        return select_account(conn, b.BOOK, number)


def test_an_agreement_begins_and_ends_with_the_business_date_also_for_another_engine(
    database_url: str,
) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("M-1", "M-2")
        ledger.post(b.command("M-1", signed(valid_from=NEXT_DAY, valid_to=NEXT_DAY)))
        refused = ledger.answer(b.post("fee", b.debit("M-1", 1)))
        before = read(ledger)
        ledger.open_day(NEXT_DAY)
    with running_ledger(database_url) as other:  # which reads the head and saw no command
        taken = other.answer(b.post("fee", b.debit("M-1", 400)))
        during = read(other)
        other.open_day("2026-02-02")
        after = read(other)
        late = other.answer(b.post("fee", b.debit("M-1", 1)))
        with psycopg.connect(database_url, autocommit=True) as conn:
            assert audit.verify(conn).difference is None

    assert (refused.code, before.available_minor) == ("insufficient_funds", 0)
    assert (taken.status, taken.accounts[0].available_minor) == ("booked", 100)
    assert (during.balance_minor, during.available_minor) == (-400, 100)
    assert (late.code, after.available_minor, after.credit_limit_minor) == (
        "insufficient_funds",
        -400,
        500,
    )
    states = [state.credit and state.credit.in_force for state in (before, during, after)]
    assert states == [False, True, False]


def test_a_tree_counts_the_limits_in_force(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        ledger.open("M-1")
        ledger.open("M-1.a", "M-1.b", "M-1.c", parent="M-1")
        ledger.post(
            b.command("M-1.a", signed(1, valid_from=NEXT_DAY)),
            b.command("M-1.b", signed(20, valid_to=b.DAY)),
            b.command("M-1.c", signed(300, agreement="")),
        )
        today = read(ledger)
        ledger.open_day(NEXT_DAY)
        tomorrow = read(ledger)
    assert today.rolled_up is not None
    assert tomorrow.rolled_up is not None
    assert (today.rolled_up.available_minor, tomorrow.rolled_up.available_minor) == (320, 301)


def test_an_account_says_its_agreement_and_the_register_keeps_it(api: ApiCaller) -> None:
    api.open("M-1")
    body = {"operation_id": "l", "command": "credit_limit", "credit_limit": 500, "agreement": "L-3"}
    assert api.post(COMMANDS, {**body, "valid_to": "2099-12-31"}).status_code == 200

    shown = api.get("/v1/accounts/M-1").json()
    listed = api.get("/v1/accounts").json()["items"][0]
    fact = api.get("/v1/accounts/M-1/register").json()["items"][-1]["fact"]

    agreed = {"agreement": "L-3", "valid_from": shown["business_date"], "valid_to": "2099-12-31"}
    assert shown["credit"] == listed["credit"] == {**agreed, "in_force": True}
    assert (shown["available"], listed["available"]) == (500, 500)
    assert {name: fact[name] for name in agreed} == agreed
    fee = operation("f", debit_of("M-1", 501), business_type="fee")
    assert api.post("/v1/operations", fee).json()["code"] == "insufficient_funds"


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "days without an agreement": ({"valid_to": "2026-12-31"}, "missing_field", "agreement"),
    "days without an amount": (
        {"credit_limit": None, "agreement": "L", "valid_from": "2026-12-31"},
        "invalid_request",
        "credit_limit",
    ),
    "days in the wrong order": (
        {"agreement": "L", "valid_from": "2026-02-01", "valid_to": "2026-01-31"},
        "invalid_request",
        "valid_to",
    ),
    "no day": ({"agreement": "L", "valid_from": "soon"}, "invalid_request", "valid_from"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_credit_agreement_is_400(shared_api: ApiCaller, case: str) -> None:
    fields, code, field = BAD[case]
    body = {"operation_id": "l", "command": "credit_limit", "credit_limit": 5, **fields}
    answer = shared_api.post(COMMANDS, body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert field in (answer.json().get("field") or answer.json()["detail"])
