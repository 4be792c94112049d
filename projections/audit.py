"""Audit the books' standing: positions, identity, controlled subjects, accounting statuses.

The rows of the books are compared by `consumers/audit.py`, which knows how an operation is
posted; here is what is proved about the books as a whole. Invariant: every check holds up
to the visible position and says nothing about what is not yet there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, LiteralString

import msgspec
from psycopg import Connection

from accounting.rules import Ruleset
from ledger.arrays import uuid_array
from ledger.audit_verdict import ROW, compare_table, differ
from ledger.codec import operation_stream
from ledger.events import MOVEMENT_KINDS, OperationBooked
from projections.outcomes import Outcome

POSITIONS_CHECK = "positions of the books"
STATUSES_CHECK = "accounting statuses"
IDENTITY_CHECK = "identity"
CONTROLLED_CHECK = "controlled subjects"
SELECT_LOG = "SELECT log_id::text, incarnation FROM ledger.log"
SELECT_LANES = """
    SELECT lane, log_id::text, log_incarnation, position FROM positions ORDER BY lane
"""
USE_BOOKS = "SET LOCAL search_path = projections, ledger"
EXISTS_OUTCOME = "SELECT EXISTS (SELECT 1 FROM outcomes)"
SELECT_AHEAD = "SELECT position FROM outcomes WHERE position > %s"
EXISTS_RELAY = "SELECT EXISTS (SELECT 1 FROM ledger.relays)"
SELECT_STATUSES = """
    SELECT uuid_send(stream_id), book_id, operation_id, status, reason, revision
    FROM ledger.accounting_statuses WHERE stream_id = ANY(%s) ORDER BY stream_id
"""
COUNT_STATUSES = "SELECT count(*) FROM ledger.accounting_statuses"
SELECT_ALL_STATUSES = """
    SELECT uuid_send(s.stream_id), s.book_id, s.operation_id, o.position IS NOT NULL
    FROM ledger.accounting_statuses s LEFT JOIN outcomes o USING (book_id, operation_id)
    ORDER BY s.stream_id
"""
SELECT_BOOKED = """
    SELECT DISTINCT ON (book_id) book_id, totals FROM ledger.seals
    ORDER BY book_id, first_id DESC
"""
SELECT_HELD = """
    SELECT book_id, subject, currency, sum(credit_total::numeric - debit_total)
    FROM ledger.accounts GROUP BY book_id, subject, currency
"""
STATUSES = ("stream_id", "book_id", "operation_id", "status", "reason", "revision")
_REVISION = STATUSES.index("revision")
StatusRow = tuple[bytes, str, str, str, str | None, int]


class Standing(msgspec.Struct, frozen=True):
    """How far the books are: all rows up to `visible`, and some single ones `ahead` of it."""

    visible: int
    ahead: frozenset[int]
    lanes: int
    results_travel: bool

    def is_in_the_books(self, position: int) -> bool:
        """Tell whether an operation at this position has been claimed."""
        return position <= self.visible or position in self.ahead


def read_standing(conn: Connection[Any]) -> Standing:
    """Read how far the lanes are, and prove that they are lanes of this log."""
    log = conn.execute(SELECT_LOG).fetchone()
    assert log is not None
    lanes = conn.execute(SELECT_LANES).fetchall()
    for expected, (lane, log_id, incarnation, _) in enumerate(lanes):
        key = {"lane": lane}
        if lane != expected:
            differ(POSITIONS_CHECK, "projections.positions", key, "lane", expected, lane)
        if log_id != log[0]:
            differ(POSITIONS_CHECK, "projections.positions", key, "log_id", log[0], log_id)
        if incarnation != log[1]:
            column = "log_incarnation"
            differ(POSITIONS_CHECK, "projections.positions", key, column, log[1], incarnation)
    if not lanes and _exists(conn, EXISTS_OUTCOME):
        differ(POSITIONS_CHECK, "projections.positions", {"lane": 0}, ROW, "a row", None)
    visible = min((row[3] for row in lanes), default=0)
    ahead = frozenset(row[0] for row in conn.execute(SELECT_AHEAD, (visible,)))
    return Standing(visible, ahead, len(lanes), _exists(conn, EXISTS_RELAY))


def _exists(conn: Connection[Any], query: LiteralString) -> bool:
    row = conn.execute(query).fetchone()
    return row is not None and bool(row[0])


def check_positions(conn: Connection[Any], last_id: int) -> None:
    """Prove that no lane is ahead of the log."""
    for lane, _, _, position in conn.execute(SELECT_LANES).fetchall():
        if not 0 <= position <= last_id:
            key = {"lane": lane}
            bound = f"≤ {last_id}"
            differ(POSITIONS_CHECK, "projections.positions", key, "position", bound, position)


def status_row(stream: bytes, outcome: Outcome) -> StatusRow:
    """Give the row that tells the ledger of an outcome; `stream` is the operation's."""
    return (
        stream,
        outcome.book_id,
        outcome.operation_id,
        outcome.status,
        outcome.reason,
        outcome.revision,
    )


