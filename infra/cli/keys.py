"""`daybook keys …`: make, list and revoke API keys, in the database itself.

Invariant: a key is shown once, when it is made; the database keeps its hash only.
"""

from __future__ import annotations

from typing import Annotated

import typer

from infra.cli.console import Json, out, say, show_json, show_table
from infra.cli.context import connected, settings_in_use
from ledger.failover import CommittingConnection, ProvenConnection
from ledger.principals import SCOPES, SELECT_KEYS, create_key, revoke_keys

keys_app = typer.Typer(help="API keys: who may do what.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.add_typer(keys_app, name="keys")


@keys_app.command("create")
def create(
    ctx: typer.Context,
    principal: Annotated[str, typer.Argument(help="Who will use it.")],
    scope: Annotated[list[str], typer.Option(help=f"One of {', '.join(SCOPES)}; repeatable.")],
    only_book: Annotated[str | None, typer.Option(help="Good for this book only.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once.

    \b
    Example:
      daybook keys create gateway --scope post --scope read
    """
    with connected(settings_in_use(ctx), ProvenConnection) as conn:
        key = create_key(conn, principal, scope, only_book)
    if as_json:
        show_json({"principal": principal, "scopes": sorted(set(scope)), "key": key})
    else:
        out().print(key, markup=False)


@keys_app.command("list")
def list_keys(ctx: typer.Context, as_json: Json = False) -> None:
    """List keys: whose, what they permit, since when, whether revoked.

    \b
    Example:
      daybook keys list
    """
    with connected(settings_in_use(ctx), CommittingConnection) as conn:
        rows = conn.execute(SELECT_KEYS).fetchall()
    names = ("key_hash", "principal", "scopes", "book_id", "created_at", "revoked_at")
    items = [dict(zip(names, row, strict=True)) for row in rows]
    if as_json:
        show_json(items)
        return
    show_table(
        ["principal", "scopes", "book", "made", "revoked", "hash"],
        [
            (
                item["principal"],
                " ".join(item["scopes"]),
                item["book_id"] or "all",
                item["created_at"].isoformat(timespec="seconds"),
                item["revoked_at"] and item["revoked_at"].isoformat(timespec="seconds"),
                item["key_hash"][:12],
            )
            for item in items
        ],
    )


@keys_app.command("revoke")
def revoke(
    ctx: typer.Context,
    principal: Annotated[str, typer.Argument(help="Whose keys.")],
    as_json: Json = False,
) -> None:
    """Revoke every key of a principal; they are refused everywhere within seconds.

    \b
    Example:
      daybook keys revoke gateway
    """
    with connected(settings_in_use(ctx), ProvenConnection) as conn:
        count = revoke_keys(conn, principal)
    if as_json:
        show_json({"principal": principal, "revoked": count})
    else:
        say(f"{count} keys of {principal} revoked")
