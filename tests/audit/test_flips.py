"""Flip any column of any audited table, delete or add any row: the verdict names the row."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import Connection, Rollback, sql

from infra import audit
from infra.audit import Digest
from ledger.audit import Difference
from tests.audit.tables import (
    audited_columns,
    audited_tables,
    each_flip,
    flip,
    key_of,
    names_row,
    row_at,
    some_rows,
)


def difference_in(conn: Connection[Any], digest: Digest) -> Difference | None:
    return audit.verify_in_tx(conn, digest=digest).difference


def test_the_untouched_story_passes(tampering: Connection[Any], digest: Digest) -> None:
    verdict = audit.verify_in_tx(tampering, digest=digest)
    assert verdict.difference is None
    assert verdict.events == digest.last_id


def test_the_story_leaves_a_row_in_every_audited_table(tampering: Connection[Any]) -> None:
    empty = [t for t in audited_tables(tampering) if not some_rows(tampering, t)]
    assert empty == []


def test_any_flipped_column_is_found_and_its_row_named(
    tampering: Connection[Any], digest: Digest, subtests: pytest.Subtests
) -> None:
    for column, ctid in list(each_flip(tampering)):
        with subtests.test(column=str(column), row=ctid), tampering.transaction():
            before = row_at(tampering, column.table, ctid)
            after = flip(tampering, column, ctid)
            found = difference_in(tampering, digest)
            assert found is not None, (before, after)
            assert found.table == column.table, found
            assert names_row(found.key, before, after), (str(found), before)
            raise Rollback


def test_any_deleted_row_is_found_and_named(
    tampering: Connection[Any], digest: Digest, subtests: pytest.Subtests
) -> None:
    for table in audited_tables(tampering):
        for ctid in some_rows(tampering, table):
            with subtests.test(table=table, row=ctid), tampering.transaction():
                before = row_at(tampering, table, ctid)
                name = sql.Identifier(*table.split("."))
                query = sql.SQL("DELETE FROM {} WHERE ctid = %s").format(name)
                tampering.execute(query, (ctid,))
                found = difference_in(tampering, digest)
                assert found is not None, before
                assert found.table == table, found
                assert names_row(found.key, before), (str(found), before)
                raise Rollback


# A second lane, or a second row of `log`, is not a lie in itself.
MAY_BE_ADDED = {"projections.positions", "ledger.log"}


def test_any_added_row_is_found_and_named(
    tampering: Connection[Any], digest: Digest, subtests: pytest.Subtests
) -> None:
    columns = audited_columns(tampering)
    for table in audited_tables(tampering):
        if table in MAY_BE_ADDED:
            continue
        key = [c for c in columns if c.table == table and c.name in key_of(tampering, table)]
        with subtests.test(table=table), tampering.transaction():
            tampering.execute(
                f"CREATE TEMPORARY TABLE copied ON COMMIT DROP AS "
                f"SELECT * FROM {table} ORDER BY ctid LIMIT 1".encode()
            )
            copied = key[-1]._replace(table="copied")
            added = flip(tampering, copied, some_address(tampering))
            if table == "ledger.stored_events":  # its positions are unique as well
                tampering.execute("UPDATE copied SET notification_id = 1000000")
                added["notification_id"] = 1000000
            if table == "projections.outcomes":
                tampering.execute("UPDATE copied SET position = 1000000")
                added["position"] = 1000000
            if table == "projections.voucher_numbers":
                tampering.execute("UPDATE copied SET position = 1000000")
                added["position"] = 1000000
            if table == "ledger.seals":
                tampering.execute("UPDATE copied SET previous = '\\x0f'")
            if table == "ledger.accounts":
                tampering.execute("UPDATE copied SET number = 'ADDED'")
            tampering.execute(f"INSERT INTO {table} SELECT * FROM copied".encode())
            found = difference_in(tampering, digest)
            assert found is not None, added
            assert found.table == table, found
            assert names_row(found.key, added), (str(found), added)
            raise Rollback


def some_address(conn: Connection[Any]) -> str:
    row = conn.execute("SELECT ctid::text FROM copied").fetchone()
    assert row is not None
    address: str = row[0]
    return address
