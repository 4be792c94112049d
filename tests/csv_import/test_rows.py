"""A file is read whole: good rows exactly, bad rows with file, line, column and code."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from infra.csv_import.rows import read_csv
from tests.csv_import.builders import HEADER, MAP, a_file, a_map

GOOD = "1;A;2020-01-31;IN;10.00;10.00;salary"


def test_a_good_row_becomes_an_exact_movement(tmp_path: Path) -> None:
    file = a_file(tmp_path, GOOD, "2;A;2020-02-01;OUT;0.5;9.50; ")

    read = read_csv(file, a_map(tmp_path))

    assert read.errors == ()
    salary, spent = read.rows
    assert (salary.line, salary.account, salary.reference) == (2, "A", "1")
    assert salary.business_date == salary.value_date == dt.date(2020, 1, 31)
    assert (salary.business_type, salary.side) == ("history_credit", "credit")
    assert (salary.amount_minor, salary.signed_minor, salary.stated_minor) == (1000, 1000, 1000)
    assert (spent.amount_minor, spent.signed_minor, spent.stated_minor) == (50, -50, 950)
    assert (salary.description, spent.description) == ("salary", None)


@pytest.mark.parametrize(
    ("row", "column", "code"),
    [
        ("2;A;2020-01-31;IN;10.00;10.00", None, "column_count"),
        ("2;A;2020-01-31;IN;10.00;10.00;x;y", None, "column_count"),
        ("", None, "column_count"),
        ('2;A;2020-01-31;IN;10.00;10.00;"open', None, "quoting_broken"),
        ('2;A;2020-01-31;IN;10.00;10.00;"a"b', None, "quoting_broken"),
        ("2;A;2020-01-31;IN;10.00;10.00;\x00", None, "nul_character"),
        ("2;;2020-01-31;IN;10.00;10.00;x", "account", "value_missing"),
        ("2;A B;2020-01-31;IN;10.00;10.00;x", "account", "account_malformed"),
        (f"2;{'A' * 65};2020-01-31;IN;10.00;10.00;x", "account", "account_malformed"),
        ("2;A;;IN;10.00;10.00;x", "date", "value_missing"),
        ("2;A;2020-02-30;IN;10.00;10.00;x", "date", "date_malformed"),
        ("2;A;2020-1-31;IN;10.00;10.00;x", "date", "date_malformed"),
        ("2;A;31.01.2020;IN;10.00;10.00;x", "date", "date_malformed"),
        ("2;A;2020-01-31;in;10.00;10.00;x", "type", "type_unknown"),
        ("2;A;2020-01-31;IN;ten;10.00;x", "amount", "amount_malformed"),
        ("2;A;2020-01-31;IN;10.001;10.00;x", "amount", "amount_decimals"),
        ("2;A;2020-01-31;IN;-10.00;10.00;x", "amount", "amount_sign"),
        ("2;A;2020-01-31;IN;0.00;10.00;x", "amount", "amount_zero"),
        ("2;A;2020-01-31;IN;92233720368547758.08;1;x", "amount", "amount_out_of_range"),
        ("2;A;2020-01-31;IN;10.00;;x", "balance", "value_missing"),
        ("2;A;2020-01-31;IN;10.00;1,0;x", "balance", "amount_malformed"),
        (";A;2020-01-31;IN;10.00;10.00;x", "id", "value_missing"),
        ("2\t2;A;2020-01-31;IN;10.00;10.00;x", "id", "reference_malformed"),
        ("1;A;2020-01-31;IN;10.00;10.00;x", "id", "reference_repeated"),
        (f"2;A;2020-01-31;IN;10.00;10.00;{'x' * 501}", "text", "value_too_long"),
    ],
)
def test_a_broken_row_is_named_by_file_line_column_and_code(
    tmp_path: Path, row: str, column: str | None, code: str
) -> None:
    file = a_file(tmp_path, GOOD, row, "3;A;2020-02-01;IN;1.00;11.00;x")

    read = read_csv(file, a_map(tmp_path))

    (error,) = read.errors
    assert (error.file, error.line, error.column, error.code) == ("bank.csv", 3, column, code)
    assert [row.reference for row in read.rows] == ["1", "3"]


def test_every_error_of_a_row_and_of_a_file_is_listed(tmp_path: Path) -> None:
    file = a_file(tmp_path, "1;;2020-13-01;UP;1.000;x;", GOOD, "2;A;2020-01-31;OUT;-1;1;")

    read = read_csv(file, a_map(tmp_path))

    assert [(error.line, error.column, error.code.value) for error in read.errors] == [
        (2, "account", "value_missing"),
        (2, "date", "date_malformed"),
        (2, "amount", "amount_decimals"),
        (2, "type", "type_unknown"),
        (2, "balance", "amount_malformed"),
        (4, "amount", "amount_sign"),
    ]


def test_a_stray_quote_breaks_its_own_row_and_swallows_no_other(tmp_path: Path) -> None:
    rows = [f'{n};A;2020-01-31;IN;1.00;{n}.00;"ok"' for n in range(1, 6)]
    rows[1] = '2;A;2020-01-31;IN;1.00;2.00;"not closed'

    read = read_csv(a_file(tmp_path, *rows), a_map(tmp_path))

    assert [row.reference for row in read.rows] == ["1", "3", "4", "5"]


def test_bytes_of_another_encoding_are_named_by_column(tmp_path: Path) -> None:
    file = tmp_path / "bank.csv"
    row = "2;A;2020-01-31;IN;1.00;1.00;Škoda".encode("cp1250")
    file.write_bytes(HEADER.encode() + b"\r\n" + GOOD.encode() + b"\r\n" + row + b"\r\n\r\n")

    (error,) = read_csv(file, a_map(tmp_path)).errors
    assert (error.line, error.column, error.code) == (3, "text", "undecodable")

    text = MAP.replace("[file]", '[file]\nencoding = "cp1250"')
    assert read_csv(file, a_map(tmp_path, text)).rows[1].description == "Škoda"


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "bank.csv"
    file.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{GOOD}\r\n".encode())

    read = read_csv(file, a_map(tmp_path))

    assert read.errors == ()
    assert read.rows[0].reference == "1"
    assert read.rows[0].description == "salary"


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "file_empty", 0),
        (b"\r\n\r\n", "file_empty", 0),
        (b"id;account;date;type;amount;text\n", "column_missing", 1),
        (HEADER.encode() + b";amount\n", "column_repeated", 1),
        (b'"id;account\n', "quoting_broken", 1),
    ],
)
def test_a_file_without_its_columns_is_refused_whole(
    tmp_path: Path, content: bytes, code: str, line: int
) -> None:
    file = tmp_path / "bank.csv"
    file.write_bytes(content)

    read = read_csv(file, a_map(tmp_path))

    assert read.rows == ()
    assert [(error.code.value, error.line) for error in read.errors] == [(code, line)]
    assert read.errors[0].is_whole_file


def test_a_missing_file_is_an_error_like_any_other(tmp_path: Path) -> None:
    (error,) = read_csv(tmp_path / "none.csv", a_map(tmp_path)).errors

    assert (error.file, error.line, error.code) == ("none.csv", 0, "file_missing")


def test_the_sign_of_the_amount_says_the_side_when_the_map_says_so(tmp_path: Path) -> None:
    text = (
        MAP.replace('type = "type"', "", 1)
        .replace("decimals = 2", 'decimals = 2\nsign = "side"')
        .replace("[types.IN]", '[types."+"]')
        .replace("[types.OUT]", '[types."-"]')
    )
    file = a_file(tmp_path, "1;A;2020-01-31;?;+5;5;", "2;A;2020-01-31;?;-2;3;")

    first, second = read_csv(file, a_map(tmp_path, text)).rows

    assert (first.side, first.amount_minor, first.signed_minor) == ("credit", 500, 500)
    assert (second.side, second.amount_minor, second.signed_minor) == ("debit", 200, -200)


def test_a_debit_grows_the_balance_of_a_debit_normal_account(tmp_path: Path) -> None:
    text = MAP + 'normal_side = "debit"\n'
    file = a_file(tmp_path, "1;A;2020-01-31;OUT;5;5;")

    (row,) = read_csv(file, a_map(tmp_path, text)).rows

    assert (row.side, row.signed_minor) == ("debit", 500)
