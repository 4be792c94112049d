"""The fold: the day's roll, the running totals, and that the past is never touched."""

from __future__ import annotations

import msgspec
import pytest

from ledger import events as ev
from ledger import operation as op
from ledger.evolve import evolve, fold
from tests.ledger import builders as b


def moved(struct: type, amount_minor: int, balance_minor: int, version: int, date: str) -> ev.Moved:
    """A movement as it stands in a stream."""
    before = balance_minor - amount_minor
    common = (amount_minor, before, balance_minor, 0, version, date, date, b.AT)
    event: ev.Moved = struct("C-1", "op", 1, "transfer", *common)
    return event


def test_the_days_first_booking_rolls_yesterdays_balance() -> None:
    account = b.account("C-1", business_date="2026-01-30")
    account = evolve(account, moved(ev.AccountCredited, 100, 100, 2, "2026-01-30"))
    account = evolve(account, moved(ev.AccountCredited, 20, 120, 3, "2026-01-30"))
    assert (account.previous_balance_minor, account.day_credits_minor) == (0, 120)
    account = evolve(account, moved(ev.AccountCredited, 1, 121, 4, "2026-01-31"))
    assert (account.previous_balance_minor, account.day_credits_minor) == (120, 1)
    assert (account.credit_total_minor, account.business_date) == (121, "2026-01-31")


def test_also_a_change_of_standing_rolls_the_day() -> None:
    account = b.account("C-1", balance_minor=70, day_credits_minor=70, business_date="2026-01-30")
    decided = b.decide(b.loaded(account), b.command("C-1", op.ReportLoss()))
    after = decided.touched["C-1"]
    assert (after.previous_balance_minor, after.day_credits_minor) == (70, 0)


def test_a_rejected_command_does_not_roll_the_day() -> None:
    account = b.account("C-1", business_date="2026-01-30")
    assert b.decide(b.loaded(account), b.command("C-1", op.ReportFound())).touched == {}


def test_debits_and_credits_are_totalled_apart() -> None:
    state = b.loaded(b.account("C-1"))
    decided = b.decide(
        state,
        b.post("transfer", b.credit("C-1", 100)),
        b.post("transfer", b.debit("C-1", 30)),
        b.post("transfer", b.debit("C-1", 5)),
    )
    after = decided.touched["C-1"]
    assert (after.credit_total_minor, after.debit_total_minor, after.balance_minor) == (100, 35, 65)
    assert (after.day_credits_minor, after.day_debits_minor) == (100, 35)


def test_evolving_leaves_the_account_before_as_it_was() -> None:
    before = b.account("C-1", balance_minor=500)
    kept = msgspec.structs.asdict(before)
    b.decide(
        b.loaded(before),
        b.post("hold", b.hold("C-1", 5)),
        b.post("freeze", b.freeze("C-1", 5)),
        b.command("C-1", op.SetLimit(business_type="fee", per_day_count=1)),
        b.post("fee", b.debit("C-1", 5)),
    )
    assert msgspec.structs.asdict(before) == kept


def test_an_empty_stream_is_no_account_and_a_stream_begins_with_its_opening() -> None:
    assert fold([]) is None
    with pytest.raises(AssertionError):
        fold([moved(ev.AccountCredited, 1, 1, 1, b.DAY)])


STANDING_COMMANDS = {
    "closed": (op.CloseAccount(), {"status": "closed"}),
    "frozen": (
        op.FreezeAccount(freeze_id="w", authority="court", order_number="1", reason="case"),
        {"whole_freezes": 1},
    ),
    "lost": (op.ReportLoss(), {"lost": True}),
    "blocked": (op.SetPaymentStatus(payment_status="blocked"), {"payment_status": "blocked"}),
    "partial stop": (
        op.SetPaymentStatus(
            payment_status="partial_stop", partial_types=("fee",), partial_amount_minor=9
        ),
        {"partial_types": ("fee",), "partial_amount_minor": 9},
    ),
    "reserve": (op.SetReserve(reserve_minor=7), {"reserve_minor": 7}),
    "credit limit": (op.SetCreditLimit(credit_limit_minor=None), {"credit_limit_minor": None}),
    "inquiry": (op.RegisterInquiry(authority="court"), {"status": "open"}),
}


@pytest.mark.parametrize("name", STANDING_COMMANDS)
def test_a_command_becomes_one_event_with_its_register(name: str) -> None:
    change, facts = STANDING_COMMANDS[name]
    submitted = b.command("C-1", change, operation_id="cmd")
    decided = b.decide(b.loaded(b.account("C-1")), submitted)
    record, event = b.events_of(decided)
    # then the account is as the command says, one version on
    after = decided.touched["C-1"]
    assert {key: getattr(after, key) for key in facts} == facts
    assert after.version == 2
    # and the event says who, why and which order
    assert (event.principal, event.command_id) == (b.PRINCIPAL, "cmd")
    assert (event.authority, event.reason) == (change.authority, change.reason)
    assert (record.event, record.version) == (type(event).__name__, 2)


def test_a_whole_freeze_is_lifted_by_its_authority_alone_and_others_stay() -> None:
    def freeze(name: str, authority: str) -> op.FreezeAccount:
        return op.FreezeAccount(
            freeze_id=name, authority=authority, order_number="1", reason="case"
        )

    def lift(name: str, authority: str) -> op.UnfreezeAccount:
        return op.UnfreezeAccount(freeze_id=name, authority=authority, order_number="2")

    decided = b.decide(
        b.loaded(b.account("C-1")),
        b.command("C-1", freeze("a", "court")),
        b.command("C-1", freeze("b", "risk")),
        b.command("C-1", lift("a", "risk")),
        b.command("C-1", lift("a", "court")),
    )
    assert [reason and reason.value for reason in b.reasons(decided)] == [
        None,
        None,
        "other_authority",
        None,
    ]
    assert decided.touched["C-1"].whole_freezes == 1
    assert set(decided.touched["C-1"].freezes) == {"b"}


def test_an_overdraft_floor_is_a_credit_limit() -> None:
    decided = b.decide(b.loaded(missing=["C-9"]), b.open_account("C-9", overdraft_floor_minor=-500))
    assert decided.touched["C-9"].credit_limit_minor == 500
    state = b.loaded(decided.touched["C-9"])
    assert b.reason_of(state, b.post("transfer", b.debit("C-9", 500))) is None
    assert b.reason_of(state, b.post("transfer", b.debit("C-9", 501))) == "insufficient_funds"
