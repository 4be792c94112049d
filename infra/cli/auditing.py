"""`daybook audit …`: verify everything, replay one account, keep a digest outside.

Invariant: an audit reads the database itself, in one read-only snapshot, and asks no server.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from infra import audit
from infra.audit import Verdict
from infra.cli.console import Json, money, out, progress_bar, show_json, show_pairs, show_table
from infra.cli.context import connected, database, settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.cli.operation_text import instant_of
from ledger.audit import DigestUnreadable
from ledger.deadlines import DEADLINES
from ledger.failover import CommittingConnection
from ledger.priority import after_postings, server_goes_after_postings

audit_app = typer.Typer(
    help="Prove that nothing was changed or lost, and that the books follow the ledger.",
    no_args_is_help=True,
)
EVENTS_SHOWN = 50


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.add_typer(audit_app, name="audit")


@audit_app.command("verify")
def verify_command(
    ctx: typer.Context,
    against: Annotated[
        str | None,
        typer.Option(help="A digest kept outside: its line, or a file with it on the last line."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify everything and give one verdict; the first difference is named.

    Streams without gaps, balances recomputed from events = heads = projections, vouchers balanced
    and repeated from the log, GL = sum of lines, the identity, controlled subjects = their
    accounts, the seal chain unbroken. Exit code 0 when all agrees, 1 when something differs.

    \b
    Examples:
      daybook audit verify
      daybook audit verify --against digest.txt --json
    """
    kept = None if against is None else _digest_of(against)
    with database(settings_in_use(ctx)) as url:
        verdict = verify(url, digest=kept)
    if as_json:
        show_json(verdict_document(verdict))
    else:
        show_verdict(verdict)
    if not verdict.passed:
        raise typer.Exit(ExitCode.NO)


def verify(url: str, *, digest: audit.Digest | None = None) -> Verdict:
    """Audit ledger and books with a progress bar; what is posted meanwhile goes first."""
    with (
        after_postings(),
        CommittingConnection.connect(url, autocommit=True, **DEADLINES) as conn,
        progress_bar("verifying events") as bar,
    ):
        server_goes_after_postings(conn)
        return audit.verify(conn, digest=digest, on_progress=bar.reach)


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain values, the verdict itself first."""
    plain: dict[str, Any] = msgspec.to_builtins(verdict)
    return {"passed": verdict.passed, **plain}


def show_verdict(verdict: Verdict) -> None:
    """Print a verdict."""
    for check in verdict.checks:
        out().print(f"  ok  {check}", markup=False)
    if verdict.difference is not None:
        out().print(f"  NO  {verdict.difference}", markup=False)
    for note in verdict.notes:
        out().print(f"      {note}", markup=False)
    out().print(
        f"{verdict.events:,} events in {verdict.commits:,} commits, {verdict.operations:,} "
        f"operations, {verdict.accounts:,} accounts, to position {verdict.last_id:,}",
        markup=False,
    )
    out().print("audit passed" if verdict.passed else "AUDIT FAILED", markup=False)


@audit_app.command("replay")
def replay_command(
    ctx: typer.Context,
    number: Annotated[str, typer.Argument(help="Account number.")],
    at: Annotated[
        str | None, typer.Option(help="Instant with UTC offset, e.g. 2026-01-30T12:00:00Z.")
    ] = None,
    at_version: Annotated[int | None, typer.Option(help="Version of the account.")] = None,
    at_date: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="End of a business date.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Events shown, the last ones; 0 = all.")
    ] = EVENTS_SHOWN,
    as_json: Json = False,
) -> None:
    """Recompute an account from its events alone, as of any moment, and show what made it.

    \b
    Examples:
      daybook audit replay C-00001
      daybook audit replay C-00001 --at-version 3
      daybook audit replay C-00001 --at 2026-01-30T12:00:00Z --json
    """
    settings = settings_in_use(ctx)
    instant = None if at is None else instant_of(at)
    date = None if at_date is None else at_date.date()
    with connected(settings, CommittingConnection) as conn:
        found = audit.replay(
            conn, settings.book, number, at=instant, at_version=at_version, at_date=date
        )
    if as_json:
        show_json(found)
        return
    account = found.account
    show_pairs(
        [
            ("account", account.number),
            ("version", account.version),
            ("balance", f"{money(account.balance_minor, account.currency)} {account.currency}"),
            ("held", money(account.held_minor, account.currency)),
            ("available", money(account.available_minor, account.currency) or "no limit"),
        ]
    )
    shown = found.events[-limit:] if limit else found.events
    show_table(
        ["version", "position", "event", "amount", "balance", "date", "booked at"],
        [
            (
                item.version,
                item.position,
                item.name,
                money(getattr(item.event, "amount_minor", None), account.currency),
                money(item.balance_minor, account.currency),
                item.event.business_date,
                item.event.booked_at,
            )
            for item in shown
        ],
        right=("version", "position", "amount", "balance"),
        footer=f"{len(found.events):,} events made this balance",
    )


@audit_app.command("digest")
def digest_command(ctx: typer.Context, _as_json: Json = False) -> None:
    """Print the end of the log as one line of JSON; keep it outside the database.

    A log that was cut off or rewritten later does not fit it: `audit verify --against`.

    \b
    Example:
      daybook audit digest >> /safe/place/digests.txt
    """
    with connected(settings_in_use(ctx), CommittingConnection) as conn:
        typer.echo(audit.digest(conn).line())  # the same with and without --json


def _digest_of(against: str) -> audit.Digest:
    """Read the kept digest; one that cannot be read is wrong usage and says nothing of the log."""
    try:
        return audit.digest_from_line(_line_of(against))
    except (DigestUnreadable, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--against {against[:200]}: {error}") from error


def _line_of(against: str) -> str:
    if against.lstrip().startswith("{"):
        return against
    lines = Path(against).read_text("utf-8").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")
