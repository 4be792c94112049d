"""What the whole audit says: of the story, a cut log, a rewritten one, and while posting."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg import Connection, IsolationLevel

from accounting.ruleset_files import shipped_ruleset
from infra import audit
from infra.audit import Digest
from ledger import operation as op
from ledger.audit import Difference, DigestUnreadable, digest_from_line
from ledger.codec import Row
from ledger.log import Log
from tests.audit import story
from tests.consumers.caught_up import consume_log
from tests.ledger import builders as b
from tests.ledger.booking import running_ledger


def test_the_audit_writes_nothing_and_names_what_it_has_checked(story_url: str) -> None:
    with psycopg.connect(story_url) as conn:
        verdict = audit.verify(conn)
        assert verdict.passed
        assert verdict.notes == ()
        for check in ("seal chain", "account balances", "heads", "books", "identity"):
            assert check in verdict.checks
        row = conn.execute("SHOW transaction_read_only").fetchone()
    assert row == ("off",)


def test_two_processes_give_the_verdict_of_one(story_url: str, digest: Digest) -> None:
    with psycopg.connect(story_url) as conn:
        one = audit.verify(conn, digest=digest, parallel=False)
        two = audit.verify(conn, digest=digest, parallel=True)
    assert one.passed
    assert two == one


@pytest.mark.parametrize(
    ("table", "column"),
    [("projections.voucher_lines", "amount_minor"), ("ledger.accounts", "reserve")],
)
def test_two_processes_name_the_row_as_one_does(database_url: str, table: str, column: str) -> None:
    story.tell(database_url)
    with psycopg.connect(database_url) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(
            f"UPDATE {table} SET {column} = {column} + 1 "
            f"WHERE ctid = (SELECT min(ctid) FROM {table})".encode()
        )
        conn.commit()
        one = audit.verify(conn, parallel=False)
        two = audit.verify(conn, parallel=True)
    assert one.difference is not None
    assert (one.difference.table, one.difference.column) == (table, column)
    assert two.difference == one.difference


def test_progress_counts_every_event_once(story_url: str) -> None:
    seen: list[tuple[int, int]] = []
    with psycopg.connect(story_url) as conn:
        verdict = audit.verify(conn, on_progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (verdict.events, verdict.events)


def cut_off(conn: Connection[Any], keep: int) -> None:
    """Take the end of the log away, rows and seals, as if it had never been."""
    conn.execute("DELETE FROM ledger.stored_events WHERE notification_id > %s", (keep,))
    conn.execute("DELETE FROM ledger.seals WHERE first_id > %s", (keep,))


def test_a_cut_off_end_is_found_against_a_digest_kept_outside(database_url: str) -> None:
    # given a log whose last commit left no trace but rows and a seal: a rejected operation
    with running_ledger(database_url) as ledger:
        ledger.open("C-1")
        before = _digest(database_url)
        ledger.answer(b.post("transfer", b.debit("C-1", 1)))
    digest = _digest(database_url)
    # when it is taken away
    with psycopg.connect(database_url) as conn:
        conn.isolation_level = IsolationLevel.REPEATABLE_READ
        conn.execute("SET LOCAL session_replication_role = replica")
        cut_off(conn, before.last_id)
        # then inside the database nothing is missing, but the digest knows better
        assert audit.verify_in_tx(conn).passed
        found = audit.verify_in_tx(conn, digest=digest).difference
        conn.rollback()
    assert found == Difference(
        "digest kept outside",
        "ledger.stored_events",
        {"notification_id": before.last_id + 1},
        "*",
        digest.last_id,
        before.last_id,
    )


def test_a_log_written_anew_is_found_against_a_digest_kept_outside(database_url: str) -> None:
    # given a log of one commit, and its digest
    with running_ledger(database_url):
        digest = _digest(database_url)
    # when somebody writes the same row again under another instant, with a chain that fits
    with psycopg.connect(database_url) as conn, conn.cursor() as cursor:
        conn.isolation_level = IsolationLevel.REPEATABLE_READ
        conn.execute("SET LOCAL session_replication_role = replica")
        row = conn.execute(
            "SELECT uuid_send(originator_id), originator_version, topic, state "
            "FROM ledger.stored_events"
        ).fetchone()
        assert row is not None
        stream, version, topic, state = row
        old = digest.booked_at.encode()
        new = b"2020" + old[4:]
        cut_off(conn, 0)
        log = Log()
        end = log.lock_log_in_tx(cursor, b.BOOK)
        log.append_in_tx(
            cursor,
            [_row(stream, version, topic, state.replace(old, new))],
            end=end,
            book_id=b.BOOK,
            booked_at=new.decode(),
            totals={},
        )
        # then the chain fits, but not the digest
        assert audit.verify_in_tx(conn).passed
        found = audit.verify_in_tx(conn, digest=digest).difference
        conn.rollback()
    assert found is not None
    assert (found.check, found.table) == ("digest kept outside", "ledger.seals")


def test_a_digest_is_one_line_that_notices_a_slip_of_the_pen(story_url: str) -> None:
    digest = _digest(story_url)
    line = digest.line()
    assert "\n" not in line
    assert digest_from_line(line) == digest
    with pytest.raises(DigestUnreadable):
        digest_from_line(line.replace(f'"last_id":{digest.last_id}', '"last_id":1'))
    with pytest.raises(DigestUnreadable):
        digest_from_line("not a digest")


def test_a_digest_of_another_log_is_refused(database_url: str, digest: Digest) -> None:
    # given a log of its own identity (a copied database has the same one)
    with running_ledger(database_url), psycopg.connect(database_url) as conn:
        conn.execute("UPDATE ledger.log SET log_id = gen_random_uuid()")
        conn.commit()
        found = audit.verify(conn, digest=digest).difference
    assert found is not None
    assert (found.table, found.column) == ("ledger.log", "log_id")


def test_an_empty_log_passes(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        verdict = audit.verify(conn, digest=audit.digest(conn))
    assert verdict.passed
    assert verdict.events == 0


def test_books_that_lag_behind_the_log_are_compared_up_to_their_position(
    database_url: str,
) -> None:
    with running_ledger(database_url) as ledger:
        story.publish(database_url, shipped_ruleset())
        ledger.open("C-1", "C-2")
        ledger.answer(b.post("recharge", b.credit("C-1", 500)))
        consume_log(database_url)
        # given operations that no consumer has seen
        ledger.answer(b.post("transfer", b.debit("C-1", 7), b.credit("C-2", 7)))
        with psycopg.connect(database_url) as conn:
            verdict = audit.verify(conn)
    assert verdict.difference is None


def test_suspense_that_is_a_day_ahead_of_an_inflow_passes(database_url: str) -> None:
    with running_ledger(database_url) as ledger:
        ledger.answer(b.post("recharge", b.credit("NOBODY", 5)))
        # given history that was imported into suspense with a later date
        later = {"business_date": "2026-02-01", "value_date": "2026-02-01"}
        ledger.answer(b.post("history_credit", b.credit("SUSPENSE-CNY", 1), **later))
        answer = ledger.answer(b.post("recharge", b.credit("NOBODY", 5)))
        with psycopg.connect(database_url) as conn:
            verdict = audit.verify(conn)
    assert answer.status == "booked"
    assert verdict.difference is None


def test_an_inflow_for_a_suspense_account_that_is_blocked_passes(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such logs are there: a suspense account could be blocked once."""
    with running_ledger(database_url) as ledger:
        ledger.answer(b.post("recharge", b.credit("NOBODY", 5)))
        ledger.answer(b.post("suspense_clear", b.debit("SUSPENSE-CNY", 5)))
        monkeypatch.setattr("ledger.commands.SUSPENSE_PREFIX", "as it was then")
        ledger.answer(b.command("SUSPENSE-CNY", op.SetPaymentStatus(payment_status="blocked")))
        answer = ledger.answer(b.post("recharge", b.credit("SUSPENSE-CNY", 7)))
        with psycopg.connect(database_url) as conn:
            verdict = audit.verify(conn)
    assert answer.issues
    assert verdict.difference is None


def test_the_audit_passes_while_posting_and_posting_of_vouchers_go_on(database_url: str) -> None:
    stop = threading.Event()
    with running_ledger(database_url) as ledger:
        story.publish(database_url, shipped_ruleset())
        ledger.open("C-1", "C-2")
        ledger.answer(b.post("recharge", b.credit("C-1", 10**9)))

        def load() -> None:
            while not stop.is_set():
                ledger.post(
                    *(b.post("transfer", b.debit("C-1", 1), b.credit("C-2", 1)) for _ in range(20))
                )
                consume_log(database_url)

        poster = threading.Thread(target=load)
        poster.start()
        try:
            verdicts = []
            for _ in range(10):
                with psycopg.connect(database_url) as conn:
                    verdicts.append(audit.verify(conn))
        finally:
            stop.set()
            poster.join()
    assert [verdict.difference for verdict in verdicts] == [None] * 10


def _digest(database_url: str) -> Digest:
    with psycopg.connect(database_url) as conn:
        return audit.digest(conn)


def _row(stream: bytes, version: int, topic: str, state: bytes) -> Any:
    return Row(stream, version, topic.encode(), state)
