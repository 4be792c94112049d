"""A long log in a short time: what the engine has written, written again by its own means.

A block of single-leg operations, recharges and as many fees of the same amounts, is posted to the
engine; it leaves every balance as it was. So the block can follow itself: its rows again, with new
operation ids (and the stream ids that belong to them), the next versions, today's sums and the
instant of the commit. Positions, digests, seals and COPY are the ledger's own functions.
Invariant: `audit verify` passes on the log, and an engine goes on behind it. What is not as it
would be: a copy's fingerprint is its first's.
"""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import psycopg

from bench.copy_ceiling import last_id
from bench.documents import CURRENCY, Documents
from bench.in_process import engine_s
from bench.place import BOOK, engine_on, parser
from ledger.account import instant_text
from ledger.clock import utc_now
from ledger.codec import Row, decode_event, stream_bytes
from ledger.events import AccountCredited, AccountDebited, LedgerEvent, OperationBooked
from ledger.log import Log, Sealed, seal_rows

BATCH = 1_000  # operations of one commit
ID_EVERY_MS = 2  # how far the ids of operations are from each other, in the past
CHANGING = re.compile(
    rb'"(operation_id|booked_at|account|version|day_debits|day_credits)":("[^"]*"|\d+)'
)
SELECT_BLOCK = """
    SELECT s.first_id, e.originator_id, e.topic, e.state
    FROM ledger.seals s JOIN ledger.stored_events e
      ON e.notification_id BETWEEN s.first_id AND s.last_id
    WHERE s.first_id > %s ORDER BY e.notification_id
"""
ADD_TO_HEADS = """
    UPDATE ledger.accounts AS a
    SET version = a.version + %(times)s * u.events,
        day_debits = a.day_debits + %(times)s * u.debits,
        day_credits = a.day_credits + %(times)s * u.credits,
        debit_total = a.debit_total + %(times)s * u.debits,
        credit_total = a.credit_total + %(times)s * u.credits
    FROM unnest(%(numbers)s::text[], %(events)s::bigint[], %(debits)s::bigint[],
                %(credits)s::bigint[]) AS u (number, events, debits, credits)
    WHERE a.book_id = %(book)s AND a.number = u.number
"""


class Moved(NamedTuple):
    """What one block adds to an account: events, and the amounts debited and credited."""

    events: int
    debits: int
    credits: int


class Mould(NamedTuple):
    """A row of the block as a form: id and instant are filled in, numbers grow by their steps."""

    stream_id: bytes  # an account's; empty for the operation's own row
    topic: bytes
    form: bytes
    numbers: list[int]
    steps: list[int]

    def row(self, operation_id: bytes, booked_at: bytes, copy: int) -> Row:
        """Return the row as the copy of that number has it."""
        numbers = [n + step * copy for n, step in zip(self.numbers, self.steps, strict=True)]
        if self.stream_id:
            version = numbers[0]
            state = self.form % (operation_id, version, booked_at)
            return Row(self.stream_id, version, self.topic, state)
        stream = stream_bytes("operation", BOOK, operation_id.decode())
        return Row(stream, 1, self.topic, self.form % (operation_id, booked_at, *numbers))


class OperationMould(NamedTuple):
    """An operation's rows in a row; its id is a UUIDv7: milliseconds, then what stays."""

    id_ms: int
    id_rest: bytes
    rows: list[Mould]

    def copied(self, later_ms: int, booked_at: bytes, copy: int) -> list[Row]:
        """Return the rows of the operation again, with an id that is so much later."""
        prefix = b"%012x" % (self.id_ms + later_ms)
        operation_id = b"%b-%b%b" % (prefix[:8], prefix[8:], self.id_rest)
        return [mould.row(operation_id, booked_at, copy) for mould in self.rows]


class CommitMould(NamedTuple):
    """A commit: its operations, and what they add to the book's totals."""

    operations: list[OperationMould]
    totals: dict[str, tuple[int, int]]


