"""The journal: vouchers and their lines, written once and never edited.

Invariant: the lines of a voucher enter in one statement and balance per currency (the
database refuses them otherwise). Order of the list: accounting date, position, ordinal.
"""
# ruff: noqa: S608 - the statements are made of this file's constants only

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from msgspec import field
from psycopg import Connection

from accounting.voucher import Voucher, voucher_id_of
from ledger.binary_copy import (
    FALSE,
    FIXED_MAX,
    HEADER,
    TRAILER,
    TRUE,
    copy_in_tx,
    count_field,
    date_field,
    int4_field,
    refusing,
    text_field,
    text_fields,
)
from ledger.errors import NotFound
from projections.pages import Page, checked_limit, page_of, read_cursor

# What many rows have in common comes first.
COPY_VOUCHERS = """
    COPY vouchers (book_id, business_type, rule_id, ruleset_hash, accounting_date, business_date,
                   position, ordinal, source_id, corrects)
    FROM STDIN (FORMAT BINARY)
"""
COPY_LINES = """
    COPY voucher_lines (side, subject, currency, line_no, off_balance,
                        position, ordinal, amount_minor, account)
    FROM STDIN (FORMAT BINARY)
"""
# A voucher as it is read; its number, once its day is cut, is looked up by its place.
COLUMNS = """
    v.position, v.ordinal, v.book_id, v.source_id, v.accounting_date::text, v.business_type,
    v.rule_id, v.ruleset_hash, v.corrects,
    coalesce(v.business_date, v.accounting_date)::text,
    v.business_date IS NOT NULL AND v.ruleset_hash <> '',
    (SELECT n.number FROM voucher_numbers n
     WHERE n.position = v.position AND n.ordinal = v.ordinal)
"""
SELECT_VOUCHERS = f"""
    SELECT {COLUMNS}
    FROM vouchers v
    WHERE book_id = %(book)s
      AND (%(from)s::date IS NULL OR accounting_date >= %(from)s)
      AND (%(to)s::date IS NULL OR accounting_date <= %(to)s)
      AND (%(type)s::text IS NULL OR business_type = %(type)s)
      AND (%(after_date)s::date IS NULL
           OR (accounting_date, position, ordinal)
              > (%(after_date)s::date, %(after_position)s::bigint, %(after_ordinal)s::integer))
    ORDER BY v.accounting_date, v.position, v.ordinal LIMIT %(limit)s
"""
SELECT_LINES = """
    SELECT position, ordinal, line_no, side, subject, currency, amount_minor, account, off_balance
    FROM voucher_lines WHERE position = ANY(%s) ORDER BY position, ordinal, line_no
"""
SELECT_OF_OPERATION = f"""
    SELECT {COLUMNS}
    FROM outcomes o JOIN vouchers v ON v.position IN (o.position, o.attempt_position)
    WHERE o.book_id = %s AND o.operation_id = %s
      AND v.book_id = o.book_id
      AND (v.source_id = o.operation_id OR v.source_id = 'decision:' || o.attempt_position)
    ORDER BY v.position, v.ordinal
"""
SELECT_OF_POSITION = f"""
    SELECT {COLUMNS}
    FROM vouchers v WHERE position = %s AND book_id = %s ORDER BY ordinal
"""


class JournalLine(msgspec.Struct, frozen=True):
    """A line as it is read."""

    line_no: int
    side: str
    subject: str
    currency: str
    amount_minor: int = field(name="amount")
    account: str | None
    off_balance: bool


class JournalVoucher(msgspec.Struct, frozen=True):
    """A voucher as it is read, with its lines and where it is in the log.

    `number` is the consecutive legal one of the book's year, given when the day is cut.
    """

    voucher_id: str
    position: int
    ordinal: int
    book_id: str
    source_id: str
    accounting_date: str
    business_type: str
    rule_id: str
    ruleset_hash: str
    corrects: str | None
    business_date: str
    dated_into_open_day: bool
    number: int | None
    lines: tuple[JournalLine, ...]


def decision_id_of(position: int) -> str:
    """Name a decision as the source of a voucher."""
    return f"decision:{position}"


class PackedVouchers(NamedTuple):
    """Vouchers and all their lines, each as COPY takes them."""

    vouchers: bytearray
    lines: bytearray


