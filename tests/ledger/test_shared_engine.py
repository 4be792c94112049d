"""One engine for the API processes of a host: what is handed over, and what when it cannot be."""

from __future__ import annotations

import asyncio
import fcntl
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.api_operations import answer_reply
from ledger.booking_door import Door
from ledger.errors import LedgerError, Overloaded
from ledger.handover import LENGTH_BYTES, THERE, VERSION, Hello, framed, told_of
from ledger.hops import Hop, hops
from ledger.operation import Answer
from tests.e2e.load import times_booked
from tests.ledger.booking import Ledger, running_ledger
from tests.ledger.sharing import (
    LOG,
    QUIET,
    SELECT_SEAL_OF,
    answers_to,
    booking_and_handing,
    log_locked,
    names,
    process,
    until,
)

MANY = 10


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A book with C-1 open."""
    with running_ledger(database_url, settings=QUIET) as ledger:
        ledger.open("C-1")
        yield ledger


def test_operations_of_two_processes_are_booked_in_one_commit(
    ledger: Ledger, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with booking_and_handing(ledger.database_url, tmp_path) as (booking, handing):
            with log_locked(ledger.database_url) as waiters:
                first = booking.post("first")  # what comes while it waits is booked together
                await until(lambda: waiters(1), "the first waits for the lock")
                posted = booking.post(*names("a", MANY)) + handing.post(*names("b", MANY))
                await until(lambda: booking.engine.queued == 2 * MANY, "both wait in one queue")
                assert handing.engine.queued == 0
            answers = await answers_to(first + posted)
        assert not any(answer.replayed for answer in answers)
        assert (handing.shared.handed_over, handing.shared.taken_back) == (MANY, 0)

    asyncio.run(scene())
    seals = {ledger.rows(SELECT_SEAL_OF, (each,))[0] for each in ("a-0", "b-0", "a-9", "b-9")}
    assert len(seals) == 1


def test_the_answer_is_the_one_that_the_booking_process_gives_itself(
    ledger: Ledger, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with booking_and_handing(ledger.database_url, tmp_path) as (booking, handing):
            handed = await answers_to(handing.post("o-1", "o-2"))
            again = await answers_to(booking.post("o-1", "o-2"))
            assert [answer.replayed for answer in again] == [True, True]
            assert [_first(answer) for answer in again] == [_first(each) for each in handed]
            (dry,) = await answers_to(handing.post("o-3", dry_run=True))
            assert (dry.dry_run, dry.position) == (True, None)
            assert handing.shared.handed_over == 3

    asyncio.run(scene())
    assert times_booked(ledger.database_url).keys() == {"o-1", "o-2"}


def _first(answer: Answer) -> bytes:
    return answer_reply(answer, 201).body


def test_a_line_that_is_cut_gives_back_what_is_under_way_and_nothing_is_booked_twice(
    ledger: Ledger, tmp_path: Path
) -> None:
    """The booking process stands first at the lock, so what it booked is what is answered."""

    async def scene() -> None:
        async with booking_and_handing(ledger.database_url, tmp_path) as (_, handing):
            with log_locked(ledger.database_url) as waiters:
                posted = handing.post(*names("cut", MANY))
                await until(lambda: waiters(1), "the booking process waits for the lock")
                assert handing.shared._line is not None
                handing.shared._line.close()
                await until(lambda: waiters(2), "the other one waits for it, too")
            answers = await answers_to(posted)
            assert handing.shared.taken_back == MANY
            assert [answer.replayed for answer in answers] == [True] * MANY
            await until(lambda: handing.shared.hands_over, "there is a line again")
            await answers_to(handing.post("after"))
            assert handing.shared.handed_over == MANY + 1

    asyncio.run(scene())
    assert times_booked(ledger.database_url) == dict.fromkeys([*names("cut", MANY), "after"], 1)


def test_a_process_that_drains_answers_what_it_took_and_another_one_books_then(
    ledger: Ledger, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with booking_and_handing(ledger.database_url, tmp_path) as (booking, handing):
            with log_locked(ledger.database_url) as waiters:
                taken = handing.post(*names("taken", MANY))
                await until(lambda: waiters(1), "the booking process waits for the lock")
                stopping = asyncio.create_task(booking.stop())
                await until(lambda: booking.engine.stopped_by, "it drains")
                late = handing.post(*names("late", MANY))
                await until(lambda: handing.shared.taken_back == MANY, "it takes no more")
            answers = await answers_to(taken + late)
            assert not any(answer.replayed for answer in answers)
            await stopping
            assert handing.shared.taken_back == MANY
            await until(lambda: handing.shared.books_for_others, "the other takes over")
            await answers_to(handing.post("after"))

    asyncio.run(scene())
    assert set(times_booked(ledger.database_url).values()) == {1}
    assert len(times_booked(ledger.database_url)) == 2 * MANY + 1


def test_who_finds_the_shared_queue_full_hears_so_in_the_other_process(
    ledger: Ledger, tmp_path: Path
) -> None:
    full = type(QUIET)(queue_size_max=MANY, sweep_interval_s=3_600)

    async def scene() -> None:
        shared = booking_and_handing(ledger.database_url, tmp_path, settings=full)
        async with shared as (_, handing):
            with log_locked(ledger.database_url) as waiters:
                first = handing.post("first")
                await until(lambda: waiters(1), "the first waits for the lock")
                taken = handing.post(*names("taken", MANY))
                refused = handing.post(*names("refused", 2))
                errors = await asyncio.gather(*refused, return_exceptions=True)
            await answers_to(first + taken)
        for error in errors:
            assert isinstance(error, LedgerError)
            assert (error.code, error.retriable) == (Overloaded.code, True)
        assert handing.shared.taken_back == 0

    asyncio.run(scene())
    assert len(times_booked(ledger.database_url)) == MANY + 1


def test_processes_on_two_logs_share_nothing(
    ledger: Ledger, second_database_url: str, tmp_path: Path
) -> None:
    async def scene() -> None:
        with running_ledger(second_database_url, settings=QUIET) as other:
            other.open("C-1")
        async with (
            process(ledger.database_url, tmp_path, log="one") as first,
            process(second_database_url, tmp_path, log="two") as second,
        ):
            await until(lambda: first.shared.books_for_others, "the first is alone")
            await until(lambda: second.shared.books_for_others, "so is the second")
            await answers_to(first.post("o-1") + second.post("o-2"))

    asyncio.run(scene())
    assert times_booked(ledger.database_url) == {"o-1": 1}
    assert times_booked(second_database_url) == {"o-2": 1}


def test_a_socket_of_another_log_under_our_name_is_not_used(ledger: Ledger, tmp_path: Path) -> None:
    async def scene() -> None:
        door = Door(ledger.engine, "another-log")
        path = tmp_path / f"booking-{LOG}.sock"
        with path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            await door.open(path, str(path))
            async with process(ledger.database_url, tmp_path) as alone:
                await until(lambda: "of log another-log" in alone.shared._said, "it is refused")
                await answers_to(alone.post("o-1"))
                assert alone.shared.handed_over == 0
            door.close()

    asyncio.run(scene())


@pytest.mark.parametrize("says", ["nothing at all", "nonsense", "an answer nobody asked for"])
def test_what_a_booking_process_does_not_answer_is_booked_here(
    ledger: Ledger, tmp_path: Path, says: str
) -> None:
    """One that is stopped where it stands keeps its sockets open and answers nobody."""
    words = {"nonsense": b"\x00\x00\x00\x01\xc1", "an answer nobody asked for": _unasked()}

    async def scene() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            hello = framed(Hello(VERSION, LOG))
            await reader.readexactly(len(hello))
            writer.write(hello)
            while len(await reader.read(LENGTH_BYTES + 1)) <= LENGTH_BYTES:
                pass  # it asks whether we are there until there is a posting
            while says in words and not reader.at_eof():
                writer.write(words.get(says, b"") + THERE)
                await reader.read(LENGTH_BYTES)
            await reader.read()
            writer.close()

        path = tmp_path / f"booking-{LOG}.sock"
        with path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            server = await asyncio.start_unix_server(serve, path)
            async with process(ledger.database_url, tmp_path) as handing:
                await until(lambda: handing.shared.hands_over, "it hands over")
                (answer,) = await answers_to(handing.post("o-1"))
                assert (handing.shared.handed_over, handing.shared.taken_back) == (1, 1)
                assert not answer.replayed
            server.close()

    asyncio.run(scene())
    assert times_booked(ledger.database_url) == {"o-1": 1}


def _unasked() -> bytes:
    return framed(told_of(77, LedgerError("who?")))


def test_only_its_own_user_may_open_the_socket_and_a_long_folder_is_no_hindrance(
    ledger: Ledger, tmp_path: Path
) -> None:
    folder = tmp_path / ("deep" * 30) / "run"

    async def scene() -> None:
        async with booking_and_handing(ledger.database_url, folder) as (_, handing):
            socket = folder / f"booking-{LOG}.sock"
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            await answers_to(handing.post("o-1"))
            assert handing.shared.handed_over == 1
        assert not socket.exists()

    asyncio.run(scene())


def test_the_engines_hop_of_a_posting_handed_over_is_told_once(
    ledger: Ledger, tmp_path: Path
) -> None:
    told: list[Hop] = []

    async def scene() -> None:
        async with booking_and_handing(ledger.database_url, tmp_path) as (_, handing):
            await answers_to(handing.post("o-1"))

    end = hops.listen(told.append)
    try:
        asyncio.run(scene())
    finally:
        end()
    assert [(hop.part, hop.operation_id) for hop in told] == [("engine", "o-1")]
