"""`daybook settings`: every setting, its value now, and what it means.

Invariant: the list is made from `infra/settings.py`; secrets are not shown.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import typer

from infra.cli.console import Json, show_json, show_table
from infra.cli.context import settings_in_use
from infra.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add this page's command."""
    app.command("settings")(settings_command)


def settings_command(ctx: typer.Context, as_json: Json = False) -> None:
    """Show every setting: environment variable, value in use, meaning.

    \b
    Examples:
      daybook settings
      DAYBOOK_PORT=9000 daybook settings --json
    """
    settings = settings_in_use(ctx)
    rows = [
        {
            "variable": f"DAYBOOK_{name.upper()}",
            "value": _shown(settings, name),
            "default": None if field.default is None else str(field.default),
            "description": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        show_json(rows)
        return
    show_table(
        ["variable", "value", "meaning"],
        [(row["variable"], row["value"], row["description"]) for row in rows],
    )


def _shown(settings: Settings, name: str) -> str | None:
    value = getattr(settings, name)
    if value is None:
        return None
    if name == "database_url" and urlsplit(value).password:
        return str(value).replace(f":{urlsplit(value).password}@", ":***@")
    return str(value)
