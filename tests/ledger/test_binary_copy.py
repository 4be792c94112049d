"""Rows packed for binary COPY are, in the tables, what was packed."""

from __future__ import annotations

import datetime as dt

import psycopg
import pytest

from ledger.binary_copy import (
    FALSE,
    HEADER,
    NULL,
    TRAILER,
    TRUE,
    copy_in_tx,
    count_field,
    date_field,
    int4_field,
    int8_field,
    jsonb_field,
    refusing,
    text_field,
    text_fields,
)

CREATE = "CREATE TEMP TABLE t (a text, b text, d date, n int4, m int8, o bool, j jsonb)"
COPY = "COPY t (a, b, d, n, m, o, j) FROM STDIN (FORMAT BINARY)"


def test_packed_fields_arrive(postgres_url: str) -> None:
    rows = [
        ("tab\t, \\N, Ü", None, dt.date(1999, 12, 31), -1, 2**63 - 1, True, {"CNY": 2**70}),
        ("", "x", dt.date(9999, 12, 31), 0, -(2**63), False, {"": 0}),
        ("x", "y", None, 1, None, True, {}),
    ]
    jsons = (b'{"CNY":1180591620717411303424}', b'{"":0}', b"{}")
    parts = [HEADER]
    for (a, b, day, n, m, is_true, _), json in zip(rows, jsons, strict=True):
        parts += (
            count_field(7),
            text_fields(a, b),
            date_field(day.isoformat() if isinstance(day, dt.date) else None),
            int4_field(4, n),
            NULL if m is None else int8_field(8, m),
            TRUE if is_true else FALSE,
            jsonb_field(json),
        )
    parts.append(TRAILER)
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(CREATE)
        copy_in_tx(conn, COPY, b"".join(parts))
        assert conn.execute("SELECT * FROM t").fetchall() == rows


@pytest.mark.parametrize(
    "pack",
    [
        lambda: date_field("2026-02-30"),
        lambda: int8_field(8, 2**63),
        lambda: int4_field(4, 2**31),
        lambda: text_field("\ud800"),
    ],
    ids=["date", "int8", "int4", "text"],
)
def test_what_no_column_holds_is_refused_as_the_server_would(pack: object) -> None:
    assert callable(pack)
    with pytest.raises(psycopg.DataError), refusing():
        pack()
