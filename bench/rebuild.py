"""How fast the books are made again: beside each other in processes, and in log order by one.

The live books have followed a log whose last tenth are refunds of the tenth before, so far apart
that they are in other stretches. Each round rebuilds the books both ways and compares them row for
row; beside it stands what the server alone takes for those rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from bench.documents import Documents
from bench.in_process import engine_s
from bench.place import Run, catch_up, engine_on, parser
from bench.rebuild_ceiling import rebuild_ceiling_s
from bench.scale import ROUNDS_LEAST
from bench.sheet import Aim
from consumers.rebuild import RebuildReport, rebuild
from consumers.stretch_processes import processes_default

REBUILD = "Rebuild: the books of recharges with a fee, of transfers, of a refund of each transfer"
RATE, SECONDS, COMPARING = "operations/s", "seconds", "then compared, s"
OF_CEILING = "ratio to COPY"
BESIDE = f"{processes_default()} processes beside each other"
IN_ORDER = "one process in log order"
CEILING = "COPY of its rows, then their indexes"
OPERATIONS = {"quick": 40_000, "full": 240_000}
REFUNDED_IN = 10
BATCH = 8_000
NOTHING: Mapping[str, float] = {}


def run(run: Run) -> None:
    """Rebuild the same books both ways once a round, in turns."""
    url = run.place.caught_up_database("rebuild")
    operations = OPERATIONS[run.scale.name]
    documents = Documents(seed=7_000)
    transfers = documents.transfers(operations // REFUNDED_IN)
    recharges = documents.recharges_with_fee(operations - 2 * len(transfers))
    with engine_on(url) as engine:
        for part in (recharges, transfers, list(_refunds(transfers))):
            engine_s(engine, parser(), part, BATCH)
    catch_up(url)
    for _ in range(ROUNDS_LEAST):
        _add(run, IN_ORDER, rebuild(url, swap=False, compare=False, processes=0))
        report = rebuild(url, swap=False)
        ceiling_s = rebuild_ceiling_s(url)
        run.sheet.add(REBUILD, CEILING, {RATE: report.operations / ceiling_s, SECONDS: ceiling_s})
        _add(run, BESIDE, report, {OF_CEILING: ceiling_s / report.fill_seconds})
    run.sheet.note(REBUILD, "Nothing is posted meanwhile; processes and server share the machine.")
    run.sheet.aim(Aim("rebuild: operations/s", REBUILD, BESIDE, RATE, at_least=50_000))


def _add(
    run: Run, subject: str, report: RebuildReport, more: Mapping[str, float] = NOTHING
) -> None:
    if report.difference is not None:
        raise RuntimeError(f"the rebuilt books differ: {report.difference}")
    values = {RATE: report.operations_per_s, SECONDS: report.fill_seconds}
    if report.compared:
        values[COMPARING] = report.seconds - report.fill_seconds
    run.sheet.add(REBUILD, subject, {**values, **more})


def _refunds(transfers: list[bytes]) -> Iterator[bytes]:
    """Give every transfer back whole."""
    for transfer in transfers:
        original = json.loads(transfer)
        source, target = original["legs"]
        legs = [{**target, "kind": "debit"}, {**source, "kind": "credit"}]
        refund = {
            "operation_id": f"refund-{original['operation_id']}",
            "business_type": "refund",
            "original_operation_id": original["operation_id"],
            "legs": legs,
        }
        yield json.dumps(refund).encode()
