"""`daybook migrate`: the one command that changes the database's schema, also under load.

Invariant: what it cannot bring forward it leaves as it is, and says why.
"""

from __future__ import annotations

from typing import Annotated

import typer

from infra.cli.console import Json, say, show_json
from infra.cli.context import settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.logs import set_up_logs
from infra.postgres import embedded_postgres
from infra.schema import (
    PATIENCE_S,
    SchemaStanding,
    migrate,
    read_migrations,
    schema_standing,
)
from ledger.deadlines import DEADLINES
from ledger.failover import CommittingConnection


def add_to(app: typer.Typer) -> None:
    """Add this page's command."""
    app.command("migrate")(migrate_command)


def migrate_command(
    ctx: typer.Context,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be applied; change nothing.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit 0 if the schema is this program's, 1 if it is not."),
    ] = False,
    patience_s: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds to try while others hold locks.")
    ] = PATIENCE_S,
    as_json: Json = False,
) -> None:
    """Bring the database to this program's schema; safe to repeat, and while operations are posted.

    Each file is applied whole or not at all. One that cannot have its locks in half a second lets
    everybody else go first and tries again. A schema newer than this program is refused.

    \b
    Examples:
      DAYBOOK_DATABASE_URL=postgresql://… daybook migrate --plan
      DAYBOOK_DATABASE_URL=postgresql://… daybook migrate
    """
    settings = settings_in_use(ctx)
    set_up_logs(settings)
    if settings.database_url:
        _run(settings.database_url, plan=plan, check=check, patience_s=patience_s, as_json=as_json)
    else:
        with embedded_postgres(settings.postgres_dir) as postgres:
            _run(postgres.url, plan=plan, check=check, patience_s=patience_s, as_json=as_json)


def _run(url: str, *, plan: bool, check: bool, patience_s: float, as_json: bool) -> None:
    if plan or check:
        with CommittingConnection.connect(url, autocommit=True, **DEADLINES) as conn:
            found = schema_standing(conn, read_migrations())
        _show(found, as_json=as_json)
        refused = found.standing in ("newer", "other")
        if refused or (check and found.standing != "current"):
            raise typer.Exit(ExitCode.NO if check else ExitCode.REFUSED)
        return
    applied = migrate(url, patience_s=patience_s)
    if as_json:
        show_json({"applied": applied})
    else:
        say(f"{applied} migrations applied" if applied else "the schema is up to date")


def _show(found: SchemaStanding, *, as_json: bool) -> None:
    if as_json:
        pending = [str(migration) for migration in found.pending]
        show_json({"standing": found.standing, "words": found.words, "pending": pending})
        return
    say(found.words)
    for migration in found.pending:
        way = "statement by statement" if migration.apart else "in one transaction"
        say(f"  would apply {migration} {way}")
