"""Column maps: what a sound map gives, and every way a map is refused before a row is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.csv_import.column_map import ColumnMap, ColumnMapRefused, shipped_maps
from tests.csv_import.builders import MAP, a_map


def test_the_czech_map_ships_with_the_product() -> None:
    column_map = ColumnMap.load("berka")

    assert "berka" in shipped_maps()
    assert column_map.source.book == "berka"
    assert column_map.types["VYBER"].side == "debit"
    assert column_map.rounding_minor == 10


def test_a_map_is_loaded_by_its_path(tmp_path: Path) -> None:
    assert a_map(tmp_path).types["IN"].business_type == "history_credit"


def test_a_map_serves_another_book_when_asked() -> None:
    column_map = ColumnMap.load("berka").for_book("berka-2")

    assert (column_map.source.book, column_map.source.name) == ("berka-2", "berka")


@pytest.mark.parametrize(
    ("line", "value", "said"),
    [
        ("currency", '"EURO"', "no ISO 4217 currency"),
        ("currency", '"JPY"', "amount.decimals: JPY has 0"),
        ("decimals", '"2"', "Expected `int`"),
        ("decimals", "5", "<= 4"),
        ("rounding", '"a tenth"', "stated_balance.rounding"),
        ("rounding", '"0.001"', "more than 2 decimals"),
        ("rounding", '"-0.10"', "is negative"),
        ("delimiter", "'\"'", "same character"),
        ("delimiter", '";;"', "length <= 1"),
        ("side", '"left"', "Invalid enum value"),
        ("name", '"two words"', "regex"),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(
    tmp_path: Path, line: str, value: str, said: str
) -> None:
    with pytest.raises(ColumnMapRefused) as refused:
        a_map(tmp_path, **{line: value})

    assert refused.value.code == "column_map_refused"
    assert said in str(refused.value)
    assert "map.toml" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MAP + "colour = 'red'", "unknown field `colour`"),
        (MAP.replace('type = "type"', ""), "columns.type is missing"),
        (MAP.replace("decimals = 2", 'decimals = 2\nsign = "side"'), "keep one"),
        (MAP.replace("[file]", '[file]\nencoding = "klingon"'), "'klingon' is unknown"),
        (MAP.replace("decimals = 2", 'decimals = 2\nthousands_separator = "."'), "same character"),
        ("[source", "map.toml"),
        ("", "missing required field"),
    ],
)
def test_a_map_that_cannot_be_read_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ColumnMapRefused, match=r"map\.toml") as refused:
        a_map(tmp_path, text)

    assert said in str(refused.value)


def test_a_signed_amount_needs_both_signs_mapped(tmp_path: Path) -> None:
    text = MAP.replace('type = "type"', "").replace("decimals = 2", 'decimals = 2\nsign = "side"')

    with pytest.raises(ColumnMapRefused, match=r"exactly '\+' and '-'"):
        a_map(tmp_path, text)


def test_a_missing_map_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ColumnMapRefused, match="shipped maps: berka"):
        ColumnMap.load(tmp_path / "none.toml")
