"""Somebody who does not want to know how far it is: for running the demo's day in a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Nobody:
    def advance(self, count: int = 1) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def reach(self, done: int, total: int | None = None) -> None:
        pass


@contextmanager
def no_progress(name: str, total: int | None) -> Iterator[Nobody]:
    yield Nobody()


def silent(message: str) -> None:
    pass
