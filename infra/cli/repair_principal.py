"""Who decides on the command line: the principal of an API key, looked up in the database.

Invariant: no decision is written under a name that somebody only typed.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from psycopg import Connection
from pydantic import SecretStr

from infra.cli.context import key_of
from infra.settings import Settings, with_overrides
from ledger.errors import NotAuthenticated
from ledger.principals import Principal, key_hash, select_principal

Key = Annotated[
    str | None,
    typer.Option(help="API key of who decides (DAYBOOK_KEY; default: this machine's own)."),
]


def settings_with_key(settings: Settings, key: str | None) -> Settings:
    """Return settings that send this key, if one is given."""
    return with_overrides(settings, key=None if key is None else SecretStr(key))


def principal_of(
    conn: Connection[Any], settings: Settings, key: str | None, scope: str
) -> Principal:
    """Return who the key is.

    Raises NotAuthenticated for an unknown or revoked key, NotPermitted when it lacks the scope
    or is for another book, NoKey without any.
    """
    given = key_of(settings_with_key(settings, key))
    found = select_principal(conn, key_hash(given))
    if found is None:
        raise NotAuthenticated("this key is unknown or revoked")
    found.require(scope)
    found.require_book(settings.book)
    return found
