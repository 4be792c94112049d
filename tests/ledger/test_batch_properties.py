"""Properties of the pure core, over histories that hypothesis makes up."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account
from ledger.batch import decide_batch
from ledger.codec import decode_event
from ledger.evolve import evolve
from ledger.job import Loaded, Missing, Outcome, Recordable, Recorded
from ledger.original import known_original
from tests.ledger import builders as b

NUMBERS = ("C-1", "C-2", "C-3")
CHILDREN = ("C-1.1", "C-1.2")  # not there until they are opened
NAMES = st.sampled_from(NUMBERS)
AMOUNTS = st.integers(1, 60)
HOLDS = st.sampled_from(("h1", "h2"))
MOVEMENT = st.builds(b.credit, NAMES, AMOUNTS) | st.builds(b.debit, NAMES, AMOUNTS)
SETTING_ASIDE = (
    st.builds(b.hold, NAMES, AMOUNTS, HOLDS)
    | st.builds(b.hold, NAMES, AMOUNTS, HOLDS, expires_at=st.just("2026-01-31T08:00:05+00:00"))
    | st.builds(b.release, NAMES, AMOUNTS, HOLDS)
    | st.builds(b.capture, NAMES, AMOUNTS, HOLDS)
    | st.builds(b.freeze, NAMES, AMOUNTS, HOLDS)
    | st.builds(b.unfreeze, NAMES, AMOUNTS, HOLDS)
)
LEGS = st.lists(MOVEMENT | SETTING_ASIDE, min_size=0, max_size=4)
TYPES = st.sampled_from(("transfer", "recharge", "fee"))
COMMANDS = st.sampled_from(
    (
        op.ReportLoss(),
        op.ReportFound(),
        op.CloseAccount(),
        op.SetReserve(reserve_minor=5),
        op.SetCreditLimit(credit_limit_minor=40),
        op.SetPaymentStatus(payment_status="receive_only"),
        op.SetPaymentStatus(payment_status="normal"),
        op.SetLimit(business_type="fee", per_operation_minor=20, per_day_count=2),
        op.FreezeAccount(freeze_id="w", authority="court", order_number="1", reason="x"),
        op.UnfreezeAccount(freeze_id="w", authority="court", order_number="2"),
    )
)


@st.composite
def submissions(draw: st.DrawFn) -> list[op.Submission]:
    """A day: operations of any legs, refunds of earlier ones, commands, repeated ids."""
    made: list[op.Submission] = []
    for number in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(("post", "post", "post", "refund", "command", "again", "open")))
        operation_id = f"op-{number}"
        if kind == "again" and made:
            made.append(draw(st.sampled_from(made)))
        elif kind == "refund" and number:
            original = f"op-{draw(st.integers(0, number - 1))}"
            legs = draw(st.lists(MOVEMENT, min_size=1, max_size=2))
            made.append(
                b.post("refund", *legs, operation_id=operation_id, original_operation_id=original)
            )
        elif kind == "open":
            made.append(
                b.open_account(
                    draw(st.sampled_from(CHILDREN)), parent="C-1", operation_id=operation_id
                )
            )
        elif kind == "command":
            made.append(
                b.command(
                    draw(NAMES | st.sampled_from(CHILDREN)),
                    draw(COMMANDS),
                    operation_id=operation_id,
                )
            )
        else:
            made.append(b.post(draw(TYPES), *draw(LEGS), operation_id=operation_id))
    return made


class Memory:
    """A ledger in memory: what the engine's transaction does, with a dict for the database."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account | None] = {
            number: b.account(number, balance_minor=0) for number in NUMBERS
        }
        self.accounts.update(dict.fromkeys(("SUSPENSE-CNY", *CHILDREN)))
        self.recorded: dict[str, Recorded] = {}
        self.events: list[tuple[bytes, int, ev.LedgerEvent]] = []
        self.answers: list[Any] = []
        self.totals: dict[str, tuple[int, int]] = {}
        self.day = b.DAY

    def book(self, batch: list[op.Submission], at: str) -> None:
        """Decide one batch on what is there, and remember what it made."""
        loaded = Loaded(
            b.BOOK,
            self.day,
            None,
            dict(self.accounts),
            {},
            dict(self.recorded),
            frozenset(filter(self._has_operation, self.accounts)),
            {"C-1": tuple(filter(self._is_open, CHILDREN))},
        )
        while True:
            try:
                decided = decide_batch([b.job(*batch)], loaded, b.TYPES, at)
                break
            except Missing as missing:
                for operation_id in missing.originals:
                    loaded.originals[operation_id] = self._original(operation_id)
        for row in decided.rows:
            event = decode_event(row.topic.decode(), row.state)
            self.events.append((row.stream_id, row.version, event))
            if isinstance(event, Recordable):
                self.recorded[event.operation_id] = Recorded(event, position=len(self.events))
        self.accounts.update(decided.touched)
        for outcome in decided.outcomes[0]:
            assert isinstance(outcome, Outcome)
            self.answers.append(outcome.record.event)
        for currency, (count, amount_minor) in decided.totals.items():
            old = self.totals.get(currency, (0, 0))
            self.totals[currency] = (old[0] + count, old[1] + amount_minor)

    def _has_operation(self, number: str) -> bool:
        return any(isinstance(event, ev.Moved) for event in self.stream(number))

    def _is_open(self, number: str) -> bool:
        account = self.accounts[number]
        return account is not None and account.status == "open"

    def _original(self, operation_id: str) -> Any:
        record = self.recorded.get(operation_id)
        if record is None:
            return None
        followed = [
            (version, event)
            for _, version, event in self.events
            if isinstance(event, ev.OperationFollowed) and event.operation_id == operation_id
        ]
        version, last = followed[-1] if followed else (1, None)
        return known_original(record.event, last, version, b.TYPES)

    def stream(self, number: str) -> list[Any]:
        """An account's events after its opening."""
        return [event for _, _, event in self.events if getattr(event, "account", "") == number]


