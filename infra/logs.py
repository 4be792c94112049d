"""Log lines of every process: one event a line, for people or as JSON, on standard error.

Invariant: standard output is for answers only; a line carries time, level, event and its fields.
"""

from __future__ import annotations

import logging
import sys

import structlog

from infra.settings import Settings


def set_up_logs(settings: Settings) -> None:
    """Configure structlog, and the loggers of the libraries, for this process."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=max(level, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(message)s"
    )
    logging.getLogger("kafka").setLevel(max(level, logging.ERROR))
