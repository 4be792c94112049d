"""`python -m bench`: run the benchmarks in turn, print their tables, write the JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench import (
    audit,
    books,
    drain,
    everything,
    flash_sale,
    history,
    hot,
    http_batch,
    http_mixes,
    http_single,
    overload,
    rebuild,
    size,
    sweep,
    visible,
    write_path,
)
from bench.machine import machine_description
from bench.place import Place, Run
from bench.scale import FULL, LARGE_EVENTS, QUICK
from bench.sheet import Sheet
from infra.settings import load_settings

BENCHMARKS: dict[str, Callable[[Run], None]] = {
    "write": write_path.run,
    "http": http_single.run,
    "http-batch": http_batch.run,
    "http-mixes": http_mixes.run,
    "hot": hot.run,
    "flash-sale": flash_sale.run,
    "overload": overload.run,
    "books": books.run_on_log,
    "books-kafka": books.run_on_kafka,
    "visible": visible.run,
    "everything": everything.run,
    "drain": drain.run,
    "audit": audit.run,
    "sweep": sweep.run,
    "rebuild": rebuild.run,
    "size": size.run,
    "import": history.run,
}
# What a quick run leaves out, to stay under three minutes on a slow machine; `--only` runs it.
FULL_ONLY = frozenset(
    {
        "hot",
        "flash-sale",
        "overload",
        "books-kafka",
        "visible",
        "everything",
        "drain",
        "audit",
        "sweep",
        "rebuild",
        "import",
    }
)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option(help="Smaller and shorter: under three minutes.")] = False,
    large: Annotated[
        bool, typer.Option(help="`size` also with 100 million events: an hour and 100 GB.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(BENCHMARKS)}; may be repeated.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Where the figures go; default in .daybook/bench.")
    ] = None,
) -> None:
    """Measure Daybook on this machine: each figure a median, each beside its baseline."""
    names = only or [name for name in BENCHMARKS if not (quick and name in FULL_ONLY)]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise typer.BadParameter(f"no benchmark {', '.join(unknown)}: {', '.join(BENCHMARKS)}")
    console = Console(width=None if Console().is_terminal else 140)
    folder = load_settings().home / "bench"
    scale = QUICK if quick else FULL
    if large:
        scale = replace(scale, size_events=(*scale.size_events, LARGE_EVENTS))
    sheet = Sheet()
    started = time.monotonic()
    with Place(folder) as place:
        machine = machine_description(place.url, place.folder)
        if not quick:
            files = place.make_wal_files()
            machine["WAL files"] = f"{files} there before, as on a server that has run for a day"
        _print_machine(console, machine)
        for name in names:
            before = sheet.sizes()
            began = time.monotonic()
            BENCHMARKS[name](Run(place, scale, sheet))
            console.print(f"[dim]{name}: {time.monotonic() - began:.0f} s[/dim]")
            for title, size in sheet.sizes().items():
                if size != before.get(title):
                    sheet.print(console, title)
    sheet.print_aims(console)
    elapsed_s = time.monotonic() - started
    path = json_file or folder / f"{scale.name}.json"
    document = {
        "scale": scale.name,
        "rounds": scale.rounds,
        "elapsed_s": round(elapsed_s),
        "machine": machine,
        **sheet.document(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    console.print(f"{scale.rounds} rounds in {elapsed_s:.0f} s; all runs: {path}")


def _print_machine(console: Console, machine: dict[str, str]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in machine.items():
        table.add_row(f"[dim]{name}[/dim]", value)
    console.print(table)
    console.print()


if __name__ == "__main__":
    app()
