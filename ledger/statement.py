"""A batch as one statement: lock, proof, heads, events, seal and commit in one trip to the server.

The engine's thread sends it and decides the next batch while PostgreSQL works. Where holds changed
a second statement is sent with it, in the same trip and transaction. Invariant: the
server writes only on top of the seal that the batch was decided on, and only ids it has not on
record (`ledger.append_batch`, infra/migrations); a statement that was sent and not answered may
have committed, so its ids are looked up under the lock before anything is said of them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import Connection, generators
from psycopg.pq import ExecStatus, PipelineStatus

from ledger.account import Account
from ledger.arrays import bytea_array, digest_array, int8_array, text_array, uuid_array
from ledger.errors import LogCorrupt
from ledger.heads import money_arrays
from ledger.log import Sealed
from ledger.stated_holds import APPLY_HOLDS, TYPES

APPENDED, SUPERSEDED, KNOWN = "appended", "superseded", "known"
ROWS_MAX = 4_500  # above it, binary COPY by a thread of its own costs the server less

_NAME, _HOLDS = b"append_batch", b"apply_holds"
_BYTEA, _INT8, _TEXT = 17, 20, 25
_UUIDS, _INT8S, _TEXTS, _BYTEAS, _DATES = 2951, 1016, 1009, 1001, 1182
_TYPES = (
    *(_BYTEA, _UUIDS),
    *(_INT8, _INT8, _TEXT, _TEXT, _TEXT, _BYTEA),
    *(_UUIDS, _INT8S, _TEXTS, _BYTEAS, _BYTEAS),
    *(_UUIDS, _DATES, *(_INT8S,) * 9),
)
_PLACES = ", ".join(f"${number}" for number in range(1, len(_TYPES) + 1))
_CALL = f"SELECT ledger.append_batch({_PLACES}) AS appended".encode()
_BINARY = (1,) * len(_TYPES)
_pack_int8 = struct.Struct(">q").pack


class Stated(msgspec.Struct, frozen=True):
    """A batch as the parameters of `ledger.append_batch`, and of APPLY_HOLDS if holds changed."""

    values: list[bytes | None]
    holds: list[bytes | None] = []


def values_of(sealed: Sealed, changed: Sequence[Account]) -> list[bytes | None]:
    """Return the statement's parameters in PostgreSQL's binary formats."""
    seal, rows = sealed.seal, sealed.rows
    streams, versions, topics, states = zip(*rows, strict=True)
    asked = [stream for stream, version in zip(streams, versions, strict=True) if version == 1]
    return [
        seal.previous,
        uuid_array(asked).data,
        _pack_int8(seal.first_id),
        _pack_int8(seal.last_id),
        seal.book_id.encode(),
        seal.booked_at.encode(),
        seal.totals.encode(),
        seal.seal,
        uuid_array(streams).data,
        int8_array(versions).data,
        text_array(topics).data,
        bytea_array(states).data,
        digest_array(sealed.digests).data,
        *(array.data for array in money_arrays(changed)),
    ]


def prepare(conn: Connection[Any]) -> None:
    """Let the server plan the statements: once for each connection."""
    for name, query, types in ((_NAME, _CALL, _TYPES), (_HOLDS, APPLY_HOLDS.encode(), TYPES)):
        conn.pgconn.send_prepare(name, query, types)
        _check(conn, conn.wait(generators.execute(conn.pgconn)), ExecStatus.COMMAND_OK)


def send(conn: Connection[Any], stated: Stated, *, commit: bool = False) -> None:
    """Send a batch; `receive` waits for its end.

    Statements before one sync are one transaction, which the server ends at the sync. When one has
    been begun already, `commit` sends its COMMIT along.
    """
    pgconn = conn.pgconn
    several = commit or bool(stated.holds)
    if several:
        pgconn.enter_pipeline_mode()
    pgconn.send_query_prepared(_NAME, stated.values, param_formats=_BINARY)
    if stated.holds:
        pgconn.send_query_prepared(_HOLDS, stated.holds, param_formats=(1,) * len(TYPES))
    if commit:
        pgconn.send_query_params(b"COMMIT", None)
    if several:
        pgconn.pipeline_sync()
    conn.wait(generators.send(pgconn))


def receive(conn: Connection[Any]) -> str:
    """Return APPENDED, SUPERSEDED or KNOWN; the transaction has ended. Raises the server's error.

    The function's result comes before the commit that follows it, and a commit can fail: what is
    there when the exchange has ended counts.
    """
    results = conn.wait(generators.fetch_many(conn.pgconn))
    if conn.pgconn.pipeline_status != PipelineStatus.OFF:
        _receive_rest(conn, results)
    return _word(conn, results)


def _word(conn: Connection[Any], results: Sequence[Any]) -> str:
    _check(conn, results, ExecStatus.TUPLES_OK)
    word = results[0].get_value(0, 0)
    if word is None:
        raise LogCorrupt("append_batch said nothing")
    return str(word, "ascii")


def _receive_rest(conn: Connection[Any], appended: Sequence[Any]) -> None:
    """Read on to the sync. Raises the first error there is, in whichever statement or commit."""
    answers = [appended]
    while answers[-1] and answers[-1][0].status != ExecStatus.PIPELINE_SYNC:
        answers.append(conn.wait(generators.fetch_many(conn.pgconn)))
    conn.pgconn.exit_pipeline_mode()
    _check(conn, appended, ExecStatus.TUPLES_OK)
    for results in answers[1:-1]:
        _check(conn, results, ExecStatus.COMMAND_OK)
    _check(conn, answers[-1], ExecStatus.PIPELINE_SYNC)


def _check(conn: Connection[Any], results: Sequence[Any], expected: ExecStatus) -> None:
    for result in results:
        if result.status != expected:
            raise psycopg.errors.error_from_result(result, conn.info.encoding)
    if not results:
        raise psycopg.OperationalError("the server ended the exchange without an answer")
