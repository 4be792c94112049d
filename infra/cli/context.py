"""What a command starts from: the settings in use, a client of the API, or the database.

Invariant: commands that read or post go through the API when it is theirs to answer; audit,
rebuild, rules and migrations go to the database itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from psycopg import Connection

from infra.client import ApiUnavailable, DaybookClient
from infra.postgres import embedded_postgres
from infra.serve import running_server
from infra.settings import Settings, load_settings
from ledger.deadlines import DEADLINES
from ledger.failover import CommittingConnection


class NoKey(Exception):
    """There is no API key to send: the server was never started from this home."""


def settings_in_use(ctx: typer.Context) -> Settings:
    """Return the environment's settings with the global options on top."""
    found = ctx.find_object(Settings)
    return load_settings() if found is None else found


def url_of(settings: Settings) -> str:
    """Return the API's address: named, else what the server of this home says, else default."""
    if settings.url is None:
        state = running_server(settings.home)
        if state is not None:
            return str(state["url"])
    return settings.api_url


def key_of(settings: Settings) -> str:
    """Return the key to send. Raises `NoKey`."""
    if settings.key is not None:
        return settings.key.get_secret_value()
    try:
        return settings.key_path.read_text("ascii").strip()
    except FileNotFoundError:
        msg = (
            f"no key in {settings.key_path}: start `daybook serve` first, "
            "or name a home (--home) or a key (DAYBOOK_KEY)"
        )
        raise NoKey(msg) from None


@contextmanager
def api(ctx: typer.Context, *, book: str | None = None) -> Iterator[DaybookClient]:
    """Open a client of the API for the book in use."""
    settings = settings_in_use(ctx)
    with DaybookClient(
        url_of(settings), key=key_of(settings), book=book or settings.book
    ) as client:
        yield client


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """Give the database's URL; an embedded one is started, or shared, for as long as needed.

    Raises `ApiUnavailable` when this home has no database yet.
    """
    if settings.database_url:
        yield settings.database_url
        return
    if not (settings.postgres_dir / "cluster" / "PG_VERSION").exists():
        msg = (
            f"there is no database in {settings.home}: start `daybook serve` first, "
            "or name one (--home, or DAYBOOK_DATABASE_URL)"
        )
        raise ApiUnavailable(msg)
    with embedded_postgres(settings.postgres_dir) as postgres:
        yield postgres.url


@contextmanager
def connected(settings: Settings, kind: type[CommittingConnection]) -> Iterator[Connection[Any]]:
    """Connect in autocommit to the database, to the one host of several that commits.

    Who only reads asks for a `CommittingConnection`, who writes for a `ProvenConnection`.
    Raises `ApiUnavailable` as `database` does, and psycopg.OperationalError.
    """
    with database(settings) as url, kind.connect(url, autocommit=True, **DEADLINES) as conn:
        yield conn


def read_input(path: str) -> bytes:
    """Return a file's bytes, or those of standard input for `-`."""
    if path == "-":
        return typer.get_binary_stream("stdin").read()
    return Path(path).read_bytes()


def fields(item: dict[str, Any], *names: str) -> list[Any]:
    """Return some of an item's values, in order."""
    return [item.get(name) for name in names]
