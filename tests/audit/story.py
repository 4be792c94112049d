"""A small payment day that leaves a row in every audited table, made by the real parts.

Operations are vouchered at once, parked and repaired, overridden, still parked, waiting,
woken and declared non-posting; the first day was cut, and one repaired after it; a period
was closed and reopened; accounts carry holds, freezes and limits; a day was opened;
an inflow went to suspense; a message was set aside; payments wait on the buffers of hot
accounts, others were applied, one of them to suspense; an account has stripes, and had more.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import psycopg

from accounting.decided import DayCut
from accounting.decisions import GivenLine
from accounting.periods import approve_change, cut_day, propose_change, reject_change
from accounting.ruleset import Ruleset
from accounting.ruleset_files import shipped_ruleset
from infra.decision_log import decision_log
from ledger import operation as op
from ledger.events import OrderNumbers
from projections.periods import select_open_at
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log
from tests.ledger import builders as b
from tests.ledger.booking import Ledger, running_ledger

NO_RULE = "guarantee"  # parked for good
REPAIRED = "payment"
OVERRIDDEN = "interest"
LATER_DAY = "2026-02-02"


def tell(database_url: str, consume: Callable[[str], None] = consume_log) -> None:
    """Write the story into a migrated database and let the books catch up by `consume`."""
    with running_ledger(database_url) as ledger:
        publish(database_url, without(shipped_ruleset(), NO_RULE, REPAIRED, OVERRIDDEN))
        open_accounts(ledger)
        first_day(ledger)
        consume(database_url)
        repair(database_url)
        consume(database_url)
        ledger.open_day(LATER_DAY)
        second_day(ledger)
        consume(database_url)
        cut(database_url)
        consume(database_url)
        after_the_cut(database_url)
        consume(database_url)


def without(ruleset: Ruleset, *business_types: str) -> Ruleset:
    """A ruleset that lacks the rules of some business types."""
    kept = [rule for rule in ruleset.rules if rule.business_type not in business_types]
    return Ruleset(f"{ruleset.version}-cut", ruleset.chart, kept)


def publish(database_url: str, ruleset: Ruleset) -> None:
    """Publish a ruleset for the tests' book."""
    with decision_log(database_url) as decisions:
        decisions.publish_ruleset(
            b.BOOK,
            ruleset.to_document(),
            ruleset_hash=ruleset.hash,
            label=ruleset.version,
            maker="alice",
        )


def open_accounts(ledger: Ledger) -> None:
    """Customers, a merchant, the bank, and some whose standing changes."""
    ledger.open("C-1", "C-2", "C-3", "LOST", "FROZEN", "STOPPED", "GONE")
    ledger.open("CHILD", parent="C-1")
    ledger.open("CREDIT", credit_limit_minor=50_000)
    ledger.open("M-1", type="merchant", subject="2002.01")
    ledger.open("HOT", "HOTTER", type="merchant", subject="2002.01")
    ledger.open("CHANNEL", type="channel", subject="2002.01", credit_limit_minor=None)
    ledger.open("WIDE", type="merchant", subject="2002.01")
    ledger.open("BANK", type="bank", subject="1002.01.02", normal_side="debit")
    why = {"reason": "case 7", "authority": "court", "order_number": "2026-7"}
    ledger.post(
        b.command("LOST", op.ReportLoss(reason="phoned")),
        b.command("FROZEN", op.FreezeAccount(freeze_id="whole", **why)),
        b.command(
            "STOPPED",
            op.SetPaymentStatus(
                payment_status="partial_stop", partial_types=("fee",), partial_amount_minor=100
            ),
        ),
        b.command("C-1", op.SetReserve(reserve_minor=5)),
        b.command("C-1", op.RegisterInquiry(**why)),
        b.command(
            "C-2",
            op.SetLimit(
                business_type="transfer",
                per_operation_minor=5_000,
                per_day_amount_minor=9_000,
                per_day_count=9,
            ),
        ),
        b.command("GONE", op.CloseAccount(reason="moved away")),
        b.command(
            "CREDIT",
            op.SetCreditLimit(
                credit_limit_minor=50_000,
                agreement="L-1",
                valid_from=dt.date(2026, 1, 1),
                valid_to=dt.date(2026, 12, 31),
            ),
        ),
        b.command(
            "HOT",
            op.SetBuffering(
                buffer_ms=60_000,
                agreement="A-1",
                valid_from=dt.date(2026, 1, 1),
                valid_to=dt.date(2026, 12, 31),
            ),
        ),
        b.command("HOTTER", op.SetBuffering(buffer_ms=60_000, agreement="A-2")),
        b.command("CHANNEL", op.SetBuffering(buffer_ms=60_000, directions="both")),
        b.command("WIDE", op.SetStripes(stripes=4)),
        b.command("NOBODY", op.ReportLoss()),
    )


