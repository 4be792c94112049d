"""Import of real history: the Czech bank's 49,102 rows through the API, with their own dates.

The file is validated whole, ordered, posted in NDJSON batches and compared with the bank's stated
balances, as `daybook import csv` does. The quick run takes the file's first rows.
"""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

from bench.place import PRINCIPAL, Run
from bench.processes import api_server
from infra.csv_import import ColumnMap, HttpLedgerClient, import_csv
from infra.csv_import.csv_import import plan_import
from infra.first_start import open_book_with_rules
from infra.settings import load_settings

IMPORT = "Import of the bank's file (validate, order, post over HTTP, compare)"
SECONDS, RATE = "seconds", "rows/s"


def run(run: Run) -> None:
    """Import into a book of its own once a round."""
    folder = load_settings().shared_data / "berka"
    if not (folder / "trans.asc").exists():
        run.sheet.note(IMPORT, f"skipped: there is no {folder / 'trans.asc'}")
        return
    file = _first_rows(folder, run.place.folder / "berka", run.scale.import_rows)
    shipped = ColumnMap.load("berka")
    url = run.place.database("import")
    with api_server(url, run.place.folder) as (api_url, _):
        for number in range(run.scale.rounds):
            chosen = shipped.for_book(f"berka-{number}")
            first_date = plan_import(file, chosen).history.rows[0].business_date
            book_id = chosen.source.book
            open_book_with_rules(url, book_id, "Imported", first_date, principal=PRINCIPAL.name)
            started = time.perf_counter()
            with HttpLedgerClient(api_url, key=run.place.key, book=book_id) as client:
                report = import_csv(file, chosen, client)
            seconds = time.perf_counter() - started
            rows = report.booked
            if report.refused or rows != len(report.history.rows):
                raise RuntimeError(
                    f"{rows} of {len(report.history.rows)} rows: {report.refused[:3]}"
                )
            values = {"rows": rows, SECONDS: seconds, RATE: rows / seconds}
            run.sheet.add(IMPORT, "Berka", values)


def _first_rows(source: Path, target: Path, rows: int) -> Path:
    """Copy the data set with the first rows of its movements, 0: all of them."""
    target.mkdir()
    for path in source.glob("*.asc"):
        (target / path.name).symlink_to(path.absolute())
    file = target / "trans.asc"
    if rows:
        file.unlink()
        with (source / "trans.asc").open("rb") as lines:
            file.write_bytes(b"".join(islice(lines, rows + 1)))
    return file
