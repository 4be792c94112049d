"""The recorder keeps the library's contract, and the library's readers read the engine's rows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import psycopg
import pytest
from eventsourcing.application import Application, LocalNotificationLog
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import (
    EventStore,
    IntegrityError,
    JSONTranscoder,
    Mapper,
    StoredEvent,
)
from eventsourcing.postgres import PostgresDatastore
from eventsourcing.utils import register_topic
from psycopg.conninfo import conninfo_to_dict

from infra import audit
from infra.decision_log import decision_log
from ledger import recorded
from ledger.audit import verify
from ledger.codec import account_stream, decode_event, stream_uuid
from ledger.recorded import RecordedEvent
from ledger.store import DaybookRecorder
from tests.ledger import builders as b
from tests.ledger import library_cases
from tests.ledger.booking import running_ledger


def datastore(database_url: str, schema: str = "ledger", pool_size: int = 3) -> PostgresDatastore:
    """The library's own connection pool on a test's database."""
    given = {key: str(value) for key, value in conninfo_to_dict(database_url).items()}
    return PostgresDatastore(
        given["dbname"],
        given["host"],
        given.get("port", "5432"),
        given["user"],
        "",
        schema=schema,
        pool_size=pool_size,
        max_overflow=10,
    )


class _OnRealPostgres:
    """Give the library's cases a recorder on a schema that is made by the recorder itself."""

    url: ClassVar[str]
    recorder_class: ClassVar[type[DaybookRecorder]] = DaybookRecorder

    @pytest.fixture(autouse=True)
    def _database(self, empty_database_url: str) -> Iterator[None]:
        type(self).url = empty_database_url
        self.stores: list[PostgresDatastore] = []
        with psycopg.connect(empty_database_url) as conn:
            conn.execute("CREATE SCHEMA contract")
        yield
        for store in self.stores:
            store.close()

    def create_recorder(self) -> DaybookRecorder:
        """Make the table as the library would."""
        store = datastore(self.url, "contract")
        self.stores.append(store)
        recorder = self.recorder_class(store)
        recorder.create_table()
        return recorder

    def test_performance(self) -> None:
        """Timing belongs in bench/."""

    def test_concurrent_throughput(self) -> None:
        """Timing belongs in bench/."""


class _WithoutPositions(DaybookRecorder):
    """As the library's recorder of aggregates, which has no positions to tell."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **more: Any) -> None:
        super().insert_events(stored_events, **more)


class TestAggregateRecorder(_OnRealPostgres, library_cases.AggregateCases):
    """The library's cases for aggregates."""

    recorder_class = _WithoutPositions


class TestApplicationRecorder(_OnRealPostgres, library_cases.ApplicationCases[DaybookRecorder]):
    """The library's cases for applications: contiguous ids, selections, subscriptions."""


class TestNonInterleaving(_OnRealPostgres, library_cases.NonInterleavingCases):
    """Two inserts at once never mix their positions."""


# --- the library reads what the engine wrote ----------------------------------------------


@pytest.fixture
def booked(database_url: str) -> str:
    """A log with rows of many kinds, written by the engine."""
    with running_ledger(database_url) as ledger:
        ledger.open("C-1", "M-1")
        ledger.post(
            b.post("recharge", b.credit("C-1", 500), operation_id="r1"),
            b.post("hold", b.hold("C-1", 100), operation_id="h1"),
            b.post("payment", b.debit("C-1", 50), b.credit("M-1", 50), operation_id="p1"),
            b.post(
                "refund",
                b.debit("M-1", 20),
                b.credit("C-1", 20),
                original_operation_id="p1",
            ),
            b.post("transfer", b.debit("M-1", 999)),
        )
    return database_url


def mapper() -> Mapper[uuid.UUID]:
    """The stock mapper with the stock transcoder."""
    return Mapper(transcoder=JSONTranscoder())


def test_the_stock_notification_log_and_mapper_read_every_row(booked: str) -> None:
    store = datastore(booked)
    try:
        recorder = DaybookRecorder(store)
        last = recorder.max_notification_id()
        assert last is not None
        section = LocalNotificationLog(recorder, section_size=1000)[f"1,{last}"]
        assert [item.id for item in section.items] == list(range(1, last + 1))
        for item in section.items:
            found: Any = mapper().to_domain_event(item)
            assert isinstance(found, RecordedEvent)
            assert found.fact() == decode_event(item.topic, item.state)
            assert found.originator_version == item.originator_version
    finally:
        store.close()


def test_the_stock_event_store_reads_an_accounts_stream(booked: str) -> None:
    store = datastore(booked)
    try:
        events: EventStore[uuid.UUID] = EventStore(mapper(), DaybookRecorder(store))
        stream = stream_uuid(account_stream(b.BOOK, "C-1"))
        found: list[Any] = list(events.get(stream))
    finally:
        store.close()
    assert [each.fact().version for each in found] == [1, 2, 3, 4, 5]
    assert found[-1].fact().balance_minor == 470


def test_every_topic_of_the_ledger_resolves_to_a_class_that_gives_its_fact() -> None:
    for struct in recorded.events.LedgerEvent.__args__:
        assert getattr(recorded, struct.__name__).struct is struct


def test_an_older_row_is_upcast_by_the_library_when_its_class_has_moved_on(booked: str) -> None:
    # given an event whose field was called otherwise in version 1
    class Renamed(RecordedEvent):
        class_version = 2

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["account"] = state.pop("number")

    register_topic("tests:Renamed", Renamed)
    stream = uuid.uuid4()
    store = datastore(booked)
    try:
        recorder = DaybookRecorder(store)
        recorder.insert_events([StoredEvent(stream, 1, "tests:Renamed", b'{"number":"C-1"}')])
        (read,) = EventStore(mapper(), recorder).get(stream)
    finally:
        store.close()
    assert vars(read)["account"] == "C-1"


# --- decisions live in the same log -------------------------------------------------------


class Note(Aggregate):
    """An aggregate of a test."""

    class Written(Aggregate.Event):
        """Somebody wrote."""

        text: str

    @event(Written)
    def write(self, text: str) -> None:
        """Write."""
        self.text = text


def test_aggregates_of_the_library_and_the_engine_share_one_log(booked: str) -> None:
    with decision_log(booked) as decisions:
        application: Application[uuid.UUID] = decisions
        note = Note()
        note.write("hello")
        application.save(note)
        read: Note = application.repository.get(note.id)
        assert read.text == "hello"
        # and a stale copy is refused by the stream's version
        read.write("first")
        note.write("second")
        application.save(read)
        with pytest.raises(IntegrityError):
            application.save(note)
    with psycopg.connect(booked) as conn:
        assert verify(conn).passed
        digest = audit.digest(conn)
    assert digest.last_id > 0


def test_a_refused_insert_leaves_no_hole(booked: str) -> None:
    stream = uuid.uuid4()
    twice = [StoredEvent(stream, 1, "tests:note", b"{}")] * 2
    store = datastore(booked)
    try:
        recorder = DaybookRecorder(store)
        before = recorder.max_notification_id()
        with pytest.raises(IntegrityError):
            recorder.insert_events(twice)
        (position,) = recorder.insert_events(twice[:1]) or ()
    finally:
        store.close()
    assert before is not None
    assert position == before + 1
