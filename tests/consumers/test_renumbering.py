"""What is healed into a day that is cut takes its number there; later ones move, chunk by chunk."""

from __future__ import annotations

import pytest
from psycopg.errors import RestrictViolation

from accounting import periods
from accounting.decided import DayCut
from consumers.rebuild import rebuild
from projections import numbering
from projections.audit_numbers import check_numbers
from projections.tables import LIVE_SCHEMA, SHADOW_SCHEMA, connect_to
from tests.consumers.caught_up import books, consume_log, log_consumer, statuses
from tests.consumers.lossy_books import consume_losing
from tests.consumers.test_periods import (
    NEXT,
    a_day_without_payments,
    cut,
    open_next,
    repaired,
)
from tests.consumers.test_sweeps import healed
from tests.consumers.written_log import BOOK, WrittenLog


def test_what_is_healed_into_a_day_that_is_cut_is_numbered_there_and_it_is_said_what_moved(
    database_url: str,
) -> None:
    """A cut of the next day has numbered more: those numbers move on too."""
    written = a_day_without_payments(database_url)
    cut(database_url)
    written.publish()
    repaired(database_url, "p-1")
    written.commit(written.recharge("next", day=NEXT))
    open_next(database_url, "2026-02-03")
    consume_log(database_url)
    cut(database_url, NEXT)
    whole = books(database_url)
    consume_losing(database_url, ("r-1", "f-1"))

    report = healed(database_url)

    assert [(each.operation_id, each.kind, each.healed) for each in report.differences] == [
        ("r-1", "missing", True),
        ("f-1", "missing", True),
    ]
    assert "later vouchers" in report.differences[0].detail
    assert (report.found, report.healed, report.is_complete) == (2, 2, True)
    assert books(database_url) == whole
    with connect_to(database_url) as conn, pytest.raises(RestrictViolation):
        conn.execute("DELETE FROM voucher_numbers")


def three_cut_days(database_url: str) -> WrittenLog:
    """A repaired payment, and two days behind it; all are cut and numbered."""
    written = a_day_without_payments(database_url)
    cut(database_url)
    written.publish()
    repaired(database_url, "p-1")
    for number in range(5):
        written.commit(written.recharge(f"next-{number}", day=NEXT))
    open_next(database_url, "2026-02-03")
    consume_log(database_url)
    cut(database_url, NEXT)
    return written


class Died(Exception):
    """The sweep dies between two transactions."""


def test_numbers_are_taken_back_chunk_by_chunk_while_lanes_go_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it was one transaction that kept a lane's row: nothing was vouchered meanwhile."""
    monkeypatch.setattr(numbering, "CHUNK_VOUCHERS", 2)
    written = three_cut_days(database_url)
    whole = books(database_url)
    consume_losing(database_url, ("r-1",))
    assert books(database_url)["voucher_numbers"] != whole["voucher_numbers"]
    counts: list[int] = []

    def post_beside(point: str) -> None:
        if point == "taken_back":
            name = f"beside-{len(counts)}"
            written.commit(written.recharge(name, day="2026-02-03"))
            consume_log(database_url)  # also the consumer's look for cuts that are due
            assert statuses(database_url)[name] == ("vouchered", None)
            with connect_to(database_url) as conn:
                check_numbers(conn)
            counts.append(len(books(database_url)["voucher_numbers"]))

    report = healed(database_url, failpoint=post_beside)

    assert counts == [5, 3, 1, 0]
    assert "7 later vouchers" in report.differences[0].detail
    assert books(database_url)["voucher_numbers"] == whole["voucher_numbers"]
    assert rebuild(database_url, swap=False).difference is None


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_sweep_that_dies_among_numbers_leaves_a_cut_that_the_consumers_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    monkeypatch.setattr(numbering, "CHUNK_VOUCHERS", 2)
    three_cut_days(database_url)
    whole = books(database_url)
    consume_losing(database_url, ("r-1",))
    before = books(database_url)
    points: list[str] = []

    def die(point: str) -> None:
        points.append(point)
        if points.count("taken_back") == chunks:
            raise Died

    with pytest.raises(Died):
        healed(database_url, failpoint=die)
    assert books(database_url)["voucher_numbers"] != before["voucher_numbers"]
    consume_log(database_url)
    assert books(database_url) == before

    assert healed(database_url).healed == 1
    assert books(database_url) == whole


# Notes, for each statement that gives numbers, whether somebody has stopped the lanes meanwhile.
SPY = """
    CREATE TABLE IF NOT EXISTS public.numbered (place text, transaction xid8, lanes_stopped bigint);
    CREATE OR REPLACE FUNCTION public.spy() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.numbered
        SELECT TG_TABLE_SCHEMA, pg_current_xact_id(), count(*) FROM pg_locks
        WHERE relation = 'projections.positions'::regclass AND mode = 'RowShareLock'
          AND pid <> pg_backend_pid();
        RETURN NULL;
    END $$;
    CREATE TRIGGER spy AFTER INSERT ON {}.voucher_numbers
    FOR EACH STATEMENT EXECUTE FUNCTION public.spy();
"""
COUNT_NUMBERED = """
    SELECT count(DISTINCT transaction), coalesce(max(lanes_stopped), 0) FROM public.numbered
    WHERE place = %s
"""


@pytest.mark.parametrize("chunks_before", [1, 9])
def test_a_rebuild_numbers_what_was_cut_meanwhile_before_it_stops_the_lanes(
    database_url: str, monkeypatch: pytest.MonkeyPatch, chunks_before: int
) -> None:
    """A cut between filling and comparing was numbered whole under the lanes' lock, on both sides.

    The live consumer has given some of the numbers by then, or all.
    """
    monkeypatch.setattr(numbering, "CHUNK_VOUCHERS", 2)
    written = three_cut_days(database_url)
    for number in range(7):
        written.commit(written.recharge(f"more-{number}", day="2026-02-03"))
    open_next(database_url, "2026-02-04")
    consume_log(database_url)
    given = DayCut(BOOK, "2026-02-03", "2026-02-04", (), 0, (), "alice")

    def cut_meanwhile(point: str) -> None:
        if point == "filled":
            written.decide(lambda made: periods.cut_day(made, given, lambda _cursor: None))
            with log_consumer(database_url) as consumer:
                for _ in range(chunks_before):
                    consumer.step()
            with connect_to(database_url) as conn:
                for schema in (LIVE_SCHEMA, SHADOW_SCHEMA):
                    conn.execute(SPY.format(schema).encode())

    report = rebuild(database_url, swap=False, failpoint=cut_meanwhile)

    assert report.difference is None
    with connect_to(database_url) as conn:
        rest = 4 - chunks_before
        assert conn.execute(COUNT_NUMBERED, (LIVE_SCHEMA,)).fetchone() == (max(0, rest), 0)
        made, stopped = conn.execute(COUNT_NUMBERED, (SHADOW_SCHEMA,)).fetchone() or (0, 1)
    assert (made, stopped) == (1, 0)
