"""Any history of accounts with stripes is the history of the same accounts without."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account, Striping
from ledger.evolve import evolve
from ledger.gathering import PREFIX
from ledger.stripes import STRIPE, stripe_number, whole_of
from tests.ledger import builders as b
from tests.ledger.test_batch_properties import NUMBERS, Memory, submissions
from tests.ledger.test_buffer_properties import Buffered, plain
from tests.ledger.test_buffer_properties import submissions as funded

STRIPES_MAX = 3
STRIPES = {n: [stripe_number(n, k + 1) for k in range(STRIPES_MAX)] for n in NUMBERS}
NEXT_DAY = "2026-02-01"
RUN = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Striped(Memory):
    """A ledger in memory whose accounts have stripes."""

    def __init__(self, stripes: int = STRIPES_MAX) -> None:
        super().__init__()
        self.stripes = stripes
        for number in NUMBERS:
            self.accounts.update(dict.fromkeys(STRIPES[number]))
            striping = Striping(stripes, stripes)
            self.accounts[number] = b.account(number, striping=striping, balance_minor=0)

    def _has_operation(self, number: str) -> bool:
        numbers = (number, *STRIPES.get(number, ()))
        return any(isinstance(event, ev.Moved) for each in numbers for event in self.stream(each))

    def whole(self, number: str) -> Account:
        """The account in one."""
        account = self.accounts[number]
        assert account is not None
        return whole_of(account, self.accounts.__getitem__)


def said(memory: Memory) -> list[Any]:
    """What callers heard: verdict, what it says of accounts but for their versions."""
    heard: list[Any] = []
    for event in memory.answers:
        if isinstance(event, ev.OperationRejected | ev.CommandRejected):
            heard.append((event.operation_id, event.reason, event.account, event.detail))
        elif isinstance(event, ev.OperationBooked):
            touched = {each.account: of(each) for each in event.accounts}
            heard.append((event.operation_id, touched, event.issues))
        elif event.event not in ("StripesSet", "CourtInquiryRegistered"):
            heard.append((event.operation_id, event.event, of(event.touched)))
    return heard


def of(touched: ev.TouchedAccount) -> ev.TouchedAccount:
    return msgspec.structs.replace(touched, version=0)


def facts(account: Account) -> dict[str, Any]:
    """Everything of an account but for its version and its striping."""
    return {**msgspec.structs.asdict(account), "version": 0, "striping": None}


def in_order(memory: Striped) -> None:
    """A stripe is never below zero; a home below zero has empty stripes."""
    for number in NUMBERS:
        home = memory.accounts[number]
        stripes = [s for each in STRIPES[number] if (s := memory.accounts[each]) is not None]
        assert home is not None
        assert all(stripe.balance_minor >= 0 for stripe in stripes)
        assert home.balance_minor >= 0 or not any(stripe.balance_minor for stripe in stripes)


def named_apart(submitted: op.Submission) -> op.Submission:
    """The same request under an id of the next day."""
    operation_id = f"next-{submitted.operation_id}"
    body = msgspec.structs.replace(submitted.body, operation_id=operation_id)
    return b.submission(operation_id, body, account=submitted.account)


def change_stripes(without: Memory, striped: Striped, data: st.DataObject, at: str) -> None:
    """Change the stripes of a live account; the other ledger only writes an inquiry down."""
    number = data.draw(st.sampled_from(NUMBERS))
    account = without.accounts[number]
    assert account is not None
    if account.status == "open":
        change = op.SetStripes(stripes=data.draw(st.integers(0, STRIPES_MAX)))
        striped.book([b.command(number, change)], at)
        without.book([b.command(number, op.RegisterInquiry())], at)


@RUN
@given(funded() | submissions(), submissions(), st.data())
def test_striping_changes_where_but_never_what(
    day: list[op.Submission], next_day: list[op.Submission], data: st.DataObject
) -> None:
    without, striped = Memory(), Striped(data.draw(st.integers(0, STRIPES_MAX)))
    later = [named_apart(each) for each in next_day]
    for date, at, of_day in ((b.DAY, b.AT, day), (NEXT_DAY, b.LATER, later)):
        without.day = striped.day = date
        for submitted in of_day:
            without.book([submitted], at)
            striped.book([submitted], at)
            in_order(striped)
            if data.draw(st.integers(0, 3)) == 0:
                change_stripes(without, striped, data, at)
                in_order(striped)
    assert said(striped) == said(without)
    for number in NUMBERS:
        account = without.accounts[number]
        assert account is not None
        assert facts(striped.whole(number)) == facts(account)


@st.composite
def agreements(draw: st.DrawFn) -> op.Submission:
    """An agreement ends, so that inflows lie on stripes again, or begins anew."""
    change = op.SetBuffering(buffer_ms=draw(st.sampled_from((0, 60_000))), agreement="A")
    return b.command(draw(st.sampled_from(NUMBERS)), change)


class StripedAndBuffered(Buffered):
    """A ledger in memory whose accounts have stripes and are under agreements."""

    def __init__(self, directions: str) -> None:
        super().__init__(directions)
        for number in NUMBERS:
            self.accounts.update(dict.fromkeys(STRIPES[number]))
            account = self.accounts[number]
            assert account is not None
            account.striping = Striping(STRIPES_MAX, STRIPES_MAX)


@RUN
@given(funded(), st.sampled_from(("in", "both")), st.data())
def test_stripes_and_buffers_together_change_nothing_either(
    day: list[op.Submission], directions: str, data: st.DataObject
) -> None:
    without, both = plain(directions), StripedAndBuffered(directions)
    for submitted in day:
        without.book([submitted], b.AT)
        both.book([submitted], b.AT)
        if data.draw(st.booleans()):
            both.apply()
            both.book([data.draw(agreements())], b.AT)
    both.apply()
    assert verdicts(both) == verdicts(without)
    for number in NUMBERS:
        account = without.accounts[number]
        home = both.accounts[number]
        assert account is not None
        assert home is not None
        whole = whole_of(home, both.accounts.__getitem__)
        assert shown(whole) == shown(account)


def verdicts(memory: Memory) -> list[tuple[str, str]]:
    """What became of each request of the day: the agreements are not there without buffers."""
    return [
        (answer.operation_id, getattr(answer, "reason", "booked"))
        for answer in memory.answers
        if answer.operation_id.startswith("op-")
    ]


def shown(account: Account) -> tuple[int, ...]:
    """The money of an account, with its day's turnover."""
    return (
        account.balance_minor,
        account.held_minor,
        account.day_debits_minor,
        account.day_credits_minor,
        account.debit_total_minor,
        account.credit_total_minor,
    )


