"""The model against the system at rest: balances, answers, statuses, trial balance; then the audit.

Invariant: what is compared is read from the running system; the first differences are named.
"""

from __future__ import annotations

from typing import Any

import psycopg

from infra import audit
from infra.client import DaybookClient
from projections.tables import connect_to
from tests.faults.nothing_lost import wait_for_books
from tests.soak.model import BOOKED, NON_POSTING, PARKED, VOUCHERED, WAITING, Model

SHOWN_MAX = 5
# An account with stripes is one; on which part something is booked, its version tells.
SELECT_HEADS = """
    SELECT CASE type WHEN 'stripe' THEN parent ELSE number END AS account, sum(balance), sum(held),
           CASE WHEN bool_or(stripes_opened IS NOT NULL) THEN 0 ELSE max(version) END,
           bool_or(whole_freezes > 0)
    FROM ledger.accounts WHERE book_id = 'main' GROUP BY account ORDER BY account
"""
# What the engine books by itself to bring money home from stripes.
GATHERING = "daybook:gather:"
SELECT_STATUSES = """
    SELECT o.operation_id, o.status, s.status, o.reason FROM projections.outcomes o
    LEFT JOIN ledger.accounting_statuses s USING (book_id, operation_id)
    WHERE o.book_id = 'main'
"""


class Differs(AssertionError):
    """The system and the model do not agree; the text names the first differences."""


def compare(client: DaybookClient, database_url: str, model: Model) -> None:
    """Wait until the books have caught up, then compare everything. Raises `Differs`."""
    wait_for_books(database_url)
    with connect_to(database_url) as conn:
        heads = {row[0]: row[1:] for row in conn.execute(SELECT_HEADS)}
        outcomes = {row[0]: row[1:] for row in conn.execute(SELECT_STATUSES)}
    _same("accounts", _expected_heads(model), heads)
    _same("striped accounts", *_striped(client, model))
    gathered = {name for name in outcomes if name.startswith(GATHERING)}
    if {outcomes.pop(name)[0] for name in gathered} - {NON_POSTING}:
        raise Differs("what was only gathered is in the books")
    expected = {
        name: (each.status, each.status, each.reason if each.status == PARKED else None)
        for name, each in model.booked.items()
    }
    found = {
        name: (status, told, reason if status == PARKED else None)
        for name, (status, told, reason) in outcomes.items()
    }
    _same("statuses", expected, found)
    _same("trial balance by day", _expected_days(model), _days(client))
    _same("trial balance", _expected_subjects(model), _subjects(client))
    _same("identity", _expected_counts(model, len(gathered)), _counts(client))


def assert_audited(database_url: str) -> None:
    """One verdict over everything. Raises `Differs`."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        verdict = audit.verify(conn)
    if not verdict.passed:
        raise Differs(f"the audit did not pass: {verdict.difference}")


def _same(what: str, expected: dict[Any, Any], found: dict[Any, Any]) -> None:
    keys = sorted(expected.keys() | found.keys())
    wrong = [key for key in keys if expected.get(key) != found.get(key)]
    if wrong:
        shown = "; ".join(
            f"{key}: model {expected.get(key)}, system {found.get(key)}"
            for key in wrong[:SHOWN_MAX]
        )
        raise Differs(f"{what}: {len(wrong)} differ: {shown}")


def _expected_heads(model: Model) -> dict[str, tuple[int, int, int, bool]]:
    return {
        number: (
            account.balance,
            account.held,
            0 if account.striped else account.version,
            account.frozen,
        )
        for number, account in model.accounts.items()
        if not number.startswith("SUSPENSE-") or account.version > 1
    }


def _striped(client: DaybookClient, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the model and the reads by account say of those that ever got stripes."""
    expected: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for number, account in model.accounts.items():
        if account.striped:
            path = f"/v1/accounts/{number}"
            state, days = client.get(path), list(client.pages(f"{path}/days"))
            expected[number] = (account.balance, account.available, account.balance, 0)
            closing = days[-1]["closing"] if days else 0
            net = sum(day["credit"] - day["debit"] for day in days)
            found[number] = (state["balance"], state["available"], closing, closing - net)
    return expected, found


def _expected_days(model: Model) -> dict[tuple[str, str], tuple[int, int]]:
    return {key: (debit, credit) for key, (debit, credit) in model.gl.items() if debit or credit}


def _days(client: DaybookClient) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (day["subject"], day["accounting_date"]): (day["debit"], day["credit"])
        for day in client.get("/v1/gl-balances")["data"]
        if day["debit"] or day["credit"]
    }


def _expected_subjects(model: Model) -> dict[str, tuple[int, int]]:
    sums: dict[str, tuple[int, int]] = {}
    for (subject, _), (debit, credit) in model.gl.items():
        before = sums.get(subject, (0, 0))
        sums[subject] = (before[0] + debit, before[1] + credit)
    return {subject: pair for subject, pair in sums.items() if any(pair)}


def _subjects(client: DaybookClient) -> dict[str, tuple[int, int]]:
    """The trial balance's leaves: what the model keeps. The sheet itself must tie."""
    sheet = client.get("/v1/trial-balance")["data"]
    if not all(total["ties"] for total in sheet["totals"]):
        raise Differs(f"the trial balance does not tie: {sheet['totals']}")
    lines = {line["subject"]: line["columns"] for line in sheet["lines"] if not line["is_total"]}
    leaves = {subject for subject in lines if not any(o.startswith(f"{subject}.") for o in lines)}
    return {
        subject: (lines[subject]["debit"], lines[subject]["credit"])
        for subject in leaves
        if lines[subject]["debit"] or lines[subject]["credit"]
    }


def _expected_counts(model: Model, gathered: int) -> dict[str, int]:
    counts = dict.fromkeys((VOUCHERED, PARKED, WAITING, NON_POSTING), 0)
    for each in model.booked.values():
        counts[each.status] += 1
    counts[NON_POSTING] += gathered
    return {**counts, BOOKED: len(model.booked) + gathered}


def _counts(client: DaybookClient) -> dict[str, int]:
    identity = client.get("/v1/identity")["data"]
    if not identity["holds"]:
        raise Differs(f"the identity does not hold: {identity}")
    names = (VOUCHERED, PARKED, WAITING, NON_POSTING, BOOKED)
    return {name: sum(line[name]["count"] for line in identity["currencies"]) for name in names}