class Block(NamedTuple):
    """What is repeated, and what one repetition adds to each account."""

    commits: list[CommitMould]
    rows: int
    operations: int
    moved: dict[str, Moved]


class LongLog(NamedTuple):
    """A filled log: how many events it has, and which ids are in it, without asking it."""

    events: int
    block: Block
    copies: int

    @property
    def account(self) -> str:
        """The account that the block moves most often."""
        moved = self.block.moved
        return max(moved, key=lambda number: moved[number].events)

    def known_id(self, pick: random.Random) -> str:
        """Return an operation id of any time of the log."""
        operation, prefix = self._picked(pick)
        return f"{prefix[:8]}-{prefix[8:]}{operation.id_rest.decode()}"

    def unknown_id(self, pick: random.Random) -> str:
        """Return an id of any time of the log that no operation has."""
        _, prefix = self._picked(pick)
        tail = f"7{pick.getrandbits(12):03x}-8fff-{pick.getrandbits(48):012x}"
        return f"{prefix[:8]}-{prefix[8:]}-{tail}"

    def _picked(self, pick: random.Random) -> tuple[OperationMould, str]:
        operation = pick.choice(pick.choice(self.block.commits).operations)
        later_ms = pick.randint(0, self.copies) * self.block.operations * ID_EVERY_MS
        return operation, f"{operation.id_ms + later_ms:012x}"


