"""Posting: one attempt to make vouchers of an operation, and writing what came of it.

`attempt` is pure and runs before any SQL of its transaction where that is possible;
`post_in_tx` writes the vouchers of outcomes that were just claimed or changed. Invariant:
the outcome and its vouchers are a function of the log's prefix alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from accounting.rules import NonPosting, Parked, ParkedReason, voucher_for
from accounting.voucher import Voucher
from consumers.messages import Booked
from ledger.statuses import AccountingResult
from projections.gl_balances import post_lines_in_tx
from projections.identity import movement_of
from projections.journal import insert_vouchers_in_tx, pack_vouchers
from projections.outcomes import (
    FINAL,
    NON_POSTING,
    PARKED,
    VOUCHERED,
    WAITING,
    OperationName,
    Outcome,
    Standing,
    apply_totals_in_tx,
    update_in_tx,
    write_amounts,
)
from projections.parked_reasons import BEHIND_ORIGINAL, UNKNOWN_RULESET
from projections.rulesets import PublishedRulesets


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Parked for a reason that is not the rules': an order's or the database's."""

    reason: str
    detail: str


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """What the rules make of an operation; `ruleset_position` names the version tried."""

    booked: Booked
    ruleset_position: int | None
    result: tuple[Voucher, ...] | NonPosting | Parked | Refused


class Settled(msgspec.Struct, frozen=True, gc=False):
    """An outcome with its vouchers; `source_position` is where their source is in the log."""

    outcome: Outcome
    vouchers: tuple[Voucher, ...]
    source_position: int


def attempt(
    rulesets: PublishedRulesets,
    booked: Booked,
    *,
    below: int | None = None,
    ruleset_hash: str | None = None,
    at: int | None = None,
) -> Attempt:
    """Make an operation's vouchers, or say why there are none.

    `below` is the position of the repair order that asked (default: the operation's own);
    `ruleset_hash` names a version instead of the one that the business date chooses; `at` is
    where it is decided (default: `below`): cuts and closes below it date the vouchers.
    """
    operation = booked.operation
    limit = booked.position if below is None else below
    if ruleset_hash is None:
        chosen = rulesets.choose(operation.book_id, operation.business_date, below=limit)
    else:
        chosen = rulesets.named(operation.book_id, ruleset_hash, below=limit)
        if chosen is None:
            return Attempt(booked, None, Refused(UNKNOWN_RULESET, ruleset_hash))
    if chosen is None:
        detail = f"no ruleset is published for {operation.business_date}"
        return Attempt(booked, None, Parked(ParkedReason.NO_RULE, detail))
    dating = rulesets.calendar.dating(
        operation.book_id, operation.business_date, below=limit if at is None else at
    )
    result = voucher_for(
        operation,
        chosen.ruleset,
        accounting_date=dating.accounting_date,
        closed_through=dating.closed_through,
    )
    return Attempt(booked, chosen.position, result)


def settle(tried: Attempt, at: int) -> Settled:
    """Turn an attempt into the outcome decided at position `at`."""
    result = tried.result
    if isinstance(result, tuple):
        outcome = _outcome(tried, at, VOUCHERED, None, _dated(tried, result[0]), result[0].rule_id)
        return Settled(outcome, result, tried.booked.position)
    if isinstance(result, NonPosting):
        return _bare(_outcome(tried, at, NON_POSTING, rule_id=result.rule_id))
    return _bare(_outcome(tried, at, PARKED, reason=str(result.reason), detail=result.detail))


def settle_waiting(booked: Booked, original_id: str) -> Settled:
    """Put an operation behind one of its originals, whatever the rules would say."""
    waiting = Attempt(booked, None, ())
    at = booked.position
    outcome = _outcome(waiting, at, WAITING, reason=BEHIND_ORIGINAL, waits_for=original_id)
    return _bare(outcome)


