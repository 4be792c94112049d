"""The legal numbers of vouchers: given at a cut, chunk by chunk, in the order of the journal.

Invariant: numbers of a book's year are consecutive in the order (accounting date, position,
ordinal), and nothing without a number stands before the last one that has a number. So the last
number says where numbering goes on, after a chunk as after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import Connection

# A transaction of this many takes a fraction of a second: no lane waits longer for the cut.
CHUNK_VOUCHERS = 10_000

SELECT_LAST = """
    SELECT v.accounting_date::text, v.position, v.ordinal, n.year, n.number
    FROM voucher_numbers n JOIN vouchers v USING (position, ordinal)
    WHERE n.book_id = %s ORDER BY n.year DESC, n.number DESC LIMIT 1
"""
NUMBER_CHUNK = """
    INSERT INTO voucher_numbers (book_id, year, number, position, ordinal)
    SELECT %(book)s, year,
           CASE year WHEN %(year)s THEN %(number)s::bigint ELSE 0 END
               + row_number() OVER (PARTITION BY year ORDER BY accounting_date, position, ordinal),
           position, ordinal
    FROM (SELECT extract(year FROM accounting_date)::integer AS year, accounting_date,
                 position, ordinal
          FROM vouchers
          WHERE book_id = %(book)s AND accounting_date <= %(cut)s::date
            AND (accounting_date, position, ordinal)
                > (%(date)s::date, %(position)s::bigint, %(ordinal)s::integer)
          ORDER BY accounting_date, position, ordinal LIMIT %(chunk)s) fresh
"""
# Vouchers that a performed cut covers, or that stand before a number, and have none themselves.
SELECT_LATE = """
    SELECT DISTINCT ON (v.book_id) v.book_id, v.accounting_date::text, v.position, v.ordinal,
           (SELECT max(cut_date) FROM day_cuts c WHERE c.book_id = v.book_id AND c.performed)::text
    FROM vouchers v LEFT JOIN voucher_numbers n USING (position, ordinal)
    WHERE v.position = ANY(%s) AND n.position IS NULL
      AND v.accounting_date <= (SELECT max(cut_date) FROM day_cuts c WHERE c.book_id = v.book_id)
    ORDER BY v.book_id, v.accounting_date, v.position, v.ordinal
"""
# The lock keeps a cut from numbering meanwhile; both end with the transaction.
UNPROTECT = "ALTER TABLE voucher_numbers DISABLE TRIGGER voucher_numbers_append_only"
PROTECT = "ALTER TABLE voucher_numbers ENABLE TRIGGER voucher_numbers_append_only"
DELETE_FROM = """
    DELETE FROM voucher_numbers n USING vouchers v
    WHERE v.position = n.position AND v.ordinal = n.ordinal AND v.book_id = %s
      AND (v.accounting_date, v.position, v.ordinal) > (%s::date, %s::bigint, %s::integer)
"""


class Last(NamedTuple):
    """The last voucher of a book that has a number, and which one."""

    date: str = "-infinity"
    position: int = 0
    ordinal: int = 0
    year: int = 0
    number: int = 0


class Renumbered(NamedTuple):
    """A book whose later vouchers moved to other numbers, from an accounting date on."""

    book_id: str
    from_date: str
    moved: int


def number_chunk_in_tx(conn: Connection[Any], book_id: str, cut_date: str) -> int:
    """Number the next CHUNK_VOUCHERS vouchers dated up to a cut; return how many there were."""
    row = conn.execute(SELECT_LAST, (book_id,)).fetchone()
    last = Last() if row is None else Last(*row)
    values = {"book": book_id, "cut": cut_date, "chunk": CHUNK_VOUCHERS, **last._asdict()}
    return conn.execute(NUMBER_CHUNK, values).rowcount


def renumber_in_tx(conn: Connection[Any], positions: Sequence[int]) -> list[Renumbered]:
    """Give vouchers that came after the cut of their day the numbers that the log gives them.

    What stands behind one in the journal moves on, as in books made anew from the log. Vouchers
    at other `positions` than healed ones have nothing to move. All of it is in this transaction.
    """
    done: list[Renumbered] = []
    for book_id, date, position, ordinal, cut_date in conn.execute(
        SELECT_LATE, (list(positions),)
    ).fetchall():
        conn.execute(UNPROTECT)
        moved = conn.execute(DELETE_FROM, (book_id, date, position, ordinal)).rowcount
        conn.execute(PROTECT)
        while cut_date and number_chunk_in_tx(conn, book_id, cut_date):
            pass
        done.append(Renumbered(book_id, date, moved))
    return done
