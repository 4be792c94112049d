"""Bus messages: nothing is lost in packing, nothing unknown is read, the description fits."""

from __future__ import annotations

import itertools
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consumers.messages import (
    MESSAGE_BYTES_MAX,
    LogRow,
    OperationKey,
    Unreadable,
    decode_key,
    lane_of,
    log_row,
    pack,
    partition_of,
    read_message,
    read_row,
)
from consumers.results import ResultsMessage, pack_results
from ledger.codec import encode_state
from ledger.statuses import AccountingResult
from projections.positions import select_log
from projections.tables import connect_to
from tests.consumers.asyncapi_document import FILE, asyncapi_document, asyncapi_text
from tests.consumers.written_log import WrittenLog

OPERATION = "ledger.recorded:OperationBooked"


def packed(rows: list[LogRow], after: int, through: int) -> list[bytes]:
    """Pack for partition 1 of some log."""
    return pack(rows, log_id="log", incarnation=1, partition=1, span=(after, through))


def read(value: bytes) -> Any:
    """Read a message of partition 1."""
    return read_message(value, topic="t", partition=1, at_offset=7)


@given(st.lists(st.integers(1, 200_000), max_size=12), st.integers(0, 50))
def test_messages_cover_their_stretch_without_gap_and_stay_below_the_limit(
    sizes: list[int], beyond: int
) -> None:
    rows = [
        log_row(number, OPERATION, b'"' + b"x" * size + b'"')
        for number, size in enumerate(sizes, 11)
    ]
    through = 10 + len(sizes) + beyond

    values = packed(rows, 10, through)

    messages = [read(value) for value in values]
    assert all(len(value) <= MESSAGE_BYTES_MAX for value in values)
    assert [row.position for message in messages for row in message.rows] == [
        row.position for row in rows
    ]
    assert messages[0].after == 10
    assert messages[-1].through == through
    for before, after in itertools.pairwise(messages):
        assert before.through == after.after
        assert before.rows[-1].position == before.through


def test_no_rows_make_one_watermark() -> None:
    (value,) = packed([], 3, 9)

    assert (read(value).after, read(value).through, read(value).rows) == (3, 9, ())


def test_a_key_always_lands_on_the_same_partition() -> None:
    assert [partition_of(f"main/C-{number}", 8) for number in range(6)] == [6, 0, 2, 4, 7, 1]


def test_a_decision_goes_to_every_lane_and_an_unreadable_operation_to_the_first() -> None:
    assert lane_of(log_row(1, "accounting.decisions:Rulesets.Opened", b"{}"), 8) is None
    assert lane_of(log_row(2, OPERATION, b"{}"), 8) == 0
    assert lane_of(log_row(3, OPERATION, b'{"book_id":"main","operation_id":"C-0"}'), 8) == 6


def test_the_key_is_book_and_first_account_or_operation_id() -> None:
    with_leg = b'{"book_id":"b","operation_id":"o","legs":[{"account":"A"},{"account":"B"}]}'
    assert decode_key(with_leg).text == "b/A"
    assert OperationKey("b", "o").text == "b/o"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "truncated"),
        (b"", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"{}", "missing required field"),
        (b'{"schema":1}', "missing required field"),
        (
            b'{"schema":2,"log_id":"l","incarnation":1,"partition":1,"after":0,"through":1}',
            "schema 2",
        ),
        (
            b'{"schema":1,"log_id":"l","incarnation":1,"partition":4,"after":0,"through":1}',
            "for partition 4",
        ),
        (packed([log_row(1, OPERATION, b"{}")], 0, 1)[0][:-9], "truncated"),
    ],
)
def test_a_message_nobody_knows_names_its_place(value: bytes | None, words: str) -> None:
    with pytest.raises(Unreadable, match=f"^t/1/7: .*{words}") as raised:
        read_message(value, topic="t", partition=1, at_offset=7)

    assert raised.value.raw == (value or b"")


@pytest.mark.parametrize(
    ("topic", "version", "state"),
    [
        (OPERATION, 1, b"{}"),
        (OPERATION, 2, b'{"class_version":2}'),
        ("accounting.decisions:Unheard.Of", 1, b"{}"),
        ("accounting.decisions:RepairOrder.Requested", 1, b'{"book_id":7}'),
    ],
)
def test_a_row_of_an_unknown_schema_is_placed_in_the_log(
    topic: str, version: int, state: bytes
) -> None:
    row = log_row(42, topic, state)

    assert row.version == version
    with pytest.raises(Unreadable, match=r"^log/0/42: "):
        read_row(row)


def test_the_asyncapi_file_is_what_the_structs_make() -> None:
    assert FILE.read_text() == asyncapi_text()
    assert yaml.safe_load(FILE.read_text())["asyncapi"] == "3.0.0"


def test_messages_are_what_the_asyncapi_file_says(database_url: str) -> None:
    written = WrittenLog(database_url)
    operation = written.recharge("one", fee_minor=60)
    (value,) = packed([log_row(4, OPERATION, encode_state(operation))], 0, 4)
    results = [AccountingResult("main", "one", "vouchered", None, 19)]

    with connect_to(database_url) as conn:
        packed_results = pack_results(results, select_log(conn))

    check("Message", value)
    for message in packed_results:
        check("ResultsMessage", message)
    with pytest.raises(jsonschema.ValidationError):
        check("Message", b'{"schema":1}')
    assert msgspec.json.decode(packed_results[0], type=ResultsMessage).schema == 1


def check(name: str, value: bytes) -> None:
    """Validate a message against the file's schema."""
    components = asyncapi_document()["components"]
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    jsonschema.validate(msgspec.json.decode(value), schema)
