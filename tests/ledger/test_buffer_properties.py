"""Any history with buffering, applied at any moment, is the history without buffering."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import events as ev
from ledger import operation as op
from ledger.account import Buffering
from ledger.batch import decide_batch
from ledger.codec import decode_event
from ledger.evolve import evolve
from ledger.job import Job, Loaded
from tests.ledger import builders as b
from tests.ledger.test_batch_properties import (
    AMOUNTS,
    LEGS,
    MOVEMENT,
    NAMES,
    NUMBERS,
    TYPES,
    Memory,
)

# What stands between acceptance and application (a freeze, a block) may send money elsewhere.
COMMANDS = st.sampled_from(
    (
        op.ReportFound(),
        op.SetReserve(reserve_minor=5),
        op.SetCreditLimit(credit_limit_minor=40),
        op.SetLimit(business_type="fee", per_operation_minor=20, per_day_count=2),
    )
)
BUFFERS = [f"BUFFER-{number}" for number in NUMBERS]
RUN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def submissions(draw: st.DrawFn) -> list[op.Submission]:
    """Money for everybody, then operations of few legs, refunds of earlier ones, commands."""
    made = [
        b.post("recharge", b.credit(number, draw(AMOUNTS)), operation_id=f"op-{place}")
        for place, number in enumerate(NUMBERS)
    ]
    for number in range(len(NUMBERS), len(NUMBERS) + draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(("move", "move", "move", "any", "refund", "command")))
        operation_id = f"op-{number}"
        if kind == "refund":
            original = f"op-{draw(st.integers(0, number - 1))}"
            legs = draw(st.lists(MOVEMENT, min_size=1, max_size=2))
            made.append(
                b.post("refund", *legs, operation_id=operation_id, original_operation_id=original)
            )
        elif kind == "move":
            legs = draw(st.lists(MOVEMENT, min_size=1, max_size=2))
            made.append(b.post(draw(TYPES), *legs, operation_id=operation_id))
        elif kind == "command":
            made.append(b.command(draw(NAMES), draw(COMMANDS), operation_id=operation_id))
        else:
            made.append(b.post(draw(TYPES), *draw(LEGS), operation_id=operation_id))
    return made


class Buffered(Memory):
    """A ledger in memory whose accounts are under agreements."""

    def __init__(self, directions: str) -> None:
        super().__init__()
        self.accounts.update(dict.fromkeys(BUFFERS))
        agreed = Buffering(60_000, directions, "A", None, None, 1_000)
        for number in NUMBERS:
            self.accounts[number] = b.account(number, buffering=agreed)
        if directions == "both":
            self.accounts["C-3"] = b.account("C-3", buffering=agreed, credit_limit_minor=None)

    def apply(self) -> None:
        """Apply everything that waits, due or not."""
        loaded = Loaded(b.BOOK, b.DAY, None, dict(self.accounts), {}, dict(self.recorded))
        job = Job(book_id=b.BOOK, submissions=(), apply=NUMBERS, due_only=False)
        decided = decide_batch([job], loaded, b.TYPES, b.AT)
        for row in decided.rows:
            self.events.append(
                (row.stream_id, row.version, decode_event(row.topic.decode(), row.state))
            )
        self.accounts.update(decided.touched)


def said(memory: Memory) -> list[tuple[str, str]]:
    return [(answer.operation_id, getattr(answer, "reason", "booked")) for answer in memory.answers]


def money(memory: Memory) -> dict[str, tuple[int, ...]]:
    found = {}
    for number in NUMBERS:
        account = memory.accounts[number]
        assert account is not None
        found[number] = (
            account.balance_minor,
            account.held_minor,
            account.day_debits_minor,
            account.day_credits_minor,
        )
    return found


def plain(directions: str) -> Memory:
    memory = Memory()
    if directions == "both":
        memory.accounts["C-3"] = b.account("C-3", credit_limit_minor=None)
    return memory


@RUN
@given(submissions(), st.sampled_from(("in", "both")), st.data())
def test_buffering_changes_when_but_never_what(
    day: list[op.Submission], directions: str, data: st.DataObject
) -> None:
    without, buffered = plain(directions), Buffered(directions)
    for submitted in day:
        without.book([submitted], b.AT)
        buffered.book([submitted], b.AT)
        if data.draw(st.booleans()):
            buffered.apply()
    buffered.apply()
    assert said(buffered) == said(without)
    assert money(buffered) == money(without)
    for number in BUFFERS:
        account = buffered.accounts[number]
        assert account is None or (account.balance_minor, account.accepted) == (0, None)


@RUN
@given(submissions(), st.sampled_from(("in", "both")))
def test_a_buffered_batch_is_its_operations_one_at_a_time(
    day: list[op.Submission], directions: str
) -> None:
    together, apart = Buffered(directions), Buffered(directions)
    together.book(day, b.AT)
    for submitted in day:
        apart.book([submitted], b.AT)
    assert together.events == apart.events
    assert together.accounts == apart.accounts


@RUN
@given(submissions(), st.sampled_from(("in", "both")))
def test_what_waits_is_the_balance_of_the_buffer_account_and_its_fold(
    day: list[op.Submission], directions: str
) -> None:
    memory = Buffered(directions)
    memory.book(day, b.AT)
    for number in BUFFERS:
        account = memory.accounts[number]
        if account is None:
            continue
        waits = account.accepted
        net = 0 if waits is None else waits.credits_minor - waits.debits_minor
        assert account.balance_minor == net
        folded = None
        for event in memory.stream(number):
            if isinstance(event, ev.AccountOpened | ev.AccountCredited | ev.AccountDebited):
                folded = evolve(folded, event)
        assert folded == account
