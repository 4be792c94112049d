"""The journal: vouchers and their lines, written once and never edited.

Invariant: the lines of a voucher enter in one statement and balance per currency (the
database refuses them otherwise). Order of the list: accounting date, position, ordinal.
"""
# ruff: noqa: S608 - the statements are made of this file's constants only

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import field
from psycopg import Connection

from accounting.voucher import Voucher, voucher_id_of
from ledger.errors import NotFound
from projections.pages import Page, checked_limit, page_of, read_cursor

COPY_VOUCHERS = """
    COPY vouchers (position, ordinal, book_id, source_id, accounting_date, business_type,
                   rule_id, ruleset_hash, corrects, business_date)
    FROM STDIN
"""
COPY_LINES = """
    COPY voucher_lines (position, ordinal, line_no, side, subject, currency, amount_minor,
                        account, off_balance)
    FROM STDIN (FORMAT BINARY)
"""
LINE_TYPES = ("int8", "int4", "int4", "text", "text", "text", "int8", "text", "bool")
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


def insert_vouchers_in_tx(conn: Connection[Any], vouchers: Iterable[tuple[int, Voucher]]) -> None:
    """Write vouchers, each with the position of its source, and all their lines."""
    written = list(vouchers)
    if not written:
        return
    with conn.cursor() as cursor:
        with cursor.copy(COPY_VOUCHERS) as copy:
            for position, v in written:
                copy.write_row(
                    (
                        position,
                        v.ordinal,
                        v.book_id,
                        v.source_id,
                        v.accounting_date,
                        v.business_type,
                        v.rule_id,
                        v.ruleset_hash,
                        v.corrects,
                        v.business_date,
                    )
                )
        with cursor.copy(COPY_LINES) as copy:
            copy.set_types(LINE_TYPES)
            write = copy.write_row
            for position, v in written:
                ordinal = v.ordinal
                for line in v.lines:
                    write(
                        (
                            position,
                            ordinal,
                            line.line_no,
                            line.side,
                            line.subject,
                            line.currency,
                            line.amount_minor,
                            line.account,
                            line.off_balance,
                        )
                    )


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
