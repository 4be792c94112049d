"""Audit the legal numbers: every voucher that a performed cut covers, in order, without a gap.

While a cut is being numbered, the numbers are a beginning of those that it gives. The vouchers
themselves are compared with the log before this; here their numbers are counted again. Invariant:
a number that is missing, doubled, added or given to another voucher is named by book, year, number.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from ledger.audit_verdict import ROW, differ

NUMBERS_CHECK = "voucher numbers"
SELECT_DIFFERENCE = """
    WITH cuts AS (
        SELECT book_id, max(cut_date) AS met, max(cut_date) FILTER (WHERE performed) AS performed
        FROM day_cuts GROUP BY book_id
    ), reached AS (
        SELECT DISTINCT ON (book_id) book_id, year AS last_year, number AS last_number
        FROM voucher_numbers ORDER BY book_id, year DESC, number DESC
    ), counted AS (
        SELECT v.book_id, extract(year FROM v.accounting_date)::integer AS year,
               row_number() OVER (
                   PARTITION BY v.book_id, extract(year FROM v.accounting_date)
                   ORDER BY v.accounting_date, v.position, v.ordinal) AS number,
               v.position, v.ordinal, v.accounting_date <= cuts.performed AS covered
        FROM vouchers v JOIN cuts USING (book_id) WHERE v.accounting_date <= cuts.met
    )
    SELECT book_id, year, number, c.position, c.ordinal, n.position, n.ordinal
    FROM counted c FULL JOIN voucher_numbers n USING (book_id, year, number)
    LEFT JOIN reached USING (book_id)
    WHERE CASE WHEN n.position IS NULL
               THEN c.covered OR (year, number) <= (last_year, last_number)
               ELSE (c.position, c.ordinal) IS DISTINCT FROM (n.position, n.ordinal) END
    ORDER BY book_id, year, number LIMIT 1
"""
# A cut is marked in the transaction that gives its last number.
SELECT_HIDDEN_CUT = """
    SELECT c.position FROM day_cuts c
    WHERE NOT c.performed AND EXISTS (
        SELECT 1 FROM voucher_numbers n JOIN vouchers v USING (position, ordinal)
        WHERE v.book_id = c.book_id AND v.accounting_date <= c.cut_date
          AND v.accounting_date > coalesce(
              (SELECT max(d.cut_date) FROM day_cuts d
               WHERE d.book_id = c.book_id AND d.performed), '-infinity'))
      AND NOT EXISTS (
        SELECT 1 FROM vouchers v LEFT JOIN voucher_numbers n USING (position, ordinal)
        WHERE v.book_id = c.book_id AND v.accounting_date <= c.cut_date AND n.position IS NULL)
    ORDER BY c.position LIMIT 1
"""


def check_numbers(conn: Connection[Any]) -> None:
    """Prove that the numbers are those of the cuts. Raises `DifferenceFound`."""
    hidden = conn.execute(SELECT_HIDDEN_CUT).fetchone()
    if hidden is not None:
        key = {"position": hidden[0]}
        differ(NUMBERS_CHECK, "projections.day_cuts", key, "performed", *(True, False))
    row = conn.execute(SELECT_DIFFERENCE).fetchone()
    if row is None:
        return
    key = {"book_id": row[0], "year": row[1], "number": row[2]}
    expected, found = row[3:5], row[5:7]
    table = "projections.voucher_numbers"
    if expected[0] is None or found[0] is None:
        sides = (None if side[0] is None else str(side) for side in (expected, found))
        differ(NUMBERS_CHECK, table, key, ROW, *sides)
    column = "position" if expected[0] != found[0] else "ordinal"
    at = 0 if column == "position" else 1
    differ(NUMBERS_CHECK, table, key, column, expected[at], found[at])
