"""A stretch of the log made into rows of a rebuild's shadow at once, in a process of its own.

Operations that name no original do not depend on each other, so stretches are handled beside
each other, as lanes are. What names an original that is not final in the same stretch is left, and
asked for again by its position once the others are written; what is left then, as behind a parked
one, goes through the ordinary handler, and so does a stretch that the database refuses. `python -m
consumers.stretches FD …` becomes a process for each socket that it is given; each reads one line
(`Asked`), then a line for each stretch. Invariant: each operation of a stretch is either written,
with all that follows from it, or named in `left`.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import Connection, errors

from consumers.log_rows import select_published, select_rows_at
from consumers.messages import Booked, Unreadable
from consumers.posting import Attempt, Settled, original_names
from consumers.set_aside import read_rows
from consumers.sums import Sums
from consumers.vouchers import add_new, prepare, settle_behind, write_new_in_tx
from ledger.errors import LogCorrupt
from projections.outcomes import (
    WAITING,
    OperationName,
    Standing,
    insert_outcomes_in_tx,
    pack_outcomes,
    select_standings,
)
from projections.rulesets import PublishedRulesets, load_rulesets
from projections.tables import SHADOW_SCHEMA, connect_to, write_behind

LANE = 0
SUMS_MAX = 200_000
WRITERS_LOCK = 1_145_393_479
SELECT_SHADOW = "SELECT to_regnamespace(%s)::oid::bigint"
LOCK_SHARED = "SELECT pg_advisory_lock_shared(%s)"


class Asked(msgspec.Struct, frozen=True):
    """Where to write: the address comes over a pipe, as it may hold a password.

    `shadow` is the schema's number: one of that name may be another rebuild's by now.
    """

    url: str
    shadow: int


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """The rows with after < position ≤ through; `through` of 0 says that no more will come.

    `positions` names the only ones that are meant: they were left before, and the outcomes of
    all else can be looked up.
    """

    after: int
    through: int
    positions: tuple[int, ...] = ()


class Posted(msgspec.Struct, frozen=True):
    """How many operations a stretch had, and which positions are left to the ordinary handler."""

    operations: int = 0
    left: tuple[int, ...] = ()
    failed: str | None = None


class StretchWriter:
    """Writes stretches over one connection to the shadow; its long tables have no indexes."""

    def __init__(self, conn: Connection[Any]) -> None:
        self._conn = conn
        self._sums = Sums()
        self._rulesets = PublishedRulesets()
        load_rulesets(conn, self._rulesets)

    def post(self, stretch: Stretch) -> Posted:
        """Write a stretch in one transaction. Raises LogCorrupt, Unreadable, psycopg.Error."""
        if stretch.positions:
            rows = select_rows_at(self._conn, stretch.positions)
        else:
            rows = select_published(self._conn, stretch.after, stretch.through)
        booked = [each for each in read_rows(self._conn, rows) if isinstance(each, Booked)]
        batch = prepare(self._rulesets, booked)
        left: list[int] = []
        settled = batch.settled
        if settled is None:
            standings = self._standings(batch.attempts) if stretch.positions else {}
            settled, left = settle_behind_known(self._rulesets, batch.attempts, standings)
        waiting = set(left)
        new = [each for each in booked if each.position not in waiting] if waiting else booked
        try:
            with self._conn.transaction():
                insert_outcomes_in_tx(self._conn, pack_outcomes(each.outcome for each in settled))
                write_new_in_tx(self._conn, settled, new)
        except (psycopg.DataError, psycopg.IntegrityError, errors.RaiseException):
            return Posted(len(booked), tuple(each.position for each in booked))
        add_new(self._sums, settled, new)
        if len(self._sums) > SUMS_MAX:
            self.finish()
        return Posted(len(booked), tuple(left))

    def _standings(self, attempts: Sequence[Attempt]) -> dict[OperationName, Standing]:
        names = {name for tried in attempts for name in original_names(tried.booked)}
        return select_standings(self._conn, sorted(names))

    def finish(self) -> None:
        """Write what was only added up so far."""
        self._sums.post_in_tx(self._conn, LANE)


def settle_behind_known(
    rulesets: PublishedRulesets,
    attempts: Sequence[Attempt],
    standings: dict[OperationName, Standing],
) -> tuple[list[Settled], list[int]]:
    """Settle what depends on nothing but `standings` and these; name the positions of the rest."""
    settled: list[Settled] = []
    left: list[int] = []
    for tried in attempts:
        each = settle_behind(tried, standings, rulesets)
        outcome = each.outcome
        if outcome.status == WAITING:
            left.append(outcome.position)
            continue
        settled.append(each)
        standings.setdefault(outcome.name, Standing(outcome.status, outcome.attempt_position))
    return settled, left


def select_shadow(conn: Connection[Any]) -> int:
    """Read the number of the shadow schema; 0 without one."""
    row = conn.execute(SELECT_SHADOW, (SHADOW_SCHEMA,)).fetchone()
    return (row[0] or 0) if row is not None else 0


def _fork_for_each(numbers: Sequence[int]) -> None:
    """Fork a process for each socket, now that all is imported; wait until they have ended."""
    gc.freeze()  # pages that no collection touches stay shared
    children: list[int] = []
    for number in numbers:
        child = os.fork()
        if child:
            children.append(child)
            continue
        for other in numbers:
            if other != number:
                os.close(other)
        with socket.socket(fileno=number) as ours:
            _serve(ours)
        return
    for number in numbers:
        os.close(number)
    for child in children:
        os.waitpid(child, 0)


def _serve(ours: socket.socket) -> None:
    """Answer each line of the socket; end with it, as when the asking process dies."""
    gc.disable()  # what a stretch makes holds no circles, and there is much of it
    lines = ours.makefile("rb")
    asked = msgspec.json.decode(lines.readline(), type=Asked)
    with connect_to(asked.url, SHADOW_SCHEMA) as conn:
        conn.execute(LOCK_SHARED, (WRITERS_LOCK,))
        if select_shadow(conn) != asked.shadow:
            return  # the one that asked has died, and another rebuild has begun
        write_behind(conn)
        writer = StretchWriter(conn)
        for line in lines:
            stretch = msgspec.json.decode(line, type=Stretch)
            posted = Posted()
            try:
                if stretch.through:
                    posted = writer.post(stretch)
                else:
                    writer.finish()
            except (psycopg.Error, LogCorrupt, Unreadable) as error:
                posted = Posted(failed=f"{type(error).__name__}: {error}")
            try:
                ours.sendall(msgspec.json.encode(posted) + b"\n")
            except OSError:
                os._exit(1)  # nobody listens any more: the one that asked has died
            gc.collect()


if __name__ == "__main__":
    _fork_for_each([int(number) for number in sys.argv[1:]])
