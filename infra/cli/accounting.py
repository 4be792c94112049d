"""`daybook rules|repair|rebuild`: what accountants and operators decide in the books.

Invariant: rules and repairs are decisions in the log, written here and performed by the consumers;
every command is safe to repeat.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from accounting.ruleset import Ruleset
from accounting.ruleset_errors import RuleError
from accounting.ruleset_files import SHIPPED, load_ruleset
from consumers import repair
from consumers.rebuild import drop_old_schemas, rebuild
from infra.cli.console import Json, money, out, progress_bar, say, show_json, show_pairs, show_table
from infra.cli.context import database, settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.decision_log import decision_log
from infra.first_start import publish_rules
from ledger.principals import LOCAL_PRINCIPAL
from projections.parked import ParkedFilter
from projections.tables import connect_to

Directory = Annotated[
    Path | None, typer.Argument(help="Folder of TOML files; default: the shipped rules.")
]
Added = Annotated[
    list[Path] | None, typer.Option("--with", help="A file or folder added to it; repeatable.")
]
Reason = Annotated[str | None, typer.Option(help="Only parked for this reason, e.g. no_rule.")]
Type = Annotated[str | None, typer.Option("--type", help="Only this business type.")]
Maker = Annotated[str, typer.Option(help="Who decides; kept in the log.")]

rules_app = typer.Typer(help="Chart and posting rules: check and publish.", no_args_is_help=True)
repair_app = typer.Typer(help="Parked operations: list, explain, retry.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.add_typer(rules_app, name="rules")
    app.add_typer(repair_app, name="repair")
    app.command("rebuild")(rebuild_command)


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


# --- repair ---------------------------------------------------------------------------------


@repair_app.command("list")
def list_parked(
    ctx: typer.Context, reason: Reason = None, kind: Type = None, as_json: Json = False
) -> None:
    """List what is parked, and what waits behind it, oldest first.

    Exit code 0 when nothing is parked, 1 when something is.
    """
    settings = settings_in_use(ctx)
    wanted = ParkedFilter(reason=reason, business_type=kind)
    with database(settings) as url, connect_to(url) as conn:
        found = list(repair.every_parked(conn, settings.book, wanted))
    if as_json:
        show_json(found)
    else:
        show_table(
            ["position", "operation", "type", "date", "status", "reason", "waits for"],
            [
                (
                    item.position,
                    item.operation_id,
                    item.business_type,
                    item.business_date,
                    item.status,
                    f"{item.reason or ''} {item.detail or ''}".strip(),
                    item.waits_for,
                )
                for item in found
            ],
            right=("position",),
            footer=f"{len(found):,} operations" if found else None,
        )
    if found:
        raise typer.Exit(ExitCode.NO)


@repair_app.command("explain")
def explain(
    ctx: typer.Context,
    operation_id: Annotated[str, typer.Argument(help="A parked or waiting operation.")],
    as_json: Json = False,
) -> None:
    """Explain why an operation is parked, and what a retry would make of it now."""
    settings = settings_in_use(ctx)
    with database(settings) as url, connect_to(url) as conn:
        found = repair.explain(conn, settings.book, operation_id)
    if as_json:
        show_json(found)
        return
    parked, operation, tried = found.parked, found.operation, found.retry
    show_pairs(
        [
            ("operation", parked.operation_id),
            ("type, date", f"{parked.business_type}, {parked.business_date}"),
            ("status", f"{parked.status}: {parked.reason or ''} {parked.detail or ''}"),
            ("waits for", parked.waits_for or "–"),
            ("rules tried", parked.ruleset_hash and parked.ruleset_hash[:12]),
            ("a retry now", f"{tried.becomes} {tried.reason or ''} {tried.detail or ''}"),
        ]
    )
    show_table(
        ["leg", "kind", "account", "subject", "amount", "currency"],
        [
            (
                leg.no,
                leg.kind,
                leg.account,
                leg.subject,
                money(leg.amount_minor, leg.currency),
                leg.currency,
            )
            for leg in operation.legs
        ],
        right=("leg", "amount"),
    )
    for voucher in tried.vouchers:
        show_table(
            ["side", "subject", "account", "amount", "currency"],
            [
                (
                    line.side,
                    line.subject,
                    line.account,
                    money(line.amount_minor, line.currency),
                    line.currency,
                )
                for line in voucher.lines
            ],
            right=("amount",),
            title=f"Voucher that a retry would make (rule {voucher.rule_id})",
        )


@repair_app.command("retry")
def retry(
    ctx: typer.Context,
    operation_ids: Annotated[
        list[str] | None, typer.Argument(help="Operations; default: everything parked.")
    ] = None,
    reason: Reason = None,
    kind: Type = None,
    ruleset_hash: Annotated[
        str | None, typer.Option("--rules", help="Use this published ruleset (its hash).")
    ] = None,
    note: Annotated[str, typer.Option(help="Why; kept in the log.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would do.")] = False,
    maker: Maker = LOCAL_PRINCIPAL,
    as_json: Json = False,
) -> None:
    """Try parked operations again, after the cause is fixed; safe to repeat.

    The order is a decision in the log; a running consumer performs it. Exit code 0 when nothing
    that was tried is parked or waiting any more, 1 otherwise, 3 when no consumer came.

    \b
    Examples:
      daybook repair retry --dry-run
      daybook repair retry --reason no_rule --note "rule added"
    """
    settings = settings_in_use(ctx)
    wanted = ParkedFilter(
        reason=reason,
        business_type=kind,
        operation_ids=tuple(operation_ids) if operation_ids else None,
    )
    with database(settings) as url, connect_to(url) as conn:
        if dry_run:
            tried = list(repair.try_dry(conn, settings.book, wanted, ruleset_hash=ruleset_hash))
            _show_tried(tried, as_json=as_json)
            if any(item.becomes == "parked" for item in tried):
                raise typer.Exit(ExitCode.NO)
            return
        with decision_log(url) as decisions, progress_bar("repairing") as bar:
            report = repair.retry(
                conn,
                decisions,
                settings.book,
                wanted,
                maker=maker,
                ruleset_hash=ruleset_hash,
                note=note,
                wait=lambda: time.sleep(0.02),
                progress=bar.reach,
            )
    _show_repaired(report, as_json=as_json)


def _show_tried(tried: list[repair.Tried], *, as_json: bool) -> None:
    if as_json:
        show_json(tried)
        return
    show_table(
        ["operation", "type", "would become", "reason"],
        [
            (
                item.operation_id,
                item.business_type,
                item.becomes,
                f"{item.reason or ''} {item.detail or ''}".strip(),
            )
            for item in tried
        ],
    )


def _show_repaired(report: repair.RetryReport, *, as_json: bool) -> None:
    open_still = report.count("parked") + report.count("waiting")
    if as_json:
        show_json(report)
    elif not report.operations:
        out().print("nothing is parked that could be tried", markup=False)
    else:
        statuses = ("vouchered", "non_posting", "parked", "waiting")
        counts = ", ".join(f"{report.count(status):,} {status}" for status in statuses)
        orders = ", ".join(f"{position:,}" for position in report.orders) or "none"
        out().print(f"tried {len(report.operations):,}: {counts} (orders at {orders})")
    if not report.performed:
        say("no consumer performed the order in time; it stays in the log and will be performed")
        raise typer.Exit(ExitCode.UNAVAILABLE)
    if open_still:
        raise typer.Exit(ExitCode.NO)


# --- rebuild --------------------------------------------------------------------------------


def rebuild_command(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Rebuild and compare, but keep the live books.")
    ] = False,
    without_compare: Annotated[
        bool, typer.Option("--no-compare", help="Swap although the books differ (after a fix).")
    ] = False,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Afterwards drop what earlier swaps have kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the books again from the log, beside the live ones; compare row for row; swap.

    Posting goes on meanwhile. Exit code 1 when the rebuilt books differ (nothing is swapped).

    \b
    Examples:
      daybook rebuild --check
      daybook rebuild --drop-old
    """
    with database(settings_in_use(ctx)) as url:
        with progress_bar("rebuilding") as bar:
            report = rebuild(url, compare=not without_compare, swap=not check, progress=bar.reach)
        if drop_old and report.difference is None:
            with connect_to(url) as conn:
                drop_old_schemas(conn)
    if as_json:
        show_json(report)
    else:
        out().print(
            f"{report.operations:,} operations in {report.seconds:.1f} s "
            f"({report.operations_per_s:,.0f}/s), to position {report.position:,}",
            markup=False,
        )
        said = "swapped" if report.swapped else "not swapped"
        verdict = "the same books" if report.difference is None else f"DIFFERS: {report.difference}"
        out().print(f"{verdict}; {said}", markup=False)
    if report.difference is not None:
        raise typer.Exit(ExitCode.NO)