def first_day(ledger: Ledger) -> None:
    """Recharges, transfers, holds, freezes, a payment without a rule and its refund."""
    orders = OrderNumbers(trade="T-1", payment="P-1", channel=("X-1", "X-2"))
    fee = {"amounts": {"fee": 60}}
    ledger.post(
        b.post("recharge", b.credit("C-1", 100_000), operation_id="r1", orders=orders, **fee),
        b.post("recharge", b.credit("C-2", 50_000), operation_id="r2", description="second"),
        b.post("recharge", b.credit("GONE", 700), operation_id="r3"),
        b.post("transfer", b.debit("C-2", 1_000), b.credit("C-3", 1_000), operation_id="t1"),
        b.post("transfer", b.debit("C-3", 9_000_000), b.credit("C-1", 9_000_000)),
        b.post("hold", b.hold("C-1", 3_000, "h1"), operation_id="h1"),
        b.post("hold", b.hold("C-1", 500, "h2", expires_at="2999-01-01T00:00:00Z")),
        b.post("freeze", b.freeze("C-2", 2_000, "f1"), operation_id="f1"),
        b.post("payment", b.debit("C-1", 9_700), b.credit("M-1", 9_700), operation_id="p1"),
        b.post(
            "refund",
            b.debit("M-1", 700),
            b.credit("C-1", 700),
            operation_id="p1-refund",
            original_operation_id="p1",
        ),
        b.post("interest", b.credit("C-3", 11), operation_id="i1"),
        b.post("guarantee", b.credit("C-3", 22), operation_id="g1"),
        b.post(
            "refund",
            b.debit("C-3", 2),
            operation_id="g1-refund",
            original_operation_id="g1",
        ),
        b.post(
            "refund",
            b.debit("C-3", 1),
            operation_id="g1-refund-2",
            original_operation_id="g1",
        ),
    )
    ledger.post(
        b.post("payment", b.debit("C-1", 33), b.credit("M-1", 33), operation_id="late"),
        b.post("payment_capture", b.capture("C-1", 1_000, "h1"), b.credit("M-1", 1_000)),
    )
    accept(ledger)
    spread(ledger)
    ledger.post(b.command("HOTTER", op.FreezeAccount(freeze_id="f9", **FROM_COURT)))


FROM_COURT = {"reason": "case 9", "authority": "court", "order_number": "2026-9"}


def accept(ledger: Ledger) -> None:
    """Payments that wait on buffer accounts: the opening of the next day applies them."""
    ledger.post(
        b.post("payment", b.debit("C-1", 41), b.credit("HOT", 41)),
        b.post("payment", b.debit("C-1", 42), b.credit("HOTTER", 42)),
        b.post("payment", b.debit("C-1", 43), b.credit("CHANNEL", 43)),
        b.post("payment", b.debit("CHANNEL", 43), b.credit("HOT", 43)),
    )


def repair(database_url: str) -> None:
    """Publish what was missing, order a retry, give lines for one, set a message aside."""
    publish(database_url, without(shipped_ruleset(), NO_RULE))
    with decision_log(database_url) as decisions:
        decisions.request_repair(b.BOOK, ["p1"], maker="alice", note="rule added")
        override = decisions.propose_override(
            b.BOOK,
            "i1",
            [
                GivenLine("debit", "6001.01", "CNY", 11),
                GivenLine("credit", "2001.01", "CNY", 11, "C-3"),
            ],
            accounting_date=b.DAY,
            maker="alice",
        )
        decisions.approve_override(override, checker="bob")
        waiting = decisions.propose_override(
            b.BOOK,
            "g1-refund-2",
            [
                GivenLine("debit", "2001.01", "CNY", 1, "C-3"),
                GivenLine("credit", "5001.01", "CNY", 1),
            ],
            accounting_date=b.DAY,
            maker="alice",
        )
        decisions.approve_override(waiting, checker="bob")
        decisions.set_aside("log", 0, 3, b"not a message", reason="unreadable", maker="alice")


def spread(ledger: Ledger) -> None:
    """Money on stripes, some of it gathered: for a fee, then as the stripes get fewer."""
    ledger.post(
        *(
            b.post("payment", b.debit("C-1", 60), b.credit("WIDE", 60), operation_id=f"wide-{n}")
            for n in range(6)
        ),
        b.post("hold", b.hold("WIDE", 20, "w1"), operation_id="wide-hold"),
        b.post("fee", b.debit("WIDE", 90), operation_id="wide-fee"),
        b.command("WIDE", op.SetStripes(stripes=2), operation_id="wide-fewer"),
        b.post("payment", b.debit("C-1", 9), b.credit("WIDE", 9), operation_id="wide-last"),
    )


def second_day(ledger: Ledger) -> None:
    """A few more movements on the next day, so that days roll."""
    ledger.post(
        b.post("transfer", b.debit("C-2", 300), b.credit("C-3", 300), value_date="2026-01-30"),
        b.post("release", b.release("C-1", 500, "h1"), operation_id="h1-release"),
        b.post("recharge", b.credit("C-1", 1, currency="CNY"), b.debit("BANK", 1)),
        b.command("HOTTER", op.UnfreezeAccount(freeze_id="f9", **FROM_COURT)),
    )
    accept(ledger)


def cut(database_url: str) -> None:
    """Cut the first day, with what is parked then."""
    with decision_log(database_url) as decisions, connect_to(database_url) as conn:
        listed = select_open_at(conn, b.BOOK, b.DAY)
        ids = listed.operation_ids
        given = DayCut(b.BOOK, b.DAY, LATER_DAY, listed.parked, len(ids), ids, "alice", "first")
        cut_day(decisions, given, lambda _cursor: None)


def after_the_cut(database_url: str) -> None:
    """Repair one that the cut listed, close a period, reopen it, and propose once more."""
    with decision_log(database_url) as decisions:
        decisions.request_repair(b.BOOK, ["late"], maker="alice", note="after the cut")
        for kind, checker in (("close", "bob"), ("reopen", "carol")):
            change = propose_change(decisions, b.BOOK, kind, "2025-12-31", maker="alice", note=kind)
            approve_change(decisions, b.BOOK, change, checker=checker)
        change = propose_change(decisions, b.BOOK, "close", "2025-12-31", maker="alice")
        reject_change(decisions, b.BOOK, change, checker="bob", note="not yet")


def today() -> dt.date:
    """The story's last open day."""
    return dt.date.fromisoformat(LATER_DAY)


def connect(database_url: str) -> psycopg.Connection:
    """Open a connection for the audit."""
    return psycopg.connect(database_url)
