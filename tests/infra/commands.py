"""Commands of the command line as tests run them, and how they ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from infra.cli import app, main


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Daybook = Callable[..., Ended]


def in_this_process(capsys: pytest.CaptureFixture[str]) -> Daybook:
    """Return what runs a command in this process, with this process's environment."""

    def run(*words: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(lambda: app(list(words)))
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run
