"""`daybook set-aside`: pass over the message before which a lane stands, keeping its raw bytes.

Invariant: only what the consumers cannot read is passed over, by a decision of the principal of a
key; what of it was the ledger's own is read from the log instead.
"""

from __future__ import annotations

from typing import Annotated

import typer

from consumers.set_aside import (
    Place,
    Standing,
    moves_on,
    read_unreadable,
    select_standing,
    set_message_aside,
)
from infra.cli.console import Json, say, show_json, show_pairs
from infra.cli.context import database, settings_in_use
from infra.cli.exit_codes import ExitCode
from infra.cli.repair_principal import Key, principal_of
from infra.cli.repair_words import base64_of
from infra.decision_log import decision_log
from projections.tables import connect_to

MOVES_WITHIN_S = 15.0


def add_to(app: typer.Typer) -> None:
    """Add this page's command."""
    app.command("set-aside")(set_aside_command)


def set_aside_command(
    ctx: typer.Context,
    reason: Annotated[str, typer.Option(help="Why; kept in the log.")],
    lane: Annotated[
        int | None, typer.Argument(help="The lane that stands; default: the only one.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Topic of the message, or `log`: with the two below.")
    ] = None,
    partition: Annotated[int | None, typer.Option(help="Its partition; 0 in the log.")] = None,
    offset: Annotated[int | None, typer.Option(help="Its offset; in the log its position.")] = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Set aside the undecodable or foreign message before which a lane stands; safe to repeat.

    `daybook status` names the place. The decision keeps the raw bytes (`daybook repair
    set-asides`); a message that can be read is refused. Needs a key with scope `repair` for
    every book.

    \b
    Examples:
      daybook set-aside --reason "somebody's test message"
      daybook set-aside 2 --reason "truncated by a broken disk"
      daybook set-aside --topic ledger.operations --partition 2 --offset 17 --reason foreign
    """
    if not reason.strip():
        raise typer.BadParameter("--reason is kept in the log: say why")
    settings = settings_in_use(ctx)
    with database(settings) as url, connect_to(url) as conn:
        maker = principal_of(conn, settings, key, "repair")
        maker.require_every_book()
        place = _place(select_standing(conn), lane, (topic, partition, offset))
        raw = read_unreadable(conn, place, bootstrap=settings.kafka_bootstrap)
        with decision_log(url) as decisions:
            position = set_message_aside(
                decisions, raw, place=place, reason=reason, maker=maker.name
            )
        moved = moves_on(conn, place, MOVES_WITHIN_S)
    if as_json:
        show_json({**place._asdict(), "position": position, "bytes": len(raw), "moved_on": moved})
        return
    decided = "it was set aside before" if position is None else f"position {position:,}"
    show_pairs(
        [
            ("message", f"{place.topic}/{place.partition}/{place.at_offset}"),
            ("bytes", f"{len(raw):,}, beginning with {base64_of(raw)} (base64)"),
            ("decision", decided),
        ]
    )
    say("the lane has moved on" if moved else "no consumer has moved on yet; a running one will")


def _place(
    standing: list[Standing], lane: int | None, given: tuple[str | None, int | None, int | None]
) -> Place:
    """Return the place that is meant; ends the command when nothing stands.

    Raises `BadParameter` when that is not one message.
    """
    topic, partition, offset = given
    if topic is not None and partition is not None and offset is not None:
        return Place(topic, partition, offset)
    if given != (None, None, None):
        raise typer.BadParameter("name --topic, --partition and --offset, or none of them")
    meant = [each for each in standing if lane is None or each.lane == lane]
    if not meant:
        say("no lane stands" if lane is None else f"lane {lane} does not stand")
        raise typer.Exit(ExitCode.OK)
    if len(meant) > 1:
        lanes = ", ".join(f"{each.lane} ({each.stopped})" for each in meant)
        raise typer.BadParameter(f"name one of the lanes that stand: {lanes}")
    if meant[0].place is None:
        raise typer.BadParameter(f"lane {meant[0].lane} stands for no message: {meant[0].stopped}")
    return meant[0].place
