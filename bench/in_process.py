"""Posting to an engine of this process: documents in, committed answers out, nothing between.

The next jobs are parsed and queued while the engine books the one before, as the API's event loop
does for its callers; the engine's own cap keeps a batch to exactly one job.
"""

from __future__ import annotations

import time
from collections import deque

from bench.documents import batches
from bench.place import BOOK, PRINCIPAL, check_booked
from ledger.api_parse import Parser
from ledger.engine import Engine
from ledger.job import Job
from ledger.ticket import Ticket

IN_FLIGHT_MAX = 3


def engine_s(engine: Engine, reads: Parser, documents: list[bytes], size: int) -> float:
    """Parse and post documents as jobs of a size; return the seconds that took.

    A job of one waits for its answer before the next, as one caller does.
    """
    in_flight_max = 1 if size == 1 else IN_FLIGHT_MAX
    in_flight: deque[Ticket] = deque()
    started = time.perf_counter()
    for part in batches(documents, size):
        submissions = tuple(reads.operation(raw, None, BOOK, PRINCIPAL) for raw in part)
        if len(in_flight) == in_flight_max:
            check_booked(in_flight.popleft().results())
        in_flight.append(engine.submit(Job(book_id=BOOK, submissions=submissions)))
    for ticket in in_flight:
        check_booked(ticket.results())
    return time.perf_counter() - started