def ledger_of(*batches: list[op.Submission], at: str = b.AT) -> Memory:
    memory = Memory()
    for batch in batches:
        memory.book(batch, at)
    return memory


RUN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@RUN
@given(submissions())
def test_a_batch_is_its_operations_one_at_a_time(day: list[op.Submission]) -> None:
    together, apart = ledger_of(day), ledger_of(*([each] for each in day))
    assert together.events == apart.events
    assert together.accounts == apart.accounts
    assert together.answers == apart.answers
    assert together.totals == apart.totals


@RUN
@given(submissions(), st.data())
def test_a_day_in_any_cut_of_batches_is_the_same_day(
    day: list[op.Submission], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(day)))
    assert ledger_of(day).events == ledger_of(day[:cut], day[cut:]).events


@RUN
@given(submissions())
def test_a_day_twice_is_a_day_once(day: list[op.Submission]) -> None:
    once, twice = ledger_of(day), ledger_of(day, day)
    assert twice.events == once.events
    assert twice.accounts == once.accounts
    assert twice.answers == once.answers * 2


@RUN
@given(submissions())
def test_any_history_folds_to_the_head(day: list[op.Submission]) -> None:
    memory = ledger_of(day[: len(day) // 2], day[len(day) // 2 :], at=b.AT)
    for number in NUMBERS:
        folded = b.account(number)
        for event in memory.stream(number):
            if isinstance(event, ev.Moved | ev.Administered):
                assert event.version == folded.version + 1
                folded = evolve(folded, event)
        assert folded == memory.accounts[number]


@RUN
@given(submissions())
def test_money_out_never_exceeds_what_is_available(day: list[op.Submission]) -> None:
    memory = ledger_of(day)
    for number in NUMBERS:
        account = memory.accounts[number]
        assert account is not None
        assert account.held_minor == sum(h.amount_minor for h in account.holds.values())
        frozen = sum(f.amount_minor or 0 for f in account.freezes.values())
        assert account.frozen_minor == frozen
        balance = account.credit_total_minor - account.debit_total_minor
        assert account.balance_minor == balance
        assert account.balance_minor >= -40  # the greatest credit limit that a day sets


@RUN
@given(submissions())
def test_the_sum_of_refunds_never_exceeds_a_part(day: list[op.Submission]) -> None:
    memory = ledger_of(day)
    for _, _, event in memory.events:
        if isinstance(event, ev.OperationFollowed):
            original = memory._original(event.operation_id)
            for part, refunded in event.refunded.items():
                assert refunded <= original.parts[part].amount_minor


@RUN
@given(submissions())
def test_the_totals_are_the_movement_of_what_was_booked(day: list[op.Submission]) -> None:
    memory = ledger_of(day)
    booked = [event for _, _, event in memory.events if isinstance(event, ev.OperationBooked)]
    moved = sum(
        leg.amount_minor for event in booked for leg in event.legs if leg.kind in ev.MOVEMENT_KINDS
    )
    assert memory.totals.get("CNY", (0, 0))[1] == moved
