"""The sweep names each missing, doubled or differing operation and heals the missing ones."""

from __future__ import annotations

from typing import Any

import pytest

from consumers.completeness import SweepReport, heal, sweep
from consumers.results import resend_results
from ledger.statuses import apply_results_in_tx
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log
from tests.consumers.test_outcomes import identity_of
from tests.consumers.written_log import WrittenLog


def swept(database_url: str) -> SweepReport:
    """Compare everything."""
    with connect_to(database_url) as conn:
        return sweep(conn)


def broken(database_url: str, *statements: str) -> None:
    """Change the books behind the consumers' back."""
    with connect_to(database_url) as conn:
        for table in ("vouchers", "voucher_lines"):
            conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for statement in statements:
            conn.execute(statement)


def two_recharges(database_url: str) -> None:
    """Operations `one` at position 4 and `two` at position 6, consumed."""
    written = WrittenLog(database_url)
    written.publish()
    written.commit(written.recharge("one"), written.recharge("two"))
    consume_log(database_url)


def test_complete_books_have_no_difference(database_url: str) -> None:
    two_recharges(database_url)

    report = swept(database_url)

    assert report.is_complete
    assert report.operations == 2


def test_a_missing_operation_is_named_and_healed_by_the_live_handler(database_url: str) -> None:
    two_recharges(database_url)
    before = books(database_url)
    broken(
        database_url,
        "DELETE FROM vouchers WHERE position = 4",
        "DELETE FROM voucher_lines WHERE position = 4",
        "DELETE FROM outcomes WHERE position = 4",
        "UPDATE outcome_totals SET count = count - 1, amount_minor = amount_minor - 10000",
        "UPDATE gl_balances SET debit_minor = debit_minor / 2, credit_minor = credit_minor / 2",
        "UPDATE account_balances_daily SET credit_minor = credit_minor - 10000",
    )
    assert not identity_of(database_url).holds

    report = swept(database_url)
    (missing,) = report.differences
    assert (missing.kind, missing.position, missing.operation_id) == ("missing", 4, "one")
    with connect_to(database_url) as conn:
        healed = heal(conn, report, deliver_in_tx=apply_results_in_tx)

    assert healed.is_complete
    assert identity_of(database_url).holds
    assert books(database_url) == before


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("UPDATE outcomes SET amounts = '{\"CNY\":1}'", "differing", "the log says"),
        ("UPDATE outcomes SET operation_id = 'x' WHERE position = 4", "differing", "main/x"),
        (
            "UPDATE outcomes SET status = 'parked', reason = 'no_rule'",
            "doubled",
            "parked, and has vouchers",
        ),
        ("DELETE FROM voucher_lines", "unposted", "has no voucher"),
        ("UPDATE voucher_lines SET amount_minor = 3", "differing", "account lines"),
        ("UPDATE voucher_lines SET currency = 'EUR'", "differing", "account lines"),
        ("UPDATE outcomes SET position = 5 WHERE position = 4", "missing", "no outcome"),
    ],
)
def test_each_way_to_differ_is_named(
    database_url: str, statement: str, kind: str, words: str
) -> None:
    two_recharges(database_url)
    broken(database_url, statement)

    first = swept(database_url).differences[0]

    assert (first.kind, first.position) == (kind, 4)
    assert words in first.detail


def test_a_lost_result_is_sent_again(database_url: str) -> None:
    two_recharges(database_url)
    with connect_to(database_url) as conn:
        conn.execute("DELETE FROM ledger.accounting_statuses WHERE operation_id = 'one'")

        def sent() -> Any:
            return resend_results(conn, deliver_in_tx=apply_results_in_tx)

        assert sent() == 1
        assert sent() == 0
        found = conn.execute("SELECT operation_id, status FROM ledger.accounting_statuses")
        assert sorted(found) == [("one", "vouchered"), ("two", "vouchered")]
