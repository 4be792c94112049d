"""`daybook backup|restore|restore-mark`: infra/backup.md walks through them.

Invariant: nothing that exists is overwritten; what was restored is marked before it is served.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra import audit
from infra.backup import BackupRefused, Restored, mark_restored, restore_backup, take_backup
from infra.cli.console import Json, say, show_json
from infra.cli.context import connected, database, settings_in_use
from infra.kafka import delete_topics
from infra.postgres import embedded_postgres
from infra.settings import Settings
from ledger.failover import CommittingConnection, address_of

DeleteTopics = Annotated[
    bool,
    typer.Option(
        "--delete-topics",
        help="On Kafka: delete both topics; the relay makes them again and publishes the log anew.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.command("backup")(backup_command)
    app.command("restore")(restore_command)
    app.command("restore-mark")(restore_mark_command)


def backup_command(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="The file to write, e.g. daybook.tar.")],
    as_json: Json = False,
) -> None:
    """Back up the whole database into one file while everything works.

    Prints the log's digest as it was when the backup began: keep that line where the database's
    administrators cannot write, and verify a restored database against it.

    \b
    Example:
      daybook backup /backups/2026-01-31.tar
    """
    with connected(settings_in_use(ctx), CommittingConnection) as conn:
        digest = audit.digest(conn)
        size = take_backup(address_of(conn), path)
    if as_json:
        show_json({"path": str(path), "bytes": size, "digest": digest})
    else:
        say(f"{path}: {size:,} bytes")
        typer.echo(digest.line())


def restore_command(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The backup.")],
    delete_topics: DeleteTopics = False,
    as_json: Json = False,
) -> None:
    """Make this home's embedded database from a backup, and mark it as restored.

    \b
    Example:
      daybook --home /new/home restore /backups/2026-01-31.tar
    """
    settings = settings_in_use(ctx)
    if settings.database_url:
        msg = "this restores the embedded database; for another server see infra/backup.md"
        raise BackupRefused(msg)
    restore_backup(path, settings.postgres_dir)
    with embedded_postgres(settings.postgres_dir) as postgres:
        _show(_marked(settings, postgres.url, topics=delete_topics), as_json=as_json)


def restore_mark_command(
    ctx: typer.Context, delete_topics: DeleteTopics = False, as_json: Json = False
) -> None:
    """Say that this database was restored, however it was, before anything is started on it.

    The log begins its next incarnation: positions and messages of the one before are not believed
    any more. `daybook restore` has done this already.

    \b
    Example:
      DAYBOOK_DATABASE_URL=postgresql://… daybook restore-mark --delete-topics
    """
    settings = settings_in_use(ctx)
    with database(settings) as url:
        _show(_marked(settings, url, topics=delete_topics), as_json=as_json)


def _marked(settings: Settings, url: str, *, topics: bool) -> Restored:
    restored = mark_restored(url)
    if topics:
        names = (settings.operations_topic, settings.results_topic)
        delete_topics(settings.kafka_bootstrap, names)
    return restored


def _show(restored: Restored, *, as_json: bool) -> None:
    if as_json:
        show_json(restored)
        return
    say(
        f"log {restored.log_id} goes on as incarnation {restored.incarnation}: it ends at position "
        f"{restored.log_position:,}, the books are at {restored.books_position:,}"
    )
