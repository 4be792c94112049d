"""Log lines of every process: one event a line, for people or as JSON, on standard error.

At level debug every process writes a line for each operation it has done something with; `grep` an
operation id in the lines of all processes and its whole way is there. Invariant: standard output is
for answers only; a line carries time, level, event and its fields.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import TextIO, cast

import structlog

from infra.kafka_lines import OutageLines
from infra.settings import Settings
from ledger.hops import Hop, hops

LINES: Counter[str] = Counter()  # lines of this process by level, for its metrics


def count_line(
    _logger: object, method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Count a line that is about to be written."""
    LINES[str(event.get("level", method))] += 1
    return event


HOP_EVENTS = {
    "api": "operation_answered",
    "engine": "operation_settled",
    "relay": "operation_published",
    "consumer": "operation_posted",
    "results": "result_applied",
}


def log_hop(hop: Hop) -> None:
    """Write one line for what this process did with one operation."""
    structlog.get_logger("operations").debug(
        HOP_EVENTS[hop.part],
        part=hop.part,
        operation_id=hop.operation_id,
        book_id=hop.book_id,
        took_ms=round((hop.ended_ns - hop.began_ns) / 1e6, 3),
        **hop.facts,
        **({} if hop.caller is None else {"traceparent": hop.caller}),
    )


class _StandardError:
    """Whatever standard error is when a line is written: it may be another file by then."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def set_up_logs(settings: Settings) -> None:
    """Configure structlog, and the loggers of the libraries, for this process."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        count_line,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    standard_error = cast("TextIO", _StandardError())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(standard_error),
        cache_logger_on_first_use=True,
    )
    lines_of_libraries = logging.StreamHandler(standard_error)
    lines_of_libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    if level > logging.DEBUG:
        lines_of_libraries.addFilter(OutageLines())
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[lines_of_libraries])
    logging.getLogger("kafka").setLevel(max(level, logging.ERROR))
    if level <= logging.DEBUG:
        hops.listen(log_hop)
