"""`daybook repair list|explain|retry|set-asides`: parked operations and what becomes of them.

Reads and retries go to the database itself; a retry is a decision in the log that the consumers
perform. Invariant: who orders one is the principal of a key, and every command may be repeated.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

import typer
from psycopg import Connection

from accounting.voucher import Voucher
from consumers import repair
from infra.cli.console import Json, out, progress_bar, say, show_json, show_pairs, show_table
from infra.cli.context import database, settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.cli.repair_principal import Key, principal_of
from infra.cli.repair_words import (
    age_words,
    amounts_words,
    base64_of,
    leg_rows,
    reason_words,
    voucher_rows,
)
from infra.decision_log import decision_log
from ledger.books import select_book
from ledger.errors import InvalidRequest
from projections.parked import (
    Original,
    ParkedCount,
    ParkedFilter,
    ParkedOperation,
    SetAsideMessage,
    count_parked,
    select_set_asides,
)
from projections.tables import connect_to

SHOWN = 50
LEG_COLUMNS = ("leg", "kind", "account", "subject", "amount", "currency")
VOUCHER_COLUMNS = ("date", "rule", "subject", "account", "debit", "credit", "")
Reason = Annotated[str | None, typer.Option(help="Only parked for this reason, e.g. no_rule.")]
Type = Annotated[str | None, typer.Option("--type", help="Only this business type.")]
From = Annotated[
    dt.datetime | None,
    typer.Option("--from", formats=["%Y-%m-%d"], help="First business date, YYYY-MM-DD."),
]
To = Annotated[
    dt.datetime | None,
    typer.Option("--to", formats=["%Y-%m-%d"], help="Last business date, YYYY-MM-DD."),
]
Account = Annotated[str | None, typer.Option(help="Only operations with a leg on this account.")]
Limit = Annotated[int | None, typer.Option(help="Operations shown; 0 = all.", min=0)]

repair_app = typer.Typer(
    help="Parked operations: list, explain, retry, override.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Add this page's commands."""
    app.add_typer(repair_app, name="repair")


