"""Look up who owns an account in a second CSV beside the imported one (optional).

Invariant: with a look-up in the map, every row's account has exactly one owner there, or
the row is refused; without one, the account number stands for its owner.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from infra.csv_import.column_map import ColumnMap
from infra.csv_import.row_errors import CsvRowError, RowErrorCode
from infra.csv_import.rows import HistoryRow, read_dicts

OWNER_MAX = 64


def read_owners(path: Path, column_map: ColumnMap) -> tuple[dict[str, str], list[CsvRowError]]:
    """Return owner by the source's account number; `path` is the imported file."""
    lookup = column_map.owner
    if lookup is None:
        return {}, []
    owner_path = path.parent / lookup.file
    try:
        owners = {
            row[lookup.account].strip(): row[lookup.owner].strip()
            for row in read_dicts(owner_path, column_map)
            if all(row[name].strip() == value for name, value in lookup.where.items())
        }
    except (OSError, ValueError, csv.Error) as error:
        return {}, [_unreadable(owner_path, None, str(error))]
    except KeyError as error:
        return {}, [_unreadable(owner_path, str(error.args[0]), "the header has no such name")]
    return owners, []


def rows_without_owner(
    file: str, rows: Sequence[HistoryRow], owners: dict[str, str], column_map: ColumnMap
) -> list[CsvRowError]:
    """Return an error for each row whose account the look-up does not know."""
    if column_map.owner is None:
        return []
    column, looked_in = column_map.columns.account, column_map.owner.file
    return [
        CsvRowError(
            file,
            row.line,
            column,
            RowErrorCode.OWNER_UNKNOWN,
            f"account {row.source_account!r} has no owner of 1 to 64 characters in {looked_in}",
        )
        for row in rows
        if not 0 < len(owners.get(row.source_account, "")) <= OWNER_MAX
    ]


def _unreadable(path: Path, column: str | None, detail: str) -> CsvRowError:
    return CsvRowError(path.name, 0, column, RowErrorCode.OWNER_FILE_UNREADABLE, detail)
