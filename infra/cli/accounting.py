"""`daybook rules`: chart and posting rules, checked and published.

Invariant: rules are decisions in the log, written here and met by the consumers; every command
is safe to repeat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from accounting.ruleset import Ruleset
from accounting.ruleset_errors import RuleError
from accounting.ruleset_files import SHIPPED, load_ruleset
from infra.cli.console import Json, out, say, show_json
from infra.cli.context import database, settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.first_start import publish_rules
from ledger.principals import LOCAL_PRINCIPAL

Directory = Annotated[
    Path | None, typer.Argument(help="Folder of TOML files; default: the shipped rules.")
]
Added = Annotated[
    list[Path] | None, typer.Option("--with", help="A file or folder added to it; repeatable.")
]
Maker = Annotated[str, typer.Option(help="Who decides; kept in the log.")]

rules_app = typer.Typer(help="Chart and posting rules: check and publish.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.add_typer(rules_app, name="rules")


# --- rules ----------------------------------------------------------------------------------


@rules_app.command("check")
def check_rules(directory: Directory = None, added: Added = None, as_json: Json = False) -> None:
    """Check a chart and its rules as a whole; every finding names file, rule and line.

    \b
    Examples:
      daybook rules check
      daybook rules check my-rules/ --with accounting/shipped/examples/voucher_sale.toml
    """
    ruleset = _loaded(directory, added, as_json=as_json)
    if as_json:
        show_json({"version": ruleset.version, "hash": ruleset.hash, "rules": len(ruleset.rules)})
    else:
        out().print(
            f"valid: {ruleset.version}, {len(ruleset.chart.subjects)} subjects, "
            f"{len(ruleset.rules)} rules, hash {ruleset.hash[:12]}",
            markup=False,
        )


@rules_app.command("publish")
def publish(
    ctx: typer.Context,
    directory: Directory = None,
    added: Added = None,
    effective_from: Annotated[
        str, typer.Option(help="First business date, YYYY-MM-DD; default: every date.")
    ] = "",
    maker: Maker = LOCAL_PRINCIPAL,
    as_json: Json = False,
) -> None:
    """Check rules, then publish them into the log for the book in use.

    They hold for what is booked after this position; what is parked is tried again by
    `daybook repair retry`.

    \b
    Example:
      daybook rules publish --with accounting/shipped/examples/voucher_sale.toml
    """
    settings = settings_in_use(ctx)
    ruleset = _loaded(directory, added, as_json=as_json)
    with database(settings) as url:
        position = publish_rules(
            url, settings.book, ruleset, maker=maker, effective_from=effective_from
        )
    if as_json:
        show_json({"hash": ruleset.hash, "version": ruleset.version, "position": position})
    elif position is None:
        say(f"{ruleset.version} ({ruleset.hash[:12]}) is the book's last ruleset already")
    else:
        say(f"published {ruleset.version} ({ruleset.hash[:12]}) at position {position:,}")


def _loaded(directory: Path | None, added: list[Path] | None, *, as_json: bool) -> Ruleset:
    found = load_ruleset(directory or SHIPPED, *(added or []))
    if isinstance(found, Ruleset):
        return found
    _show_findings(found, as_json=as_json)
    raise typer.Exit(ExitCode.NO)


def _show_findings(findings: list[RuleError], *, as_json: bool) -> None:
    if as_json:
        show_json({"errors": findings})
        return
    for finding in findings:
        out().print(str(finding), markup=False)
    out().print(f"{len(findings)} errors; nothing was published", markup=False)
