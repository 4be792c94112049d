"""Import of history from a bank's CSV file: read, validate, order, post, compare.

Invariant: the file is validated whole before the first posting, and every row's operation
id is a function of its reference, so a killed import resumes and a second one books nothing.
"""

from infra.csv_import.column_map import ColumnMap, ColumnMapRefused
from infra.csv_import.csv_import import import_csv
from infra.csv_import.http_client import HttpLedgerClient
from infra.csv_import.ledger_client import LedgerClient, LedgerRefused, LedgerUnreachable
from infra.csv_import.report import ImportReport
from infra.csv_import.row_errors import CsvRefused, CsvRowError, RowErrorCode

__all__ = [
    "ColumnMap",
    "ColumnMapRefused",
    "CsvRefused",
    "CsvRowError",
    "HttpLedgerClient",
    "ImportReport",
    "LedgerClient",
    "LedgerRefused",
    "LedgerUnreachable",
    "RowErrorCode",
    "import_csv",
]