@repair_app.command("list")
def list_parked(
    ctx: typer.Context,
    reason: Reason = None,
    kind: Type = None,
    from_date: From = None,
    to_date: To = None,
    account: Account = None,
    summary: Annotated[bool, typer.Option("--summary", help="Only counts per reason.")] = False,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List what is parked and what waits behind it, oldest first, with counts per reason.

    Exit code 0 when nothing is parked, 1 when something is. Messages that were set aside are
    shown below; `daybook repair set-asides` has their bytes.

    \b
    Examples:
      daybook repair list --summary
      daybook repair list --reason no_rule --from 2026-01-01 --to 2026-01-31
      daybook repair list --account C-1 --json
    """
    settings = settings_in_use(ctx)
    wanted = wanted_of(reason, kind, from_date, to_date, account)
    now = dt.datetime.now(dt.UTC)
    with database(settings) as url, connect_to(url) as conn:
        select_book(conn, settings.book)
        counts = count_parked(conn, settings.book, wanted, now=now)
        asides = select_set_asides(conn).items
        if as_json and summary:
            show_json({"counts": counts, "set_asides": asides})
        elif as_json:
            every = repair.every_parked(conn, settings.book, wanted, now=now)
            show_json(list(islice(every, limit or None)))
        else:
            shown = SHOWN if limit is None else limit
            every = repair.every_parked(conn, settings.book, wanted, now=now)
            _show_list(counts, () if summary else islice(every, shown or None), asides)
    if counts:
        raise typer.Exit(ExitCode.NO)


def _show_list(
    counts: list[ParkedCount],
    items: Iterable[ParkedOperation],
    asides: tuple[SetAsideMessage, ...],
) -> None:
    shown = list(items)
    total = sum(count.count for count in counts)
    if shown:
        more = "" if len(shown) == total else f"the {len(shown):,} oldest of "
        show_table(
            ["position", "operation", "type", "date", "status", "reason", "amount", "age",
             "waits for"],
            [
                (
                    item.position,
                    item.operation_id,
                    item.business_type,
                    item.business_date,
                    item.status,
                    reason_words(item.reason, item.detail),
                    amounts_words(item.amounts),
                    age_words(item.age_s),
                    item.waits_for,
                )
                for item in shown
            ],
            right=("position", "age"),
            footer=f"{more}{total:,} operations",
        )  # fmt: skip
    show_table(
        ["status", "reason", "type", "count", "amount", "oldest"],
        [
            (
                count.status,
                count.reason,
                count.business_type,
                f"{count.count:,}",
                amounts_words(count.amounts),
                age_words(count.oldest_age_s),
            )
            for count in counts
        ],
        right=("count", "oldest"),
        title="Parked and waiting, per reason",
        footer=f"{total:,} operations" if counts else None,
    )
    if asides:
        _show_set_asides(asides)


@repair_app.command("explain")
def explain(
    ctx: typer.Context,
    operation_id: Annotated[str, typer.Argument(help="A parked or waiting operation.")],
    as_json: Json = False,
) -> None:
    """Explain why an operation is parked, what waits for what, and what a retry would make now.

    \b
    Example:
      daybook repair explain payment-17
    """
    settings = settings_in_use(ctx)
    now = dt.datetime.now(dt.UTC)
    with database(settings) as url, connect_to(url) as conn:
        found = repair.explain(conn, settings.book, operation_id, now=now)
    if as_json:
        show_json(found)
        return
    _show_standing(found)
    show_table(LEG_COLUMNS, leg_rows(found.operation), right=("leg", "amount"))
    for voucher in found.retry.vouchers:
        _show_voucher(voucher, f"Voucher that a retry would make (rule {voucher.rule_id})")


def _show_standing(found: repair.Explanation) -> None:
    parked, tried = found.parked, found.retry
    follows = [_standing_words(each) for each in found.depends_on]
    chain = [_standing_words(each) for each in found.waits_for]
    behind = [f"{each.operation_id} (for {each.waits_for})" for each in found.waiters]
    show_pairs(
        [
            ("operation", parked.operation_id),
            ("type, date", f"{parked.business_type}, {parked.business_date}"),
            ("status", f"{parked.status}: {reason_words(parked.reason, parked.detail)}"),
            ("amount", amounts_words(parked.amounts)),
            ("age", f"{age_words(parked.age_s)}, booked at {parked.booked_at}"),
            (
                "first attempt",
                f"position {parked.first_attempt_position:,}, {parked.first_attempt_at}",
            ),
            ("last attempt", f"position {parked.attempt_position:,}, {parked.last_attempt_at}"),
            ("rules tried", (parked.ruleset_hash and parked.ruleset_hash[:12]) or "–"),
            ("depends on", ", ".join(follows) or "–"),
            ("waits for", " → ".join(chain) or "–"),
            ("behind it", ", ".join(behind) or "–"),
            ("a retry now", f"{tried.becomes} {reason_words(tried.reason, tried.detail)}".strip()),
        ]
    )


def _standing_words(original: Original) -> str:
    return f"{original.operation_id} ({original.status} {original.reason})".replace(" )", ")")


def _show_voucher(voucher: Voucher, title: str) -> None:
    show_table(VOUCHER_COLUMNS, voucher_rows(voucher), right=("debit", "credit"), title=title)


@repair_app.command("retry")
def retry(
    ctx: typer.Context,
    operation_ids: Annotated[
        list[str] | None, typer.Argument(help="Operations; default: everything parked.")
    ] = None,
    reason: Reason = None,
    kind: Type = None,
    from_date: From = None,
    to_date: To = None,
    account: Account = None,
    ruleset_hash: Annotated[
        str | None,
        typer.Option("--rules", help="Use this published ruleset (its hash, or how it begins)."),
    ] = None,
    note: Annotated[str, typer.Option(help="Why; kept in the log.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the vouchers it would make; order nothing.")
    ] = False,
    limit: Limit = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Try parked operations again, after the cause is fixed; safe to repeat, also after a kill.

    Orders of up to 1,000 operations are decisions in the log, one after another; a running
    consumer performs them. Needs a key with scope `repair`, a dry run none. Exit code 0 when
    nothing that was tried is parked or waiting any more, 1 otherwise, 3 when no consumer came.

    \b
    Examples:
      daybook repair retry --dry-run
      daybook repair retry --reason no_rule --note "rule added"
      daybook repair retry --type payment --from 2026-01-01 --account C-1
    """
    settings = settings_in_use(ctx)
    wanted = wanted_of(reason, kind, from_date, to_date, account, operation_ids)
    if limit is not None and not dry_run:
        raise typer.BadParameter("--limit is of --dry-run: a retry tries all that the filter means")
    with database(settings) as url, connect_to(url) as conn:
        named, ruleset_hash = _named(conn, settings.book, operation_ids, ruleset_hash)
        if dry_run:
            tried = list(repair.try_dry(conn, settings.book, wanted, ruleset_hash=ruleset_hash))
            _show_tried(tried, SHOWN if limit is None else limit, as_json=as_json)
            if any(item.becomes == "parked" for item in tried):
                raise typer.Exit(ExitCode.NO)
            return
        maker = principal_of(conn, settings, key, "repair").name
        with decision_log(url) as decisions, progress_bar("repairing") as bar:
            report = repair.retry(
                conn,
                decisions,
                settings.book,
                wanted,
                maker=maker,
                ruleset_hash=ruleset_hash,
                note=note,
                progress=bar.reach,
            )
    _show_repaired(report, named, as_json=as_json)


def _named(
    conn: Connection[Any], book_id: str, operation_ids: list[str] | None, ruleset_hash: str | None
) -> tuple[list[repair.Repaired], str | None]:
    """Say how named operations stand, and the whole hash; raises NotFound for what nobody knows."""
    select_book(conn, book_id)
    if ruleset_hash is not None:
        ruleset_hash = repair.published_hash(conn, book_id, ruleset_hash)
    standing = repair.require_in_books(conn, book_id, operation_ids) if operation_ids else []
    return standing, ruleset_hash


def _show_tried(tried: list[repair.Tried], limit: int, *, as_json: bool) -> None:
    if as_json:
        show_json(tried)
        return
    shown = tried[:limit] if limit else tried
    rows = (row for item in shown for row in _tried_rows(item))
    show_table(["operation", "would become", *VOUCHER_COLUMNS], rows, right=("debit", "credit"))
    counts = Counter(f"{item.becomes} {item.reason or ''}".strip() for item in tried)
    words = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
    more = f" ({len(shown):,} shown)" if len(shown) < len(tried) else ""
    out().print(f"{len(tried):,} would be tried{more}: {words or 'none'}", markup=False)


def _tried_rows(item: repair.Tried) -> Iterator[tuple[object, ...]]:
    becomes = f"{item.becomes} {reason_words(item.reason, item.detail)}".strip()
    name = (item.operation_id, becomes)
    if not item.vouchers:
        yield (*name, *("" for _ in VOUCHER_COLUMNS))
    for voucher in item.vouchers:
        for row in voucher_rows(voucher):
            yield (*name, *row)
            name = ("", "")


def _show_repaired(
    report: repair.RetryReport, named: list[repair.Repaired], *, as_json: bool
) -> None:
    open_still = report.count("parked") + report.count("waiting")
    if as_json:
        show_json(report)
    elif not report.operations:
        stand = "".join(f"; {each.operation_id} is {each.status}" for each in named)
        out().print(f"nothing is parked that could be tried{stand}", markup=False)
    else:
        statuses = ("vouchered", "non_posting", "parked", "waiting")
        counts = ", ".join(f"{report.count(status):,} {status}" for status in statuses)
        orders = ", ".join(f"{position:,}" for position in report.orders) or "none"
        out().print(f"tried {len(report.operations):,}: {counts} (orders at {orders})")
        for line in _closer(report.operations):
            out().print(f"  {line}", markup=False)
    if not report.performed:
        say("no consumer performed the order in time; it stays in the log and will be performed")
        raise typer.Exit(ExitCode.UNAVAILABLE)
    if open_still:
        raise typer.Exit(ExitCode.NO)


def _closer(operations: Iterable[repair.Repaired]) -> Iterator[str]:
    """Say why some are open still, and which are dated into another day than their own."""
    reasons: Counter[str] = Counter()
    dated: Counter[str] = Counter()
    for each in operations:
        if each.reason is not None:
            reasons[each.reason] += 1
        elif each.detail is not None:
            dated[each.detail] += 1
    yield from (f"still open: {count:,} {why}" for why, count in reasons.most_common())
    yield from (f"{count:,} {how}" for how, count in dated.most_common())


@repair_app.command("set-asides")
def list_set_asides(ctx: typer.Context, as_json: Json = False) -> None:
    """List the messages that were set aside; with `--json` their raw bytes in base64.

    \b
    Example:
      daybook repair set-asides --json
    """
    settings = settings_in_use(ctx)
    found: list[SetAsideMessage] = []
    cursor: str | None = None
    with database(settings) as url, connect_to(url) as conn:
        while True:
            page = select_set_asides(conn, cursor=cursor, limit=repair.PAGE)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        show_json(found)
    else:
        _show_set_asides(found)


def _show_set_asides(messages: Iterable[SetAsideMessage]) -> None:
    show_table(
        ["position", "topic", "partition", "offset", "bytes", "begins (base64)", "reason", "by"],
        [
            (
                message.position,
                message.topic,
                message.partition,
                message.at_offset,
                f"{message.raw_bytes:,}",
                base64_of(message.raw),
                message.reason,
                message.maker,
            )
            for message in messages
        ],
        right=("position", "partition", "offset", "bytes"),
        title="Messages set aside",
    )


def wanted_of(
    reason: str | None,
    kind: str | None,
    from_date: dt.datetime | None,
    to_date: dt.datetime | None,
    account: str | None,
    operation_ids: list[str] | None = None,
) -> ParkedFilter:
    """Make the filter that options mean; what cannot be meant is wrong usage."""
    try:
        return ParkedFilter(
            reason=reason,
            business_type=kind,
            from_date=None if from_date is None else from_date.date().isoformat(),
            to_date=None if to_date is None else to_date.date().isoformat(),
            account=account,
            operation_ids=tuple(operation_ids) if operation_ids else None,
        )
    except InvalidRequest as error:
        raise typer.BadParameter(error.detail) from error
