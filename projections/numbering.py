"""The legal numbers of vouchers: given at a cut, chunk by chunk, in the order of the journal.

Invariant: numbers of a book's year are consecutive in the order (accounting date, position,
ordinal), and nothing without a number stands before the last one that has a number. So the last
number says where numbering goes on, after a chunk as after a kill. Who brings a voucher in front of
numbers takes these back first, the last ones first, and the cuts count as not performed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
EXISTS_MORE = """
    SELECT EXISTS (SELECT 1 FROM vouchers
                   WHERE book_id = %s AND accounting_date <= %s::date
                     AND (accounting_date, position, ordinal) > (%s::date, %s::bigint, %s::integer))
"""
# Vouchers without a number that a performed cut covers, or that stand before a number.
SELECT_LATE = """
    SELECT DISTINCT ON (v.book_id) v.book_id, v.accounting_date::text, v.position, v.ordinal
    FROM vouchers v LEFT JOIN voucher_numbers n USING (position, ordinal)
    LEFT JOIN LATERAL (
        SELECT w.accounting_date, w.position, w.ordinal
        FROM voucher_numbers m JOIN vouchers w USING (position, ordinal)
        WHERE m.book_id = v.book_id ORDER BY m.year DESC, m.number DESC LIMIT 1) last ON true
    WHERE v.position = ANY(%s) AND n.position IS NULL
      AND (v.accounting_date <= (SELECT max(cut_date) FROM day_cuts c
                                 WHERE c.book_id = v.book_id AND c.performed)
           OR (v.accounting_date, v.position, v.ordinal)
              < (last.accounting_date, last.position, last.ordinal))
    ORDER BY v.book_id, v.accounting_date, v.position, v.ordinal
"""
UNPROTECT = "ALTER TABLE voucher_numbers DISABLE TRIGGER voucher_numbers_append_only"
PROTECT = "ALTER TABLE voucher_numbers ENABLE TRIGGER voucher_numbers_append_only"
TAKE_BACK_CHUNK = """
    WITH taken AS (DELETE FROM voucher_numbers n USING (
        SELECT m.year, m.number, v.accounting_date, v.position, v.ordinal
        FROM voucher_numbers m JOIN vouchers v USING (position, ordinal)
        WHERE m.book_id = %(book)s ORDER BY m.year DESC, m.number DESC LIMIT %(chunk)s) last
    WHERE n.book_id = %(book)s AND n.year = last.year AND n.number = last.number
      AND (last.accounting_date, last.position, last.ordinal)
          > (%(date)s::date, %(position)s::bigint, %(ordinal)s::integer)
    RETURNING last.accounting_date)
    SELECT count(*), min(accounting_date)::text FROM taken
"""
NUMBERS_LOCK = 1_145_393_491
LOCK_NUMBERS = "SELECT pg_advisory_lock(%s, hashtext(current_schema()))"
UNLOCK_NUMBERS = "SELECT pg_advisory_unlock(%s, hashtext(current_schema()))"
TRY_NUMBERS = "SELECT pg_try_advisory_xact_lock(%s, hashtext(current_schema()))"


class Last(NamedTuple):
    """The last voucher of a book that has a number, and which one."""

    date: str = "-infinity"
    position: int = 0
    ordinal: int = 0
    year: int = 0
    number: int = 0


class Late(NamedTuple):
    """The place of a voucher that came after numbers behind it were given."""

    book_id: str
    date: str
    position: int
    ordinal: int


class Renumbered(NamedTuple):
    """A book whose later vouchers move to other numbers, from an accounting date on."""

    book_id: str
    from_date: str
    moved: int


def number_chunk_in_tx(conn: Connection[Any], book_id: str, cut_date: str) -> bool:
    """Number the next CHUNK_VOUCHERS vouchers dated up to a cut; True when none is left."""
    last = _last_in_tx(conn, book_id)
    values = {"book": book_id, "cut": cut_date, "chunk": CHUNK_VOUCHERS, **last._asdict()}
    if conn.execute(NUMBER_CHUNK, values).rowcount < CHUNK_VOUCHERS:
        return True
    last = _last_in_tx(conn, book_id)
    row = conn.execute(EXISTS_MORE, (book_id, cut_date, *last[:3])).fetchone()
    return row is not None and not row[0]


def select_late_in_tx(conn: Connection[Any], positions: Sequence[int]) -> list[Late]:
    """Find, per book, the first voucher of these positions that stands among numbered ones."""
    return [Late(*row) for row in conn.execute(SELECT_LATE, (list(positions),))]


def take_back_chunk_in_tx(conn: Connection[Any], late: Late) -> tuple[int, str | None]:
    """Take back the last CHUNK_VOUCHERS numbers of a book as far as they stand behind a place.

    Return how many there were (fewer than that: none is left) and the first accounting date of
    theirs. The caller holds the numbers.
    """
    values = {"book": late.book_id, "chunk": CHUNK_VOUCHERS, **late._asdict()}
    conn.execute(UNPROTECT)
    taken, first_date = conn.execute(TAKE_BACK_CHUNK, values).fetchone() or (0, None)
    conn.execute(PROTECT)
    return taken, first_date


@contextmanager
def numbers_held(conn: Connection[Any]) -> Iterator[None]:
    """Keep everybody else from giving numbers in these books; ends with the connection at last."""
    conn.execute(LOCK_NUMBERS, (NUMBERS_LOCK,))
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(UNLOCK_NUMBERS, (NUMBERS_LOCK,))


def try_numbers_in_tx(conn: Connection[Any]) -> bool:
    """Tell whether numbers may be given in this transaction: nobody takes some back."""
    row = conn.execute(TRY_NUMBERS, (NUMBERS_LOCK,)).fetchone()
    return bool(row and row[0])


def _last_in_tx(conn: Connection[Any], book_id: str) -> Last:
    row = conn.execute(SELECT_LAST, (book_id,)).fetchone()
    return Last() if row is None else Last(*row)
