"""Bisection: when the database refuses a batch, only the guilty operation is parked.

Invariant: what the database refuses once it refuses in a rebuild too, so the operation is
parked there for the same reason; a decision that it refuses stops the lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from psycopg import DataError, Error, IntegrityError, errors

from consumers.messages import Booked, Decided

Refusals = dict[int, str]
WriteInOne = Callable[[Sequence[Booked | Decided], int, Refusals | None], None]

log = structlog.get_logger("consumers.bisection")


def write_bisecting(
    write_in_one: WriteInOne,
    messages: Sequence[Booked | Decided],
    through: int,
    refusals: Refusals | None = None,
) -> None:
    """Write messages up to a position in one transaction, or in halves if it is refused.

    `write_in_one` is given the messages, the position to move to, and refusals: positions
    that the database refused by themselves, with its words, to be parked.
    """
    try:
        write_in_one(messages, through, refusals)
    except (DataError, IntegrityError, errors.RaiseException) as error:
        if len(messages) > 1:
            middle = len(messages) // 2
            write_bisecting(write_in_one, messages[:middle], messages[middle - 1].position)
            write_bisecting(write_in_one, messages[middle:], through)
        elif refusals is None and messages and isinstance(messages[0], Booked):
            words = _words(error)
            log.error("refused_by_database", position=messages[0].position, error=words)
            write_bisecting(write_in_one, messages, through, {messages[0].position: words})
        else:
            raise


def _words(error: Error) -> str:
    """Say the refusal without what differs from run to run."""
    return error.diag.constraint_name or f"{error.sqlstate}: {error.diag.message_primary}"