def compare_statuses(conn: Connection[Any], told: list[StatusRow], *, results_travel: bool) -> int:
    """Compare what the ledger was told; return how many results are still on their way.

    On the log bus (`results_travel` false) a status is written with its outcome, so none
    may be missing or older; over Kafka it may be, and only an older revision counts as late.
    """
    told.sort()  # as the rows come: no two have one stream
    ids = uuid_array([row[0] for row in told])
    found = conn.execute(SELECT_STATUSES, (ids,), prepare=True, binary=True).fetchall()
    if found == told:
        return 0
    expected = {row[:1]: row for row in told}
    late = 0
    if results_travel:
        known = {row[:1]: row for row in found}
        on_their_way = [
            key
            for key, row in expected.items()
            if key not in known or known[key][_REVISION] < row[_REVISION]
        ]
        late = len(on_their_way)
        for key in on_their_way:
            del expected[key]
        found = [row for row in found if row[:1] in expected]
    label = "ledger.accounting_statuses"
    compare_table(STATUSES_CHECK, label, STATUSES, 1, expected=expected, found=found)
    return late


def check_no_stray_status(conn: Connection[Any], told: int) -> None:
    """Prove that the ledger was told of nothing but the `told` outcomes."""
    row = conn.execute(COUNT_STATUSES).fetchone()
    if row is not None and row[0] <= told:
        return
    with conn.cursor(name="audit_statuses") as cursor:
        cursor.execute(SELECT_ALL_STATUSES, binary=True)
        for stream, book_id, operation_id, ended in cursor:
            if not ended or stream != operation_stream(book_id, operation_id):
                key = {"stream_id": stream}
                said = f"{book_id}/{operation_id}"
                differ(STATUSES_CHECK, "ledger.accounting_statuses", key, ROW, None, said)


class Unposted:
    """Movements of operations without a voucher: the reconciling items, and what is unseen."""

    def __init__(self) -> None:
        self.by_subject: dict[tuple[str, str, str], int] = {}
        self.unseen: dict[tuple[str, str], list[int]] = {}

    def add_unseen(self, operation: OperationBooked) -> None:
        """Add an operation that the books have not reached."""
        self.add(operation)
        moved: dict[str, int] = {}
        for leg in operation.legs:
            if leg.kind in MOVEMENT_KINDS:
                moved[leg.currency] = moved.get(leg.currency, 0) + leg.amount_minor
        for currency, amount_minor in (moved or {"": 0}).items():
            total = self.unseen.setdefault((operation.book_id, currency), [0, 0])
            total[0] += 1
            total[1] += amount_minor

    def add(self, operation: OperationBooked) -> None:
        """Add an operation's legs, credits positive."""
        for leg in operation.legs:
            if leg.kind in MOVEMENT_KINDS:
                key = (operation.book_id, leg.subject, leg.currency)
                signed = leg.amount_minor if leg.kind == "credit" else -leg.amount_minor
                self.by_subject[key] = self.by_subject.get(key, 0) + signed


def check_identity(
    conn: Connection[Any],
    totals: Mapping[tuple[str, str, str], list[int]],
    unseen: Mapping[tuple[str, str], list[int]],
) -> None:
    """Prove booked = vouchered + parked + waiting + non-posting (+ what is not yet visible).

    What was booked is what the seals say, which the ledger's part of the audit recomputes.
    """
    booked = {
        book_id: msgspec.json.decode(text, type=dict[str, tuple[int, int]])
        for book_id, text in conn.execute(SELECT_BOOKED)
    }
    ended: dict[tuple[str, str], list[int]] = {key: list(sums) for key, sums in unseen.items()}
    for (book_id, _, currency), (count, amount_minor) in totals.items():
        entry = ended.setdefault((book_id, currency), [0, 0])
        entry[0] += count
        entry[1] += amount_minor
    for book_id, currencies in booked.items():
        for currency, (count, amount_minor) in currencies.items():
            entry = ended.get((book_id, currency), [0, 0])
            key = {"book_id": book_id, "currency": currency}
            table = "projections.outcome_totals"
            if entry[0] != count:
                differ(IDENTITY_CHECK, table, key, "count", count, entry[0])
            if entry[1] != amount_minor:
                differ(IDENTITY_CHECK, table, key, "amount_minor", amount_minor, entry[1])


def check_controlled(
    conn: Connection[Any],
    rulesets: Mapping[str, Ruleset],
    gl: Mapping[tuple[str, str, str, str], list[Any]],
    unposted: Mapping[tuple[str, str, str], int],
) -> None:
    """Prove that each controlled subject equals its accounts, less what is not yet posted.

    The accounts are the heads, which the ledger's part of the audit recomputes.
    """
    net: dict[tuple[str, str, str], int] = {
        (book_id, subject, currency): int(minor)
        for book_id, subject, currency, minor in conn.execute(SELECT_HELD)
    }
    posted: dict[tuple[str, str, str], int] = {}
    for (book_id, subject, currency, _), (_, debit_minor, credit_minor) in gl.items():
        key = (book_id, subject, currency)
        posted[key] = posted.get(key, 0) + credit_minor - debit_minor
    for key in sorted({*net, *posted}):
        book_id, subject, currency = key
        ruleset = rulesets.get(book_id)
        if ruleset is None or subject not in ruleset.chart.controlled:
            continue
        expected = net.get(key, 0) - unposted.get(key, 0)
        if posted.get(key, 0) != expected:
            named = {"book_id": book_id, "subject": subject, "currency": currency}
            column = "credit_minor - debit_minor"
            found = posted.get(key, 0)
            differ(CONTROLLED_CHECK, "projections.gl_balances", named, column, expected, found)