def final_originals(
    booked: Booked, standings: Mapping[OperationName, Standing], *, through: int | None = None
) -> dict[OperationName, int]:
    """Say which of an operation's originals are final, and where that was decided.

    With `through`, what was decided beyond that position is not final yet.
    """
    final: dict[OperationName, int] = {}
    for name in original_names(booked):
        standing = standings.get(name)
        if standing is None or standing.status not in FINAL:
            continue
        if through is None or standing.attempt_position <= through:
            final[name] = standing.attempt_position
    return final


def original_names(booked: Booked) -> list[OperationName]:
    """Name what an operation follows, in the order in which it waits for them."""
    operation = booked.operation
    return [(operation.book_id, original_id) for original_id in operation.originals]


def first_open(booked: Booked, final: Mapping[OperationName, int]) -> str | None:
    """Name the original that an operation waits for: the first that is not final; or None."""
    return next((name[1] for name in original_names(booked) if name not in final), None)


def settle_after(
    rulesets: PublishedRulesets,
    booked: Booked,
    final: Mapping[OperationName, int],
    tried: Attempt | None = None,
) -> Settled:
    """Settle an operation as its originals stand; decided after all of them.

    `tried` is an attempt at its own position, if there was one.
    """
    original_id = first_open(booked, final)
    if original_id is not None:
        return settle_waiting(booked, original_id)
    at = max(booked.position, *(final[name] for name in original_names(booked)))
    is_late = at > booked.position  # then it is dated so
    if tried is None or (is_late and not isinstance(tried.result, Refused)):
        tried = attempt(rulesets, booked, at=at)
    return settle(tried, at)


def post_in_tx(conn: Connection[Any], settled: Sequence[Settled], lane: int) -> None:
    """Write vouchers, lines and GL balances of outcomes that are new in this transaction."""
    entered = [(each.source_position, voucher) for each in settled for voucher in each.vouchers]
    insert_vouchers_in_tx(conn, pack_vouchers(entered))
    post_lines_in_tx(conn, (voucher for _, voucher in entered), lane)


def change_in_tx(
    conn: Connection[Any], changes: Sequence[tuple[Outcome, Settled]], lane: int
) -> list[Outcome]:
    """Move locked outcomes from what they were to what they are now."""
    now = [settled.outcome for _, settled in changes]
    update_in_tx(conn, now)
    apply_totals_in_tx(conn, now, [before for before, _ in changes], lane)
    post_in_tx(conn, [settled for _, settled in changes], lane)
    return now


def results_of(outcomes: Sequence[Outcome]) -> list[AccountingResult]:
    """Say outcomes to the ledger."""
    return [
        AccountingResult(
            outcome.book_id,
            outcome.operation_id,
            outcome.status,
            outcome.reason,
            outcome.revision,
        )
        for outcome in outcomes
    ]


def final_names(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], int]:
    """Name the operations that nothing needs to wait for any more, and where that was decided."""
    return {
        outcome.name: outcome.attempt_position for outcome in outcomes if outcome.status in FINAL
    }


def _dated(tried: Attempt, voucher: Voucher) -> str | None:
    """Say that vouchers are dated into another day than their operation's business date."""
    if voucher.business_date is None:
        return None
    if voucher.source_id != tried.booked.operation.operation_id:
        return f"dated {voucher.accounting_date} by the override"
    return f"dated into the open day {voucher.accounting_date}: {voucher.business_date} is cut"


def _bare(outcome: Outcome) -> Settled:
    return Settled(outcome, (), outcome.position)


def _outcome(
    tried: Attempt,
    at: int,
    status: str,
    reason: str | None = None,
    detail: str | None = None,
    rule_id: str | None = None,
    *,
    waits_for: str | None = None,
) -> Outcome:
    operation = tried.booked.operation
    return Outcome(
        operation.book_id,
        operation.operation_id,
        tried.booked.position,
        operation.business_type,
        operation.business_date,
        status,
        reason,
        detail,
        rule_id,
        tried.ruleset_position,
        at,
        operation.original_operation_id,
        waits_for,
        write_amounts(movement_of(operation)),
    )
