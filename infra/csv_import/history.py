"""Order a whole file for posting and turn rows into the ledger's requests. Pure.

Invariant: rows come by business date, then account, then the order in which the day's
stated balances chain; so every account's dates never go back, in any prefix of the list.
Requests are a function of the row and the map alone: repeated, they are the same requests.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from infra.csv_import.column_map import ColumnMap
from infra.csv_import.day_order import UNEXPLAINED, Move, chain_weight, chaining_order
from infra.csv_import.rows import HistoryRow
from ledger.events import OrderNumbers
from ledger.operation import Leg, OpenAccount, Operation

AccountDay = tuple[dt.date, str]


@dataclass(frozen=True)
class History:
    """All rows in posting order, and how many account-days chain how."""

    rows: tuple[HistoryRow, ...]
    days: int
    days_reordered: int
    days_off_by_rounding: int
    days_broken: int


def order_history(rows: Iterable[HistoryRow], rounding_minor: int) -> History:
    """Return the rows in posting order. Balances are taken to start at zero.

    Where an account's first day cannot start at zero, it may start anywhere.
    """
    by_day: dict[AccountDay, list[HistoryRow]] = defaultdict(list)
    for row in rows:
        by_day[row.business_date, row.account].append(row)
    ordered: list[HistoryRow] = []
    closing: dict[str, int] = {}
    weights: list[int] = []
    reordered = 0
    for day in sorted(by_day):
        in_file_order = by_day[day]
        start = closing.get(day[1])
        in_order, weight = _order_day(start, in_file_order, rounding_minor)
        ordered.extend(in_order)
        weights.append(weight)
        reordered += in_order != in_file_order
        closing[day[1]] = in_order[-1].stated_minor or 0
    return History(
        rows=tuple(ordered),
        days=len(by_day),
        days_reordered=reordered,
        days_off_by_rounding=sum(0 < weight < UNEXPLAINED for weight in weights),
        days_broken=sum(weight >= UNEXPLAINED for weight in weights),
    )


def _order_day(
    start_minor: int | None, rows: list[HistoryRow], rounding_minor: int
) -> tuple[list[HistoryRow], int]:
    stated = [row.stated_minor for row in rows if row.stated_minor is not None]
    if len(stated) < len(rows):  # the file states no balances: nothing to chain
        return rows, 0
    moves = [Move(row.signed_minor, balance) for row, balance in zip(rows, stated, strict=True)]
    start = start_minor or 0
    order = chaining_order(start, moves, rounding_minor)
    weight = chain_weight(start, moves, order, rounding_minor)
    if start_minor is None and weight >= UNEXPLAINED:
        order = chaining_order(None, moves, rounding_minor)
        weight = chain_weight(None, moves, order, rounding_minor)
    return [rows[index] for index in order], weight


def operation_of(row: HistoryRow, column_map: ColumnMap) -> Operation:
    """Return the operation that books this row, with an id made from its reference."""
    leg = Leg(row.side, row.account, row.amount_minor, column_map.amount.currency)
    return Operation(
        business_type=row.business_type,
        legs=(leg,),
        operation_id=f"import:{column_map.source.name}:{row.reference}",
        orders=OrderNumbers(channel=(row.reference,)),
        value_date=row.value_date,
        business_date=row.business_date,
        description=row.description,
    )


def accounts_of(
    rows: Sequence[HistoryRow], column_map: ColumnMap, owners: Mapping[str, str]
) -> list[OpenAccount]:
    """Return one request a new account needs, dated at its first row (rows in order)."""
    first_rows: dict[str, HistoryRow] = {}
    for row in rows:
        first_rows.setdefault(row.account, row)
    template = column_map.account
    limit = None if template.credit_limit == "unlimited" else template.credit_limit
    return [
        OpenAccount(
            operation_id=f"import:{column_map.source.name}:open:{account}",
            account=account,
            owner=owners.get(row.source_account, account),
            type=template.type,
            subject=template.subject,
            currency=column_map.amount.currency,
            normal_side=template.normal_side,
            credit_limit_minor=limit,
            business_date=row.business_date,
        )
        for account, row in sorted(first_rows.items())
    ]
