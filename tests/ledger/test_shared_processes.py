"""Two API processes with one engine, as `daybook serve --processes 2` starts them: one dies."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from infra.settings import Settings
from ledger.audit import verify
from tests.e2e.load import Load, times_booked
from tests.fix_api import ApiCaller, server_over
from tests.waiting import wait_until


@dataclass
class Served:
    """One of the processes, for a load on it."""

    settings: Settings
    url: str
    key: str


@dataclass
class Pair:
    """The process that books, and the one that hands over to it."""

    booking: ApiCaller
    booking_process: subprocess.Popen[bytes]
    handing: ApiCaller
    handing_process: subprocess.Popen[bytes]

    def assert_right(self, *loads: Load) -> None:
        """What was acknowledged is booked, everything once, and the log proves itself."""
        booked = times_booked(self.handing.database_url)
        assert set(booked.values()) == {1}
        for load in loads:
            assert load.other == []
            assert set(load.acknowledged) - booked.keys() == set()
        with psycopg.connect(self.handing.database_url, autocommit=True) as conn:
            assert verify(conn).difference is None


def counted(api: ApiCaller, name: str) -> float:
    """Read one of a process's metrics."""
    lines = api.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


@pytest.fixture
def pair(database_url: str, tmp_path: Path) -> Iterator[Pair]:
    """Both run and have found each other; C-1 is open."""
    with contextlib.ExitStack() as stack:
        first, first_process = stack.enter_context(server_over(database_url, tmp_path, processes=2))
        wait_until(lambda: counted(first, "daybook_booking_process"), "the first books for others")
        second, process = stack.enter_context(server_over(database_url, tmp_path, processes=2))
        wait_until(lambda: counted(second, "daybook_hands_over"), "the second hands over")
        first.open("C-1")
        yield Pair(first, first_process, second, process)


def load_on(api: ApiCaller, *, patience_s: float = 90) -> Load:
    """Post through one process, over and over."""
    return Load(Served(Settings(), str(api.http.base_url), api.key), patience_s=patience_s)


@pytest.mark.parametrize("way", ["kill", "terminate"])
def test_the_booking_process_goes_in_mid_load_and_the_other_takes_over(
    pair: Pair, way: str
) -> None:
    with load_on(pair.handing) as load:
        wait_until(lambda: len(load.acknowledged) > 100, "posting has begun")
        assert counted(pair.handing, "daybook_handed_over_total") > 100
        getattr(pair.booking_process, way)()
        wait_until(lambda: counted(pair.handing, "daybook_booking_process"), "it takes over")
        done = len(load.acknowledged)
        wait_until(lambda: load.error or len(load.acknowledged) > done + 100, "posting goes on")
    assert load.error is None
    pair.assert_right(load)


def test_a_process_that_hands_over_is_killed_in_mid_load_and_the_other_goes_on(pair: Pair) -> None:
    """Both are asked for the same operations, so each is booked by whoever comes first."""
    with load_on(pair.booking) as staying, load_on(pair.handing, patience_s=1) as dying:
        wait_until(lambda: len(dying.acknowledged) > 100, "posting has begun")
        pair.handing_process.kill()
        pair.handing_process.wait()
        done = len(staying.acknowledged)
        wait_until(lambda: staying.error or len(staying.acknowledged) > done + 100, "it goes on")
    assert staying.error is None
    assert counted(pair.booking, "daybook_booking_process") == 1
    pair.assert_right(staying, dying)
