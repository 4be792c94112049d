"""From a batch of the log to the books: the one handler of live, repair and rebuild.

Steps: (1) `prepare`: rulesets are remembered and every operation is tried, before any SQL;
(2) decisions are kept; (3) originals are looked up: behind the first that is not final,
an operation waits; (4) outcomes are claimed; (5) vouchers, balances, orders and issues are
written for what was claimed; (6) what waited for it is woken. Invariant: an effect exists
if and only if its outcome was claimed, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from psycopg import Connection

from accounting.decided import (
    DayCut,
    MessageSetAside,
    OverrideApproved,
    PeriodChangeProposed,
    PeriodChangeRejected,
    PeriodClosed,
    PeriodReopened,
    RepairRequested,
    RulesetPublished,
)
from consumers.messages import Booked, Decided
from consumers.posting import (
    Attempt,
    Refused,
    Settled,
    attempt,
    final_names,
    final_originals,
    original_names,
    settle,
    settle_after,
)
from consumers.resolution import wake_in_tx
from consumers.sums import Sums
from ledger.events import BookOpened, DayOpened
from projections.journal import insert_vouchers_in_tx
from projections.orders import insert_orders_in_tx
from projections.outcomes import (
    OperationName,
    Outcome,
    Standing,
    claim_in_tx,
    select_standings,
)
from projections.parked import insert_issues_in_tx
from projections.parked_reasons import REFUSED_BY_DATABASE
from projections.periods import insert_period_decision_in_tx, remember
from projections.repair_orders import (
    insert_override_in_tx,
    insert_repair_in_tx,
    insert_set_aside_in_tx,
)
from projections.rulesets import PublishedRulesets, insert_rulesets_in_tx


class Batch(msgspec.Struct, frozen=True, gc=False):
    """A stretch of the log, tried: attempts and decisions in order of position."""

    attempts: list[Attempt]
    decided: list[Decided]


def prepare(
    rulesets: PublishedRulesets,
    messages: Sequence[Booked | Decided],
    refusals: dict[int, str] | None = None,
) -> Batch:
    """Remember rulesets, cuts and closes and try every operation: pure, no SQL.

    `refusals` are positions that the database refused, with its words: they are parked.
    """
    decided = [message for message in messages if isinstance(message, Decided)]
    for each in decided:
        if isinstance(each.decision, RulesetPublished):
            rulesets.add_published(each.position, each.decision)
        else:
            remember(rulesets.calendar, each.position, each.decision)
    attempts = [attempt(rulesets, booked) for booked in messages if isinstance(booked, Booked)]
    if refusals:
        attempts = [_refused(tried, refusals) for tried in attempts]
    return Batch(attempts, decided)


def handle_in_tx(
    conn: Connection[Any],
    rulesets: PublishedRulesets,
    batch: Batch,
    lane: int,
    *,
    late: bool = False,
) -> list[Outcome]:
    """Write a batch into the books; return the outcomes that are new or changed.

    `late` operations were missing: one with an original that became final after it waits, as it
    would have, for whoever heals to go on from there.

    The caller holds the lane's row and moves its position in the same transaction.
    """
    keep_decisions_in_tx(conn, batch.decided)
    settled = _settle_in_tx(conn, rulesets, batch.attempts, late)
    claimed = claim_in_tx(conn, [each.outcome for each in settled])
    fresh = [each for each in settled if each.outcome.position in claimed]
    if not fresh:
        return []
    outcomes = [each.outcome for each in fresh]
    new = [tried.booked for tried in batch.attempts if tried.booked.position in claimed]
    sums = Sums()
    write_new_in_tx(conn, fresh, new, sums)
    sums.post_in_tx(conn, lane)
    return outcomes + wake_in_tx(conn, rulesets, final_names(outcomes), lane, late=late)


def write_new_in_tx(
    conn: Connection[Any], fresh: Sequence[Settled], new: Sequence[Booked], sums: Sums
) -> None:
    """Write what follows from new outcomes; what is summed is only added to `sums`."""
    entered = [(each.source_position, voucher) for each in fresh for voucher in each.vouchers]
    insert_vouchers_in_tx(conn, entered)
    operations = [(booked.position, booked.operation) for booked in new]
    insert_orders_in_tx(conn, operations)
    insert_issues_in_tx(conn, operations)
    sums.add([each.outcome for each in fresh], new, (voucher for _, voucher in entered))


def keep_decisions_in_tx(conn: Connection[Any], decided: Sequence[Decided]) -> None:
    """Keep decisions as they arrive; each lane brings them, the first one writes them."""
    published: list[tuple[int, RulesetPublished]] = []
    for each in decided:
        match each.decision:
            case RulesetPublished() as ruleset:
                published.append((each.position, ruleset))
            case RepairRequested() as order:
                insert_repair_in_tx(conn, each.position, order)
            case OverrideApproved() as override:
                insert_override_in_tx(conn, each.position, override)
            case MessageSetAside() as message:
                insert_set_aside_in_tx(conn, each.position, message)
            case (
                BookOpened()
                | DayOpened()
                | DayCut()
                | PeriodChangeProposed()
                | PeriodChangeRejected()
                | PeriodClosed()
                | PeriodReopened()
            ) as of_periods:
                insert_period_decision_in_tx(conn, each.position, of_periods)
            case _:
                pass  # a register opened, an override proposed or rejected: no effect
    insert_rulesets_in_tx(conn, published)


def _settle_in_tx(
    conn: Connection[Any], rulesets: PublishedRulesets, attempts: Sequence[Attempt], late: bool
) -> list[Settled]:
    """Give each attempt its outcome; one with an original that is not final waits behind it."""
    named = {name for tried in attempts for name in original_names(tried.booked)}
    if not named:
        return [settle(tried, tried.booked.position) for tried in attempts]
    standings = select_standings(conn, sorted(named))
    settled: list[Settled] = []
    for tried in attempts:
        each = settle_behind(tried, standings, rulesets, late=late)
        settled.append(each)
        outcome = each.outcome
        standings.setdefault(outcome.name, Standing(outcome.status, outcome.attempt_position))
    return settled


def settle_behind(
    tried: Attempt,
    standings: Mapping[OperationName, Standing],
    rulesets: PublishedRulesets,
    *,
    late: bool = False,
) -> Settled:
    """Settle an attempt as its originals stand; without one, by itself."""
    booked = tried.booked
    if booked.operation.original_operation_id is None:
        return settle(tried, booked.position)
    final = final_originals(booked, standings, through=booked.position if late else None)
    return settle_after(rulesets, booked, final, tried)


def _refused(tried: Attempt, refusals: dict[int, str]) -> Attempt:
    detail = refusals.get(tried.booked.position)
    if detail is None:
        return tried
    return Attempt(tried.booked, tried.ruleset_position, Refused(REFUSED_BY_DATABASE, detail))
