"""Golden bytes: the same fact gives the same bytes, on any machine, for ever."""

from __future__ import annotations

import hashlib
import uuid

import msgspec
import pytest

from ledger import events as ev
from ledger.codec import (
    TOPIC_OF,
    ZERO_SEAL,
    account_stream,
    account_streams,
    book_stream,
    decode_event,
    digest_of,
    encode_state,
    operation_stream,
    row_of,
    seal_of,
    stream_bytes,
    stream_uuid,
    totals_text,
)
from tests.ledger.samples import sample_of

EVENT = ev.AccountCredited(
    "C-1",
    "op-1",
    1,
    "recharge",
    100,
    0,
    100,
    0,
    2,
    "2026-01-31",
    "2026-01-31",
    "2026-01-31T08:00:00Z",
)
ROW = row_of(account_stream("main", "C-1"), 2, EVENT)

GOLDEN = {
    "account": "81f380e2c7468f5b9814f90491679b32",
    "operation": "6b09d1aaa7b88d948df526f72a5dbacb",
    "book": "bc9b65213aa584d380ade8dac3ebbf7a",
    "digest": "b430b8587b7eb24f9be9db23a098b9dbfe0b94db6167c7906e2a6a9fc67c0296",
    "seal": "721bef48b1638738ca7a921b3974daa738805bc51f09fd494d9888fa0d00065e",
}


def test_the_state_of_an_event_is_this_json() -> None:
    assert ROW.state == (
        b'{"account":"C-1","operation_id":"op-1","leg_no":1,"business_type":"recharge",'
        b'"amount":100,"balance_before":0,"balance":100,"held":0,"version":2,'
        b'"business_date":"2026-01-31","value_date":"2026-01-31",'
        b'"booked_at":"2026-01-31T08:00:00Z"}'
    )
    assert ROW.topic == b"ledger.recorded:AccountCredited"


def test_stream_ids_are_these() -> None:
    assert account_stream("main", "C-1").hex() == GOLDEN["account"]
    assert operation_stream("main", "op-1").hex() == GOLDEN["operation"]
    assert book_stream("main").hex() == GOLDEN["book"]


def test_a_streams_id_depends_on_kind_book_and_the_whole_identifier() -> None:
    ids = {
        account_stream("main", "x"),
        operation_stream("main", "x"),
        operation_stream("other", "x"),
        operation_stream("main", "x "),
        book_stream("main"),
    }
    assert len(ids) == 5


def test_what_is_remembered_of_accounts_has_a_bound_and_changes_no_stream_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ledger.codec.ACCOUNT_STREAMS_MAX", 3)
    streams = account_streams("a book of its own")
    numbers = [f"C-{each}" for each in range(10)]
    for number in [*numbers, *numbers]:
        assert streams[number] == stream_bytes("account", "a book of its own", number)
        assert len(streams) <= 3


def test_a_stream_id_is_a_uuid_of_version_8() -> None:
    found = stream_uuid(account_stream("main", "C-1"))
    assert found.version == 8
    assert found.variant == uuid.RFC_4122


@pytest.mark.parametrize(
    ("identifier", "prefix"),
    [
        ("0190a5e4-7b3c-7def-8123-456789abcdef", "0190a5e47b3c"),  # UUIDv7
        ("01J2M3N4P5Q6R7S8T9V0W1X2Y3", "0190a83a92c5"),  # ULID
        ("01j2m3n4p5q6r7s8t9v0w1x2y3", "0190a83a92c5"),
    ],
)
def test_an_operations_stream_keeps_the_time_prefix_of_its_id(identifier: str, prefix: str) -> None:
    assert operation_stream("main", identifier).hex()[:12] == prefix


@pytest.mark.parametrize(
    "identifier",
    [
        "0190a5e4-7b3c-4def-8123-456789abcdef",  # UUIDv4
        "0190a5e4-7b3z-7def-8123-456789abcdef",  # no hexadecimal number
        "01J2M3N4U5Q6R7S8T9V0W1X2Y3",  # U is no letter of a ULID
        "op-1",
        "",
    ],
)
def test_other_ids_get_a_prefix_from_their_hash(identifier: str) -> None:
    digest = hashlib.sha256(f"operation\x00main\x00{identifier}".encode()).digest()
    assert operation_stream("main", identifier)[:6] == digest[16:22]


def test_a_rows_digest_is_this_and_covers_every_part() -> None:
    assert digest_of(7, ROW).hex() == GOLDEN["digest"]
    others = [
        digest_of(8, ROW),
        digest_of(7, ROW._replace(stream_id=book_stream("main"))),
        digest_of(7, ROW._replace(version=3)),
        digest_of(7, ROW._replace(topic=b"ledger.recorded:AccountDebited")),
        digest_of(7, ROW._replace(state=ROW.state + b" ")),
    ]
    assert len({digest_of(7, ROW), *others}) == 6


def seal(**changed: object) -> str:
    facts: dict[str, object] = {
        "previous": ZERO_SEAL,
        "first_id": 1,
        "book_id": "main",
        "booked_at": "2026-01-31T08:00:00.000000Z",
        "totals": totals_text({"USD": (1, 5), "CNY": (2, 300)}),
        "digests": [digest_of(1, ROW), digest_of(2, ROW)],
    }
    return seal_of(**{**facts, **changed}).seal.hex()  # type: ignore[arg-type]


def test_a_seal_is_this_and_covers_every_part() -> None:
    assert seal() == GOLDEN["seal"]
    changed = {
        seal(previous=b"\x01" * 32),
        seal(first_id=2),
        seal(book_id="other"),
        seal(booked_at="2026-01-31T08:00:00.000001Z"),
        seal(totals="{}"),
        seal(digests=[digest_of(1, ROW)]),
        seal(digests=[digest_of(2, ROW), digest_of(1, ROW)]),
    }
    assert len(changed | {seal()}) == 8


def test_totals_are_written_in_one_way() -> None:
    totals = totals_text({"USD": (1, 5), "CNY": (2, 300), "": (1, 0)})
    assert totals == '{"":[1,0],"CNY":[2,300],"USD":[1,5]}'


@pytest.mark.parametrize("struct", TOPIC_OF, ids=lambda struct: struct.__name__)
def test_every_event_comes_back_from_its_bytes(struct: type[msgspec.Struct]) -> None:
    event = sample_of(struct)
    topic = TOPIC_OF[struct].decode()
    assert decode_event(topic, encode_state(event)) == event


def test_a_field_that_says_nothing_is_left_out_and_unknown_ones_are_passed_over() -> None:
    assert b"intended_account" not in ROW.state
    newer = ROW.state[:-1] + b',"added_later":1}'
    assert decode_event(ROW.topic.decode(), newer) == EVENT


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(KeyError):
        decode_event("ledger.recorded:Nothing", b"{}")
    with pytest.raises(msgspec.MsgspecError):
        decode_event(ROW.topic.decode(), b"{}")
