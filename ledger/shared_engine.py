"""One engine for all API processes of a host: larger batches, and heads in one memory.

The processes elect a *booking process* by a lock on a file; the others hand it their single
postings. Everything else, and everything while it cannot be asked, they book with their own
engine. Invariant: who books is never a matter of right or wrong: any engine may book any operation
at any time, the log's lock and seals decide, and an operation that was booked twice over is on
record once: the second try hears the first answer, marked as replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ledger.booking_door import Door
from ledger.booking_line import CONNECT_S, Line
from ledger.engine import Engine
from ledger.errors import LedgerError
from ledger.handover import BrokenLine
from ledger.ticket import Ticket

_log = logging.getLogger(__name__)
LOOK_S = 0.5
PAUSE_S = 0.1


class SharedEngine:
    """An engine beside others of its host. `identify` says which log is booked at which address,
    in a few characters that can stand in a file's name; it may block, and raise OSError.
    """

    def __init__(self, engine: Engine, folder: Path, identify: Callable[[], str]) -> None:
        self.handed_over = 0
        self.taken_back = 0
        self._engine = engine
        self._folder = folder
        self._identify = identify
        self._log = ""
        self._line: Line | None = None
        self._door: Door | None = None
        self._task: asyncio.Task[None] | None = None
        self._said = ""

    # --- what the bridge sees of an engine ------------------------------------------------

    def take(self, tickets: Iterable[Ticket]) -> None:
        """Hand over what can be handed over, and queue the rest in the engine of this process."""
        line = self._line
        tickets = list(tickets)
        if line is not None and line.usable and self._engine.stopped_by is None:
            others = line.ask(tickets)
            self.handed_over += len(tickets) - len(others)
            tickets = others
        if tickets:
            self._engine.take(tickets)

    @property
    def queued(self) -> int:
        """Submissions that wait in this process for a batch."""
        return self._engine.queued

    @property
    def stopped_by(self) -> LedgerError | None:
        """Why the engine of this process takes no jobs, or None."""
        return self._engine.stopped_by

    @property
    def books_for_others(self) -> bool:
        """Whether this is the booking process."""
        return self._door is not None

    @property
    def hands_over(self) -> bool:
        """Whether another process is the booking process, and can be asked."""
        return self._line is not None and self._line.usable

    # --- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for the booking process, or to be it, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self, drain_s: float) -> None:
        """Let another be the booking process, book and answer what was taken, end all lines."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._line is not None:
            self._line.close()
            await self._line.ended.wait()
        await asyncio.to_thread(self._engine.stop, drain_s)
        if self._door is not None:
            self._door.hang_up()

    async def _keep(self) -> None:
        """Be the booking process or keep a line to it, until cancelled or the engine stops."""
        while self._engine.stopped_by is None:
            try:
                await self._keep_once()
            except (OSError, TimeoutError, BrokenLine) as error:
                self._say(f"no booking process can be asked, this one books alone: {error}")
            except Exception:  # noqa: BLE001 - a defect of ours costs speed, nothing else
                _log.exception("engine: sharing it failed")
            await asyncio.sleep(PAUSE_S)

    async def _keep_once(self) -> None:
        if not self._log:
            self._log = await asyncio.to_thread(self._identify)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _elected(self._folder / f"booking-{self._log}.lock") as elected:
            if elected:
                await self._be_it()
                return
        await self._hand_over()

    async def _be_it(self) -> None:
        """Serve the others until the engine stops; what it has taken then is still answered."""
        door = Door(self._engine, self._log)
        path = self._socket_path()
        with _short_name(path) as name:
            await door.open(path, name)
        self._door = door
        self._say("this process books for the API processes of this host")
        try:
            while self._engine.stopped_by is None:  # noqa: ASYNC110 - it stops in its thread
                await asyncio.sleep(LOOK_S)
            door.hang_up()
        finally:
            door.close()
            path.unlink(missing_ok=True)  # while the lock is held: the next one's stays

    async def _hand_over(self) -> None:
        """Keep a line to the booking process until it ends."""
        loop = asyncio.get_running_loop()
        with _short_name(self._socket_path()) as name:
            async with asyncio.timeout(CONNECT_S):
                _, line = await loop.create_unix_connection(
                    lambda: Line(self._log, self._take_back), name
                )
        try:
            await line.agree()
            self._line = line
            self._say("another process of this host books what is posted here")
            while not line.ended.is_set():
                line.look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await line.ended.wait()
        finally:
            line.close()

    def _take_back(self, tickets: list[Ticket]) -> None:
        """Book here what the booking process left unanswered: it is not known what it booked."""
        self.taken_back += len(tickets)
        self._engine.take(tickets)

    def _socket_path(self) -> Path:
        return self._folder / f"booking-{self._log}.sock"

    def _say(self, words: str) -> None:
        if words != self._said:
            _log.info("engine: %s", words)
        self._said = words


@contextlib.contextmanager
def _elected(path: Path) -> Iterator[bool]:
    """Hold a lock that the system drops however the process ends; False: another has it."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """Name a path by its open folder: a socket's name has at most 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class SharingCollector(Collector):
    """Who books for whom, in Prometheus' words."""

    def __init__(self, shared: SharedEngine) -> None:
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        """Yield the role of this process, and what went to another and came back."""
        shared = self._shared
        yield GaugeMetricFamily(
            "daybook_booking_process",
            "1: this process books for the API processes of its host",
            float(shared.books_for_others),
        )
        yield GaugeMetricFamily(
            "daybook_hands_over",
            "1: another process of this host books the single postings of this one",
            float(shared.hands_over),
        )
        yield CounterMetricFamily(
            "daybook_handed_over",
            "Postings handed to the booking process",
            value=shared.handed_over,
        )
        yield CounterMetricFamily(
            "daybook_taken_back",
            "Postings handed over and not answered there, so booked in this process",
            value=shared.taken_back,
        )