class PastDocuments(Documents):
    """Documents whose ids are of the past, in order: id `n` is of `first_ms + n × ID_EVERY_MS`."""

    def __init__(self, seed: int, first_ms: int) -> None:
        super().__init__(seed)
        self._next_ms = first_ms

    def _operation_id(self) -> str:
        self._next_ms += ID_EVERY_MS
        value = self._next_ms << 80 | self._random.getrandbits(76)
        return str(uuid.UUID(int=value & ~(0xF000 << 64) & ~(3 << 62) | 7 << 76 | 2 << 62))

    def there_and_back(self, count: int) -> list[bytes]:
        """Return recharges, then for each of them a fee that takes the amount away again."""
        there = self.recharges(count // 2)
        return there + [self._back(raw) for raw in there]

    def _back(self, raw: bytes) -> bytes:
        [leg] = json.loads(raw)["legs"]
        [fee] = self.fees_of(leg["account"], 1, leg["amount"])
        return fee


def fill(url: str, events: int, *, block_operations: int = 20_000) -> LongLog:
    """Make the log as long as that, to within a block.

    Needs a copy of the template that no engine is on.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        after = last_id(conn)
        copies_most = max(0, events - after) // (2 * block_operations)
        first_ms = time.time_ns() // 1_000_000 - (copies_most + 2) * block_operations * ID_EVERY_MS
        documents = PastDocuments(17, first_ms).there_and_back(block_operations)
        with engine_on(url, batch_size_max=BATCH) as engine:
            engine_s(engine, parser(), documents, BATCH)
        block = _select_block(conn, after)
        times = max(0, events - last_id(conn)) // block.rows
        _write_copies(conn, block, times)
        conn.execute("VACUUM (ANALYZE)")
        conn.execute("CHECKPOINT")
        return LongLog(last_id(conn), block, times)


def _write_copies(conn: psycopg.Connection[Any], block: Block, times: int) -> None:
    """Seal one commit while the one before is written; the heads follow in the last transaction."""
    log = Log()
    with conn.cursor() as cursor:
        end = log.select_end_in_tx(cursor, BOOK)

    def write(sealed: Sealed, data: bytes) -> None:
        with log.locked(conn) as cursor:
            log.write_in_tx(cursor, sealed, data)

    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for copy in range(1, times + 1):
            for rows, booked_at, totals in _copied(block, copy):
                sealed = seal_rows(rows, end=end, book_id=BOOK, booked_at=booked_at, totals=totals)
                end, data = sealed.after, sealed.copy_bytes()
                if writing is not None:
                    writing.result()
                writing = writer.submit(write, sealed, data)
        if writing is not None:
            writing.result()
    moved = block.moved
    with log.locked(conn) as cursor:
        parameters = {
            "book": BOOK,
            "times": times,
            "numbers": list(moved),
            "events": [each.events for each in moved.values()],
            "debits": [each.debits for each in moved.values()],
            "credits": [each.credits for each in moved.values()],
        }
        cursor.execute(ADD_TO_HEADS.encode(), parameters)


def _copied(block: Block, copy: int) -> Iterator[tuple[list[Row], str, dict[str, tuple[int, int]]]]:
    later_ms = copy * block.operations * ID_EVERY_MS
    for commit in block.commits:
        booked_at = instant_text(utc_now())
        at = booked_at.encode()
        rows = [row for each in commit.operations for row in each.copied(later_ms, at, copy)]
        yield rows, booked_at, commit.totals


def _select_block(conn: psycopg.Connection[Any], after: int) -> Block:
    """Read what the engine has written after a position, as moulds."""
    found = conn.execute(SELECT_BLOCK, (after,), binary=True).fetchall()
    rows = [(first_id, stream, topic, bytes(state)) for first_id, stream, topic, state in found]
    moved = _moved([decode_event(topic, state) for _, _, topic, state in rows])
    commits: dict[int, CommitMould] = {}
    for first_id, stream, topic, state in rows:
        commit = commits.setdefault(first_id, CommitMould([], {}))
        event = decode_event(topic, state)
        if isinstance(event, OperationBooked):
            name = event.operation_id
            id_ms = int(name[:13].replace("-", ""), 16)
            commit.operations.append(OperationMould(id_ms, name[13:].encode(), []))
            count, amount_minor = commit.totals.get(CURRENCY, (0, 0))
            amount_minor += sum(leg.amount_minor for leg in event.legs)
            commit.totals[CURRENCY] = (count + 1, amount_minor)
            stream_id = b""
        else:
            stream_id = stream.bytes
        commit.operations[-1].rows.append(_mould(stream_id, topic.encode(), state, moved))
    operations = sum(len(commit.operations) for commit in commits.values())
    return Block(list(commits.values()), len(rows), operations, moved)


def _moved(events: list[LedgerEvent]) -> dict[str, Moved]:
    """Add up the legs by account. Raises `RuntimeError` when a balance is not what it was."""
    moved: dict[str, Moved] = {}
    for event in events:
        if isinstance(event, AccountDebited | AccountCredited):
            had = moved.get(event.account, Moved(0, 0, 0))
            debit = event.amount_minor if isinstance(event, AccountDebited) else 0
            credit = event.amount_minor - debit
            moved[event.account] = Moved(had.events + 1, had.debits + debit, had.credits + credit)
    if any(each.debits != each.credits for each in moved.values()):
        raise RuntimeError("the block moves a balance: it cannot follow itself")
    return moved


def _mould(stream_id: bytes, topic: bytes, state: bytes, moved: dict[str, Moved]) -> Mould:
    """Cut a state into what stays and what each copy has of its own."""
    numbers: list[int] = []
    steps: list[int] = []
    account = ""

    def slot(found: re.Match[bytes]) -> bytes:
        nonlocal account
        name, value = found[1], found[2]
        if name == b"account":
            account = value.decode().strip('"')
            return found[0]
        if name in (b"operation_id", b"booked_at"):
            return b'"%b":"%%b"' % name
        of = moved[account]
        steps.append({b"version": of.events, b"day_debits": of.debits}.get(name, of.credits))
        numbers.append(int(value))
        return b'"%b":%%d' % name

    form = CHANGING.sub(slot, state.replace(b"%", b"%%"))
    return Mould(stream_id, topic, form, numbers, steps)
