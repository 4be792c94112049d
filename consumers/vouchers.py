"""From a batch of the log to the books: the one handler of live, repair and rebuild.

Steps: (1) `prepare`: rulesets are remembered and every operation is tried, before any SQL;
(2) decisions are kept; (3) originals are looked up: behind the first that is not final,
an operation waits; (4) outcomes are claimed; (5) vouchers, balances, orders and issues are
written for what was claimed; (6) what waited for it is woken. Invariant: an effect exists
if and only if its outcome was claimed, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from consumers.packed import Packed, pack_entered, pack_new, pack_ordered
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

Claim = Callable[[Connection[Any], Sequence[Outcome]], set[int]]


class Batch(msgspec.Struct, frozen=True, gc=False):
    """A stretch of the log, tried: attempts and decisions in order of position.

    `settled` is there when no operation names an original: then each is as its attempt says.
    `sums` and `packed` are what all of these add and enter, where it was made ready beforehand;
    the sums can be posted once.
    """

    attempts: list[Attempt]
    decided: list[Decided]
    settled: list[Settled] | None
    sums: Sums | None = None
    packed: Packed | None = None


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
    return _batch(attempts, decided)


def _batch(attempts: list[Attempt], decided: list[Decided]) -> Batch:
    settled = None
    if all(tried.booked.operation.original_operation_id is None for tried in attempts):
        settled = [settle(tried, tried.booked.position) for tried in attempts]
    return Batch(attempts, decided, settled)


def batch_beyond(batch: Batch, position: int) -> Batch:
    """Leave out of a batch what a lane that stands at a position has handled already."""
    firsts = (tried.booked.position for tried in batch.attempts[:1])
    if min((*firsts, *(each.position for each in batch.decided[:1])), default=position) > position:
        return batch
    decided = [each for each in batch.decided if each.position > position]
    attempts = [tried for tried in batch.attempts if tried.booked.position > position]
    return _batch(attempts, decided)


def made_ready(batch: Batch, *, with_results: bool) -> Batch:
    """Add up and pack what a batch will write if all of it is new; pure, no SQL."""
    if batch.settled is None:
        return batch
    operations = [tried.booked for tried in batch.attempts]
    sums = Sums()
    add_new(sums, batch.settled, operations)
    sums.write()
    packed = pack_new(batch.settled, operations, with_results=with_results)
    return msgspec.structs.replace(batch, sums=sums, packed=packed)


def handle_in_tx(
    conn: Connection[Any],
    rulesets: PublishedRulesets,
    batch: Batch,
    lane: int,
    *,
    late: bool = False,
    claim: Claim = claim_in_tx,
) -> list[Outcome]:
    """Write a batch into the books; return the outcomes that are new or changed.

    `late` operations were missing: one with an original that became final after it waits, as it
    would have, for whoever heals to go on from there.

    `claim` writes the outcomes that are free and names their positions.
    The caller holds the lane's row and moves its position in the same transaction.
    """
    keep_decisions_in_tx(conn, batch.decided)
    settled = batch.settled
    if settled is None:
        settled = _settle_in_tx(conn, rulesets, batch.attempts, late)
    claimed = claim(conn, [each.outcome for each in settled])
    if not claimed:
        return []
    fresh, new = settled, [tried.booked for tried in batch.attempts]
    if len(claimed) < len(settled):
        fresh = [each for each in settled if each.outcome.position in claimed]
        new = [booked for booked in new if booked.position in claimed]
    outcomes = [each.outcome for each in fresh]
    sums, packed = batch.sums, batch.packed
    if sums is None or packed is None or fresh is not settled:
        sums, packed = Sums(), None
        add_new(sums, fresh, new)
    write_new_in_tx(conn, fresh, new, packed)
    sums.post_in_tx(conn, lane)
    return outcomes + wake_in_tx(conn, rulesets, final_names(outcomes), lane, late=late)


def write_new_in_tx(
    conn: Connection[Any],
    fresh: Sequence[Settled],
    new: Sequence[Booked],
    packed: Packed | None = None,
) -> None:
    """Write what follows from new outcomes, but for what is summed; `packed` is of the same."""
    insert_vouchers_in_tx(conn, pack_entered(fresh) if packed is None else packed.vouchers)
    insert_orders_in_tx(conn, pack_ordered(new) if packed is None else packed.orders)
    insert_issues_in_tx(conn, ((booked.position, booked.operation) for booked in new))


def add_new(sums: Sums, fresh: Sequence[Settled], new: Sequence[Booked]) -> None:
    """Add what new outcomes change in the sums."""
    vouchers = (voucher for each in fresh for voucher in each.vouchers)
    sums.add([each.outcome for each in fresh], new, vouchers)


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
