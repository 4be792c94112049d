"""`daybook demo`: the whole system in a fresh folder, a generated payment day, and its verdict.

Invariant: exit code 0 means that every answer was the one foretold, the trial balance ties, the
identity holds and the audit passes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from msgspec import convert

from infra.cli.auditing import show_verdict
from infra.cli.console import Bar, Json, out, progress_bar, say, show_json, show_pairs
from infra.cli.context import database, settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.cli.serving import ParentPid
from infra.cli.sheets import show_identity, show_trial_balance
from infra.demo.figures import Figures, Latency
from infra.demo.payment_day import OPERATIONS, OPERATIONS_MIN, SEED, PaymentDay, payment_day
from infra.demo.posting import AnswerDiffers
from infra.demo.run import ADDED_RULE, run_day
from infra.demo.system import System, SystemFailed, fresh_home, own_settings, own_topics, system
from infra.supervisor import end_with_parent
from ledger.audit import Verdict


def add_to(app: typer.Typer) -> None:
    """Add this page's command."""
    app.command("demo")(demo_command)


def demo_command(
    ctx: typer.Context,
    operations: Annotated[
        int, typer.Option(min=OPERATIONS_MIN, help="Operations of the day.")
    ] = OPERATIONS,
    seed: Annotated[int, typer.Option(help="One seed makes one day.")] = SEED,
    bus: Annotated[str | None, typer.Option(help="log or kafka (broker: make kafka).")] = None,
    home: Annotated[
        Path | None, typer.Option(help="A folder of the demo's own; default: HOME/demo.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API; default: a free one.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="On a terminal: serve on until Ctrl-C.")
    ] = False,
    parent_pid: ParentPid = None,
    as_json: Json = False,
) -> None:
    """Start everything in a fresh folder, post a payment day through HTTP, follow it, audit it.

    The day is generated from a seed: recharges with channel fees, payments with a hot merchant,
    refunds, withdrawals and payouts, holds captured and expired, rejections, a recharge to a
    frozen account, and gift-voucher sales that no rule knows: they are parked, the rule is
    published, and they are repaired. Exit code 1 when anything is not as it must be.

    \b
    Examples:
      daybook demo
      daybook demo --operations 50000 --keep
      daybook demo --bus kafka --json
    """
    if parent_pid is not None:
        end_with_parent(parent_pid)
    given = settings_in_use(ctx)
    settings = own_settings(given, home=home or given.home / "demo", bus=bus, port=port)
    fresh_home(settings.home)
    day = payment_day(operations, seed)
    say(
        f"Starting Daybook in {settings.home} ({settings.bus} bus), "
        f"{day.operations:,} operations on {day.business_date} ..."
    )
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with own_topics(settings), system(settings, open_date=day.business_date) as running:
            figures = _run(day, seed, running)
            _show(figures, running, as_json=as_json)
            if keep and sys.stdout.isatty():
                say("Serving on; stop with Ctrl-C.")
                signal.pause()
    except (AnswerDiffers, SystemFailed, TimeoutError) as failed:
        say(f"daybook demo: {failed}")
        raise typer.Exit(ExitCode.NO) from None
    except ExceptionGroup as group:
        say("\n".join(f"daybook demo: {error}" for error in group.exceptions))
        raise typer.Exit(ExitCode.NO) from None
    if not figures.passed:
        raise typer.Exit(ExitCode.NO)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _run(day: PaymentDay, seed: int, running: System) -> Figures:
    @contextmanager
    def progress(name: str, total: int | None) -> Iterator[Bar]:
        with progress_bar(name, total) as bar:
            yield bar

    with database(running.settings) as url:
        return run_day(day, seed, running, url, progress=progress, say=say)


def _show(figures: Figures, running: System, *, as_json: bool) -> None:
    if as_json:
        show_json(figures)
        return
    show_trial_balance(figures.trial_balance)
    show_identity(figures.identity)
    show_verdict(convert(figures.audit, Verdict))
    show_pairs(_day_pairs(figures), title="The day")
    out().print(_next_steps(running), markup=False)


def _day_pairs(figures: Figures) -> list[tuple[str, object]]:
    rates = figures.rates
    posted = f"{rates.operations:,} operations in {rates.posted_s:.1f} s"
    single = f"{rates.single_postings:,} at {rates.single_per_s:,}/s"
    last_ms = rates.last_answer_to_trial_balance_s * 1e3
    visible = f"{_latency(rates.answer_to_trial_balance)}; after the load {last_ms:,.0f} ms"
    return [
        ("answers", _counted(figures.endings)),
        ("posted", f"{posted} = {rates.operations_per_s:,}/s"),
        ("single postings", f"{single}, {_latency(rates.single_latency)}"),
        ("batches", f"{rates.batch_operations:,} operations in {rates.batches:,} NDJSON batches"),
        ("answer → trial balance", visible),
        ("parked", _counted(figures.parked_before_repair)),
        ("repaired", f"{_counted(figures.repaired)} ({ADDED_RULE.name} published)"),
        ("vouchers", f"{figures.vouchers:,}, hash {figures.voucher_hash[:16]}"),
        ("verdict", "everything ties" if figures.passed else "SOMETHING DOES NOT TIE"),
        ("time", f"{figures.elapsed_s:.1f} s after the start of the servers"),
    ]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _latency(latency: Latency) -> str:
    return f"p50 {latency.p50_ms:,.1f} ms, p99 {latency.p99_ms:,.1f} ms"


def _next_steps(running: System) -> str:
    """Say what to try next; the commands work while something serves from this home."""
    url = running.url
    here = os.path.relpath(sys.argv[0])  # as it was called: on the PATH or not
    daybook = f"{here if here.endswith('daybook') else 'daybook'} --home {running.settings.home}"
    return f"""
What to try next
  {daybook} serve --port {running.settings.port}      (this very book, again)
  {daybook} trial-balance --level 1
  {daybook} accounts show M-FLASH-SALE
  {daybook} vouchers --type refund --limit 3
  {daybook} audit replay C-00001
  curl -H "Authorization: Bearer $(cat {running.settings.key_path})" \\
       {url}/v1/trial-balance
  curl -H "Authorization: Bearer $(cat {running.settings.key_path})" \\
       -H "Content-Type: application/json" {url}/v1/operations -d '{{
         "operation_id": "try-1", "business_type": "recharge", "amounts": {{"fee": 60}},
         "legs": [{{"kind": "credit", "account": "C-00001", "amount": 10000, "currency": "CNY"}}]}}'
"""
