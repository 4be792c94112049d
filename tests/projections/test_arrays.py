"""Arrays as they are written for the server are read as what they were made of."""

from __future__ import annotations

import psycopg
import pytest

from projections.tables import integer_array, text_array


@pytest.mark.parametrize(
    "texts", [["a"], [""], ["a", "b,c", "{}", " NULL ", "NULL"], ['"', "a"], ["\\", 'x\\"y', "Ü\n"]]
)
def test_texts_arrive_as_they_were(postgres_url: str, texts: list[str]) -> None:
    with psycopg.connect(postgres_url) as conn:
        row = conn.execute("SELECT %s::text[]", (text_array(texts),)).fetchone()
    assert row == (texts,)


def test_integers_of_any_size_arrive(postgres_url: str) -> None:
    values = [0, -1, 2**63, -(10**30)]
    with psycopg.connect(postgres_url) as conn:
        row = conn.execute("SELECT %s::numeric[]", (integer_array(values),)).fetchone()
    assert row == (values,)