@RUN
@given(funded() | submissions())
def test_a_striped_batch_is_its_operations_one_at_a_time(day: list[op.Submission]) -> None:
    together, apart = Striped(), Striped()
    together.book(day, b.AT)
    for submitted in day:
        apart.book([submitted], b.AT)
    assert together.events == apart.events
    assert together.accounts == apart.accounts
    assert together.totals == apart.totals


@RUN
@given(funded() | submissions())
def test_home_and_stripes_are_the_folds_of_their_streams(day: list[op.Submission]) -> None:
    memory = Striped()
    memory.book(day, b.AT)
    for number in NUMBERS:
        for each in (number, *STRIPES[number]):
            start = b.account(number, striping=Striping(STRIPES_MAX, STRIPES_MAX))
            folded = start if each == number else None
            for event in memory.stream(each):
                if isinstance(event, ev.AccountOpened | ev.Moved | ev.Administered):
                    folded = evolve(folded, event)
            assert folded == memory.accounts[each]
            assert each == number or folded is None or folded.type == STRIPE


@RUN
@given(funded() | submissions())
def test_what_is_gathered_is_missing_and_moves_one_subject(day: list[op.Submission]) -> None:
    memory = Striped()
    memory.book(day, b.AT)
    for _, _, event in memory.events:
        if isinstance(event, ev.OperationBooked) and event.operation_id.startswith(PREFIX):
            moved = [(leg.kind, leg.amount_minor) for leg in event.legs]
            out = sum(amount_minor for kind, amount_minor in moved if kind == "debit")
            assert moved[-1] == ("credit", out)
            assert {leg.subject for leg in event.legs} == {"2001.01"}
