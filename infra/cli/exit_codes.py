"""Exit codes of every `daybook` command; documented in `daybook --help`.

Invariant: 0 means that what was asked for is true or done; a script needs nothing else.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ended as."""

    OK = 0
    NO = 1  # a negative verdict: rejected, differs, does not tie, still parked
    USAGE = 2  # the command line or a file cannot be read as what it claims to be
    UNAVAILABLE = 3  # server, database or broker do not answer: try again
    REFUSED = 4  # the server refused the request: permission, unknown thing, bad request
    DEFECT = 70  # an error that nobody foresaw, with its traceback


EXIT_CODES_HELP = (
    "Exit codes: 0 done or true; 1 a negative verdict (rejected, differs, still parked); "
    "2 usage; 3 server, database or broker unavailable (try again); 4 refused by the server; "
    "70 a defect of ours, with its traceback."
)