def pack_vouchers(entered: Iterable[tuple[int, Voucher]]) -> PackedVouchers | None:
    """Pack vouchers, each with the position of its source; None without any. Pure."""
    vouchers, lines = bytearray(HEADER), bytearray(HEADER)
    with refusing():
        for position, v in entered:
            ordinal = v.ordinal
            vouchers += _fixed_of_voucher(
                v.book_id,
                v.business_type,
                v.rule_id,
                v.ruleset_hash,
                v.accounting_date,
                v.business_date,
            )
            vouchers += _pack_place(8, position, 4, ordinal)
            vouchers += text_field(v.source_id)
            vouchers += text_field(v.corrects)
            for line in v.lines:
                lines += _fixed_of_line(
                    line.side, line.subject, line.currency, line.line_no, line.off_balance
                )
                lines += _pack_amount(8, position, 4, ordinal, 8, line.amount_minor)
                lines += text_field(line.account)
    if len(vouchers) == len(HEADER):
        return None
    vouchers += TRAILER
    lines += TRAILER
    return PackedVouchers(vouchers, lines)


def insert_vouchers_in_tx(conn: Connection[Any], packed: PackedVouchers | None) -> None:
    """Write packed vouchers and all their lines."""
    if packed is not None:
        copy_in_tx(conn, COPY_VOUCHERS, packed.vouchers)
        copy_in_tx(conn, COPY_LINES, packed.lines)


_pack_place = struct.Struct(">iqii").pack  # position and ordinal
_pack_amount = struct.Struct(">iqiiiq").pack  # position, ordinal and amount


@lru_cache(maxsize=FIXED_MAX)
def _fixed_of_voucher(
    book_id: str,
    business_type: str,
    rule_id: str,
    ruleset_hash: str,
    accounting_date: str,
    business_date: str | None,
) -> bytes:
    texts = text_fields(book_id, business_type, rule_id, ruleset_hash)
    return count_field(10) + texts + date_field(accounting_date) + date_field(business_date)


@lru_cache(maxsize=FIXED_MAX)
def _fixed_of_line(
    side: str, subject: str, currency: str, line_no: int, off_balance: bool
) -> bytes:
    texts = text_fields(side, subject, currency)
    return count_field(9) + texts + int4_field(4, line_no) + (TRUE if off_balance else FALSE)


def select_vouchers(
    conn: Connection[Any],
    book_id: str,
    *,
    from_date: str | None = None,
    to_date: str | None = None,
    business_type: str | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[JournalVoucher]:
    """List a book's vouchers with their lines."""
    after = read_cursor(cursor, str, int, int) or (None, None, None)
    rows = conn.execute(
        SELECT_VOUCHERS,
        {
            "book": book_id,
            "from": from_date,
            "to": to_date,
            "type": business_type,
            "after_date": after[0],
            "after_position": after[1],
            "after_ordinal": after[2],
            "limit": checked_limit(limit) + 1,
        },
    ).fetchall()
    vouchers = _with_lines(conn, rows)
    return page_of(vouchers, limit, lambda v: (v.accounting_date, v.position, v.ordinal))


def select_vouchers_of(
    conn: Connection[Any], book_id: str, operation_id: str
) -> list[JournalVoucher]:
    """Read the vouchers of one operation (its override's, if it had one)."""
    return _with_lines(conn, conn.execute(SELECT_OF_OPERATION, (book_id, operation_id)).fetchall())


def select_voucher(conn: Connection[Any], voucher_id: str) -> JournalVoucher:
    """Read one voucher by its id, `<book>/<source>/<ordinal>`; raises NotFound."""
    book_id, _, rest = voucher_id.partition("/")
    source_id, _, ordinal = rest.rpartition("/")
    kind, _, number = source_id.partition(":")
    if kind == "decision" and number.isdecimal():
        rows = conn.execute(SELECT_OF_POSITION, (int(number), book_id)).fetchall()
        found = _with_lines(conn, rows)
    else:
        found = select_vouchers_of(conn, book_id, source_id)
    for voucher in found:
        if str(voucher.ordinal) == ordinal and voucher.source_id == source_id:
            return voucher
    raise NotFound(f"no voucher {voucher_id}")


def _with_lines(conn: Connection[Any], rows: Sequence[tuple[Any, ...]]) -> list[JournalVoucher]:
    lines: dict[tuple[int, int], list[JournalLine]] = {}
    positions = sorted({row[0] for row in rows})
    for row in conn.execute(SELECT_LINES, (positions,)):
        lines.setdefault((row[0], row[1]), []).append(JournalLine(*row[2:]))
    return [
        JournalVoucher(*(voucher_id_of(row[2], row[3], row[1]), *row, _lines_of(row, lines)))
        for row in rows
    ]


def _lines_of(
    row: tuple[Any, ...], lines: dict[tuple[int, int], list[JournalLine]]
) -> tuple[JournalLine, ...]:
    return tuple(lines.get((row[0], row[1]), ()))
