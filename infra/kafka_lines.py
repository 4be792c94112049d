"""What kafka-python says while a broker is away: once, and once more when that is over.

The library writes an error for every try of every connection, hundreds in an outage of minutes.
Of each kind the first is written as it came; those that follow are counted, and the count of each
kind is said when the library has been silent for a while. Invariant: no kind of error is passed
over, and no count is lost while the process lives; at level debug every line is written.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable

import structlog

QUIET_S = 15.0  # a connection is tried again every second or so: by then it is there
CUT = "connection"
CUT_WORDS = re.compile(
    r"connection (failed|lost)|socket disconnected|Abort \(|Bootstrap|"
    r"connect to a kafka controller|Metadata refresh",
    re.IGNORECASE,
)
VALUES = re.compile(r"\d[\d.]*|'[^']*'|<[^>]*>")

Say = Callable[[dict[str, int]], None]


class OutageLines(logging.Filter):
    """A filter of a handler: lets the first line of each kind through, and counts the others.

    `over` is told the counts by kind when nothing has come for `quiet_s`; `clock` is monotonic.
    """

    def __init__(
        self,
        over: Say | None = None,
        *,
        quiet_s: float = QUIET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._over = over or say_over
        self._quiet_s = quiet_s
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._last = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is written: not a repetition of this outage's, or not Kafka's."""
        if not record.name.startswith("kafka"):
            return True
        kind = kind_of(record)
        with self._lock:
            if not self._counts:
                self._wait(self._quiet_s)
            self._last = self._clock()
            self._counts[kind] += 1
            return self._counts[kind] == 1

    def look(self) -> None:
        """End the outage if it is over; called by a timer."""
        with self._lock:
            silent_s = self._clock() - self._last
            if silent_s < self._quiet_s:
                self._wait(self._quiet_s - silent_s)
                return
            counts, self._counts = dict(self._counts), Counter()
        self._over(counts)

    def _wait(self, pause_s: float) -> None:
        timer = threading.Timer(pause_s, self.look)
        timer.daemon = True
        timer.start()


def kind_of(record: logging.LogRecord) -> str:
    """Name the kind of a line: its words without their values; lost connections are all one."""
    words = VALUES.sub("…", str(record.msg))
    return CUT if CUT_WORDS.search(words) else f"{record.name}: {words}"


def say_over(counts: dict[str, int]) -> None:
    """Write the line that an outage is over."""
    structlog.get_logger("infra.kafka").warning(
        "kafka_errors_over", lines=sum(counts.values()), quiet_s=QUIET_S, of_each_kind=counts
    )
